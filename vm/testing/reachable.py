"""All outcomes of a litmus test or scenario: for tests of one's own, and for `kstack explore --outcomes`."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from kstack.base.errors import ConfigError
from kstack.base.toml import read_toml
from kstack.explore.outcomes import Reached
from kstack.explore.outcomes import outcomes as search
from kstack.explore.problem import Bounds, Problem, Progress
from kstack.hw.modes import Modes
from kstack.kernels.kstack.litmus import SHARED
from kstack.kernels.kstack.pages import Litmus, Value
from kstack.kernels.scenario import FILE
from kstack.run.booted import BootedScenario
from kstack.stacks import Policy

POLICY: Final = "fixed-16k"
"""That asks nothing of a guest without stacks."""


@dataclass(frozen=True)
class Outcomes:
    """Which final values there are together.

    Attributes:
        names: of the final values.
        all: every outcome, by name, in a fixed order.
        complete: there are no others.
        states, moves: how many states were seen, and moves made.
        stuck: states from which no end can be reached.
        cut: which bound cut the search, or empty.
    """

    names: tuple[str, ...]
    all: tuple[Mapping[str, Value], ...]
    complete: bool
    states: int
    moves: int
    stuck: int
    cut: str

    def __iter__(self) -> Iterator[Mapping[str, Value]]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __contains__(self, wanted: object) -> bool:
        """Whether there is an outcome with these values, whatever the others are.

        Raises:
            ConfigError: there is no final value of that name.
        """
        if not isinstance(wanted, Mapping):
            return False
        for name in wanted:
            if name not in self.names:
                raise ConfigError(f"outcome {name!r} does not exist; there are {', '.join(map(repr, self.names))}")
        return any(all(one[name] == value for name, value in wanted.items()) for one in self.all)


class LitmusFile(msgspec.Struct, frozen=True, rename={"global_pages": "global"}):
    """A test as a file.

    Attributes:
        programs: one a CPU.
        init: `x` to a number, `pte x` to an entry.
        global_pages: (`global`) entries have G set.
    """

    programs: list[str]
    init: dict[str, int | str] = {}
    global_pages: bool = False


def read_test(path: Path) -> Litmus | None:
    """A test from a TOML file with the key `programs`; None if it has none, so that it is a scenario.

    Raises:
        ConfigError: it is wrong, or cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if "programs" not in table:
        return None
    found = read_toml(path, LitmusFile)
    try:
        return Litmus.of(found.programs, found.init, found.global_pages)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


class Guest:
    """A test's guest, written into a folder of its own and booted once, for any number of searches; closed by `with`.

    Args:
        test: the test.
    """

    def __init__(self, test: Litmus) -> None:
        self.test = test
        self._folder = tempfile.TemporaryDirectory(prefix="kstack-litmus-")
        self._toml = test.write(Path(self._folder.name))
        self._booted: BootedScenario | None = None
        self._visible: tuple[int, ...] = ()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def outcomes(
        self, modes: Modes = Modes(), bounds: Bounds = Bounds(), progress: Progress = lambda *_: None
    ) -> Outcomes:
        """All outcomes of the test.

        Args:
            modes: architecture modes; those that the machine itself obeys are the same in all searches.
            bounds: where to stop.
            progress: told after each layer.
        """
        booted = self._booted = self._booted or self._boot(modes)
        reached = search(Problem(str(self._toml), POLICY, modes, self._visible), bounds, progress, booted)
        self._visible = reached.visible
        named = (dict(zip(reached.names, values, strict=True)) for values in reached.outcomes)
        found = dict.fromkeys(self.test.outcome(values, booted.symbols) for values in named)
        return _outcomes(reached, self.test.names, [dict(outcome) for outcome in found])

    def _boot(self, modes: Modes) -> BootedScenario:
        """Its guest. That its CPUs share the words in which shootdowns are counted need not be found out."""
        booted = Problem(str(self._toml), POLICY, modes).boot()
        words = booted.machine.cpus[0].mmu.resolve(booted.symbols.address(SHARED) or 0)
        self._visible = () if words is None else (words >> 12,)
        return booted


def outcomes(
    what: str | Path | Sequence[str] | Litmus,
    *,
    init: Mapping[str, int | str] | None = None,
    global_pages: bool = False,
    policy: str | type[Policy] | None = None,
    modes: Iterable[str] = (),
    bounds: Bounds = Bounds(),
    progress: Progress = lambda *_: None,
) -> Outcomes:
    """All outcomes of a litmus test, or of a litmus scenario that names its final values.

    Args:
        what: programs, one a CPU (kstack.kernels.kstack.language); the path of a TOML file with `programs`; or a scenario, by id or by
            the path of its TOML.
        init: of a test that is given by its programs: `x` to a number, `pte x` to an entry.
        global_pages: of the same: entries have G set.
        policy: of a scenario; None for one that asks nothing.
        modes: as `name=value`.
        bounds: where to stop.
        progress: told after each layer.

    Raises:
        ConfigError: a program, a file or a mode is wrong; the message names the place.
        ScenarioError: the scenario cannot be explored, or names no final values.
    """
    chosen = Modes().with_options(modes)
    test = _test(what, init, global_pages)
    if test is not None and policy is not None:
        raise ConfigError("a litmus test has no stacks for a policy; leave the policy out")
    if test is not None:
        with Guest(test) as guest:
            return guest.outcomes(chosen, bounds, progress)
    reached = search(Problem(str(what), policy or POLICY, chosen), bounds, progress)
    return _outcomes(reached, reached.names, [dict(zip(reached.names, one, strict=True)) for one in reached.outcomes])


def _test(
    what: str | Path | Sequence[str] | Litmus, init: Mapping[str, int | str] | None, global_pages: bool
) -> Litmus | None:
    """The test that is meant; None for a scenario."""
    if not isinstance(what, str | Path | Litmus):
        return Litmus.of(what, init, global_pages)
    if init or global_pages:
        raise ConfigError("init and global_pages are for a test that is given by its programs")
    if isinstance(what, Litmus):
        return what
    return read_test(Path(what)) if str(what).endswith(FILE) else None


def _outcomes(reached: Reached, names: tuple[str, ...], found: Sequence[Mapping[str, Value]]) -> Outcomes:
    ordered = sorted(found, key=lambda one: [(isinstance(value, str), value) for value in one.values()])
    return Outcomes(names, tuple(ordered), reached.complete, reached.states, reached.moves, reached.stuck, reached.cut)


__all__ = ["Guest", "Outcomes", "outcomes", "read_test"]
