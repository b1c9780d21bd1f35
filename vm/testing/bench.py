"""What the fixtures of one test share: its policy, schedule, modes and faults, and what it has run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kstack.base.errors import ConfigError
from kstack.explore.breadth_first import Bounds, Outcome, Problem, search
from kstack.fault import Fault, Injector
from kstack.fault.records import described
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.kernels.scenario import usual_work
from kstack.load import Format
from kstack.machine import Machine, MachineConfig, size
from kstack.run.options import RunOptions
from kstack.schedule import Scheduler
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.loading.registry import find_policy, split_name
from kstack.stacks.policy import Policy
from kstack.testing.guests import GuestRun, Schedule, Start

DEFAULT_POLICY: Final = "fixed-16k"
DEFAULT_RAM: Final = "64M"
MAX_TIME: Final = 100_000_000
"""Units that an image may run which is no scenario; a scenario says itself."""


_WAY_OUT: Final = "inject(..., must_fire=False) where it need not"


def modes_of(options: Iterable[str]) -> Modes:
    """Architecture modes by their names and values, as `speculation=none`.

    Raises:
        ConfigError: there is no such mode, or value.
    """
    return Modes().with_options(options)


class Injection:
    """Faults of the guest runs that follow.

    Attributes:
        faults: them, in order.
        must_fire: a run in which one of them does not happen fails.
        fired: for each, the virtual time (units) at which it happened in the last run; None where it did not.
        runs: how many have been asked for since.
    """

    def __init__(self, faults: tuple[Fault, ...], must_fire: bool = True) -> None:
        self.faults, self.must_fire = faults, must_fire
        self.fired: tuple[int | None, ...] = (None,) * len(faults)
        self.runs = 0


@dataclass(frozen=True)
class DoneSearch:
    """A search that a test has made: what for, and what it came to."""

    problem: Problem
    policy: str
    outcome: Outcome


class Bench:
    """A test's own.

    Args:
        folder: of the test; paths are relative to it.
        policy: the marker's; None if there is none.
        modes: the marker's.
        cpus: the marker's; None for what a scenario needs, else 1.
        schedule: for runs that say no other.

    Attributes:
        last: the newest run, and `last_failed` the newest in which something was wrong.
        searches: newest last.
    """

    def __init__(
        self, folder: Path, policy: str | type[Policy] | None, modes: Modes, cpus: int | None, schedule: Schedule
    ) -> None:
        self.folder, self.modes, self.cpus, self.schedule = folder, modes, cpus, schedule
        self.marked = policy is not None
        self._names: dict[type[Policy], str] = {}
        self.policy = self.policy_of(policy or DEFAULT_POLICY)
        self.injections = [Injection(())]
        self.last: GuestRun | None = None
        self.last_failed: GuestRun | None = None
        self.searches: list[DoneSearch] = []

    def __repr__(self) -> str:
        return f"<{self.policy.id}, {self.schedule}>"

    def policy_of(self, policy: str | type[Policy]) -> type[Policy]:
        """A policy's class by itself, by id, or by its file and name, relative to the test's folder.

        Raises:
            PolicyError: there is none.
        """
        if not isinstance(policy, str):
            return policy
        name, (path, wanted) = policy, split_name(policy)
        if path is not None and (self.folder / path).is_file():
            name = str((self.folder / path).resolve()) + (f":{wanted}" if wanted else "")
        found = find_policy(name)
        self._names[found] = name
        return found

    def image_of(self, name: str | Path) -> str:
        """The name of an image, or its absolute path: what a recording finds it by."""
        path = self.folder / name
        return str(name) if str(name) in usual_guests().titles() or not path.exists() else str(path.resolve())

    @property
    def injection(self) -> Injection:
        """Of the next guest run."""
        return self.injections[-1]

    def inject(self, *faults: Fault, must_fire: bool = True) -> Injection:
        """Let faults happen in the guest runs that follow; none if there are none given.

        Args:
            faults: what happens.
            must_fire: where one of them does not happen in a run, or no run follows, the test fails: it has shown nothing.

        Raises:
            ConfigError: in the run, a fault makes no sense there.
        """
        self.injections.append(Injection(faults, must_fire))
        return self.injection

    def check_injected(self) -> None:
        """The test has ended well; what it injected must have had a run to happen in.

        Raises:
            AssertionError: it had none.
        """
        for one in self.injections:
            if one.faults and one.must_fire and not one.runs:
                raise AssertionError(
                    f"{_named(one.faults[0])} did not happen: no guest has run since inject(); {_WAY_OUT}"
                )

    def machine(self, cpus: int | None = None, ram: int | str = DEFAULT_RAM, modes: Iterable[str] = ()) -> Machine:
        """A bare machine, at reset.

        Args:
            cpus: CPUs; None for the marker `smp`, else 1.
            ram: bytes, or as 64M.
            modes: besides those of the marker `mode`, as `name=value`.

        Raises:
            ConfigError: it cannot be so.
        """
        wanted = size(ram) if isinstance(ram, str) else ram
        chosen = next(number for number in (cpus, self.cpus, 1) if number is not None)
        return Machine(MachineConfig(chosen, wanted, self._modes(modes)))

    def guest(
        self,
        image: str | Path,
        *,
        policy: str | type[Policy] | None = None,
        schedule: str | Schedule | Scheduler | None = None,
        modes: Iterable[str] = (),
        pool: PoolConfig | None = None,
        max_time: int | None = None,
        max_work: int | None = None,
        format: Format = "auto",
    ) -> GuestRun:
        """Run a guest to its end.

        Args:
            image: built-in name, scenario, or path (of a scenario's TOML or an image), relative to the test's folder.
            policy: id, class or file; None for the test's. An image that is no scenario runs under one only if the
                test is marked with it or it is given here.
            schedule: as on the command line, or an object; None for the test's.
            modes: besides those of the marker `mode`, as `name=value`.
            pool: how page pools behave.
            max_time: units of virtual time; None for what a scenario says.
            max_work: units of the host's work; None for what `kstack run` takes.
            format: what a file is taken for; `flat` for 16-bit code that is no boot sector.

        Raises:
            PolicyError: the policy did what no policy may.
            KstackError: image or configuration are wrong.
            AssertionError: a fault did not happen that must.
        """
        self.injection.runs += 1
        start = self._start(self.image_of(image), policy, self._modes(modes))
        chosen = self.schedule if schedule is None else schedule
        chosen = Schedule(chosen) if isinstance(chosen, str) else chosen
        scenario = start.scenario
        usual = scenario.max_instructions if scenario is not None else MAX_TIME
        limit = usual if max_time is None else max_time
        seed = chosen.seed if isinstance(chosen, Schedule) else 0
        work = usual_work(scenario, start.cpus) if max_work is None else max_work
        options = RunOptions(limit, pool=pool or PoolConfig(), adversary=seed, exact_pools=True, max_work=work)
        start = Start(**{**vars(start), "options": options, "format": format})
        scheduler = chosen.scheduler(scenario) if isinstance(chosen, Schedule) else chosen
        run = start.run(scheduler, str(chosen) if isinstance(chosen, Schedule) and chosen.text else "")
        self.note(run)
        if run.error is not None:
            raise run.error
        self._check_fired(run)
        return run

    def _check_fired(self, run: GuestRun) -> None:
        injector = run.session.injector
        for number, fault in enumerate(run.start.faults):
            assert isinstance(injector, Injector), "a run with a fault has an injector"
            misplaced = injector.misplaced(number)
            if misplaced is not None:
                raise ConfigError(f"fault {fault.what}: {misplaced}")
            if self.injection.must_fire and run.fired[number] is None:
                raise AssertionError(f"{_named(fault)} did not happen in {run}: {injector.why(number)}; {_WAY_OUT}")

    def note(self, run: GuestRun) -> None:
        """A run of this test has been made."""
        self.last, self.injection.fired = run, run.fired or self.injection.fired
        if run.failure is not None:
            self.last_failed = run

    def _modes(self, options: Iterable[str]) -> Modes:
        return self.modes.with_options(options)

    def _start(self, image: str, policy: str | type[Policy] | None, modes: Modes) -> Start:
        scenario = usual_guests().scenario(image) if usual_guests().is_scenario(image) else None
        chosen = self.policy if policy is None else self.policy_of(policy)
        under = chosen if scenario is not None or self.marked or policy is not None else None
        least = scenario.cpus if scenario is not None else 1
        cpus = least if self.cpus is None else self.cpus
        if cpus < least:
            raise ConfigError(f"scenario {image} needs {least} CPUs; mark the test with smp({least}), or not at all")
        ram = size(scenario.ram if scenario is not None else DEFAULT_RAM)
        name = "" if under is None else self._names.get(under, "")
        return Start(image, cpus, ram, modes, under, faults=self.injection.faults, policy_name=name)

    def explore(
        self,
        scenario: str | Path,
        *,
        policy: str | type[Policy] | None = None,
        modes: Iterable[str] = (),
        bounds: Bounds | None = None,
    ) -> Outcome:
        """Try all interleavings of a litmus scenario, in this process.

        Args:
            scenario: its id, or the path of its TOML, relative to the test's folder.
            policy: id, class or file; None for the test's.
            modes: besides those of the marker `mode`, as `name=value`.
            bounds: where to stop without an answer.

        Raises:
            ScenarioError: the scenario cannot be explored.
            PolicyError: the policy did what no policy may.
        """
        chosen = self.policy if policy is None else self.policy_of(policy)
        problem = Problem(self.image_of(scenario), chosen, self._modes(modes))
        outcome = search(problem, bounds or Bounds())
        self.searches.append(DoneSearch(problem, self._names.get(chosen, ""), outcome))
        return outcome


def _named(fault: Fault) -> str:
    return f"fault {fault.what}, {described(fault.when)},"


__all__ = ["Bench", "DoneSearch", "Injection", "modes_of"]
