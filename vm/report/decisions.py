"""What exploring has decided of the shipped policies, in a file that comes with kstack; `tests/nightly` writes it.

It says of which code, guests and policies it is. Where any of these differ from what is here now, what it says is left
out: a proof or a finding is about what was explored, and nothing else.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from kstack.base.digests import digest
from kstack.base.errors import ConfigError
from kstack.base.files import write_whole
from kstack.hw.modes import READINGS, Modes
from kstack.hw.rules import RULES_VERSION
from kstack.judge.pairs import code_hash, policy_hash_of
from kstack.kernels.known import usual_guests
from kstack.stacks.loading.registry import find_policy

FILE: Final = Path(__file__).parent / "decisions.json"
FORMAT: Final = 1
GUEST: Final = (".py", ".s", ".toml")  # files that guests are made of
ABOVE: Final = (
    "cli",
    "testing",
    "probe",
    "report",
    "inject",
    "debug",
    "trace",
    "judge",
    "base/html",
    "run/statistics.py",
    "guest",
    "policies",
)
"""Parts of kstack that exploring does not use, guests and policies, which have hashes of their own."""


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What exploring a pair came to.

    Attributes:
        policy, policy_hash: by name, and its source.
        scenario: by name.
        verdict: `safe`, `unsafe` or `undecided`.
        amount: states, or visible operations of the shortest way to a finding.
        every: states where every move is made; None where that was out of reach.
        exercised: moves that could have gone by more than one translation.
        kind: of the finding, or None.
    """

    policy: str
    policy_hash: str
    scenario: str
    verdict: str
    amount: int
    every: int | None
    exercised: int
    kind: str | None


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All decisions under some modes."""

    modes: dict[str, str]
    decisions: list[Decision]


class Decisions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file.

    Attributes:
        format: of the file.
        code: hash of what exploring depends on, the guests' sources included.
        rules: version of the machine's rules.
        readings: decisions by modes.
    """

    format: int
    code: str
    rules: int
    readings: list[Reading]

    @property
    def is_current(self) -> bool:
        """Whether they were made by the code that is here."""
        return (self.format, self.code, self.rules) == (FORMAT, exploring_code(), RULES_VERSION)


class Break(NamedTuple):
    """A policy is broken in a litmus scenario; under which modes, when it was explored for the shipped decisions."""

    scenario: str
    modes: dict[str, str] | None


@cache
def exploring_code() -> str:
    """What identifies all code that a search of a shipped scenario depends on, but for its policy's."""
    root = usual_guests().folder
    found = [code_hash(ABOVE).encode()]
    for path in sorted(path for path in root.rglob("*") if path.suffix in GUEST):
        found.append(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest(b"".join(found), 6)


def write_decisions(path: Path, readings: list[Reading]) -> None:
    """Write the file.

    Raises:
        ConfigError: it cannot be written.
    """
    document = msgspec.to_builtins(Decisions(FORMAT, exploring_code(), RULES_VERSION, readings))
    write_whole(path, _text(document))


def _text(document: dict[str, Any]) -> str:
    """JSON with a line a decision."""
    readings = [
        f' {{"modes": {json.dumps(one["modes"])}, "decisions": [\n'
        + ",\n".join(f"  {json.dumps(decision)}" for decision in one["decisions"])
        + "\n ]}"
        for one in document["readings"]
    ]
    head = ", ".join(f'"{name}": {json.dumps(document[name])}' for name in ("format", "code", "rules"))
    return f'{{{head}, "readings": [\n' + ",\n".join(readings) + "\n]}\n"


@cache
def read_decisions(path: Path = FILE) -> Decisions | None:
    """The shipped decisions; None if there are none that were made by the code that is here.

    Raises:
        ConfigError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Decisions)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged: {error}; python -m tests.nightly decisions --write writes it") from error
    return found if found.is_current else None


def shipped_breaks(policy: str) -> tuple[Break, ...]:
    """Where the shipped decisions have broken a policy, as its source is now.

    Args:
        policy: its id, or the path of its file.
    """
    found, identity = read_decisions(), find_policy(policy).id
    return tuple(
        Break(one.scenario, reading.modes)
        for reading in (found.readings if found is not None else ())
        for one in reading.decisions
        if one.policy == identity and one.verdict == "unsafe" and one.policy_hash == policy_hash_of(policy)
    )


def reads_alike(one: Break, modes: Modes) -> bool:
    """Whether a policy is broken under the reading of Accessed that these modes have."""
    return one.modes is None or one.modes["speculation"] == modes.speculation


def in_words(found: Sequence[Break], modes: Modes) -> str:
    """Where a policy is broken, under the reading of these modes, or else under others, the first of them; empty if nowhere."""
    alike = [one.scenario for one in found if reads_alike(one, modes)]
    if alike:
        return f"broken in {_named(alike)}"
    if not found:
        return ""
    under: dict[str, list[str]] = defaultdict(list)  # by scenario
    for one in found:
        under[one.scenario].append((one.modes or {})["speculation"])
    readings = next(iter(under.values()))
    there = [name for name in under if under[name] == readings]
    condition = "with any speculation" if {*READINGS} <= {*readings} else f"under speculation={' or '.join(readings)}"
    return f"broken in {_named(there)} {condition}{'' if len(there) == len(under) else ', and elsewhere'}"


def _named(scenarios: Iterable[str]) -> str:
    """The first of some scenarios, and how many others there are."""
    first, *others = dict.fromkeys(scenarios)
    return f"{first} and {len(others)} more" if others else first


def readings_of(found: Iterable[Break]) -> tuple[Modes, ...]:
    """The modes under which that was explored before."""
    readings = dict.fromkeys(tuple(one.modes.items()) for one in found if one.modes is not None)
    return tuple(Modes.of(dict(reading)) for reading in readings)
