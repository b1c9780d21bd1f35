"""What any injected fault must do (`kstack.fault.Fault`): a test class to derive from.

Derive a test class from `FaultConformance` and set `fault`, `scenario` and `policy` to one that happens there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, Final

from msgspec import structs

from kstack.base.errors import ConfigError, PolicyError, RecordingError
from kstack.fault import Fault, Injector, Moment, Where
from kstack.kernels.known import usual_guests
from kstack.machine import size
from kstack.run.options import RunOptions
from kstack.run.spec import replay_session
from kstack.stacks.loading.registry import find_policy
from kstack.testing.guests import GuestRun, Schedule, Start

NEVER: Final = 1 << 40
"""More executions, steps or units than there are in any run."""

LOOKED: Final = 40
"""Slices after a fault whose states are looked at."""


class _Times(list[int | None]):
    """When faults have happened, and all that was ever written there."""

    def __init__(self, fired: list[int | None]) -> None:
        super().__init__(fired)
        self.set: list[int] = []

    def __setitem__(self, number: Any, time: Any) -> None:
        """One has happened."""
        super().__setitem__(number, time)
        self.set.append(time)


class FaultConformance:
    """Derive a test class and set `fault`; pytest runs the rest.

    Attributes:
        fault: one that happens in this run.
        scenario: what runs.
        policy: under what.
        schedule: as on the command line; empty for the scenario's own.
        max_time: units that the run may take with the fault.
        shows: it brings the run into another state; False where what it does was done already.
    """

    fault: ClassVar[Fault]
    scenario: ClassVar[str] = "laight"
    policy: ClassVar[str] = "switch-sp-ipi"
    schedule: ClassVar[str] = "random"
    max_time: ClassVar[int] = 300_000
    shows: ClassVar[bool] = True

    def start(self, *faults: Fault) -> Start:
        """The run with these faults, not begun."""
        found = usual_guests().scenario(self.scenario)
        options = RunOptions(max_time=self.max_time)
        policy = find_policy(self.policy)
        return Start(self.scenario, found.cpus, size(found.ram), policy=policy, options=options, faults=faults)

    def run(self, *faults: Fault) -> GuestRun:
        """A run with these faults."""
        start = self.start(*faults)
        return start.run(Schedule(self.schedule).scheduler(start.scenario))

    def _states(self, *faults: Fault, begin: int | None = None) -> tuple[int, list[str]]:
        """After how many slices the first fault has happened, or which are given; the states then and after some more."""
        start = self.start(*faults)
        session = start.session(Schedule(self.schedule).scheduler(start.scenario))
        states: list[str] = []
        slices, ended = 0, None
        with suppress(PolicyError):
            while ended is None and len(states) < LOOKED:
                ended = session.step(self.max_time)
                slices += 1
                if begin is None and isinstance(session.injector, Injector) and session.injector.fired[0] is not None:
                    begin = slices
                if begin is not None and slices >= begin:
                    states.append(session.machine.state_hash())
        return slices + 1 if begin is None else begin, states

    def test_it_makes_sense(self) -> None:
        """It passes the check that every fault from a file passes."""
        try:
            self.fault.checked(usual_guests().scenario(self.scenario).cpus)
        except ConfigError as error:
            raise AssertionError(str(error)) from error

    def test_it_happens_exactly_once(self) -> None:
        """From some moment on it has happened, at that moment, and it does not happen again."""
        start = self.start(self.fault)
        session = start.session(Schedule(self.schedule).scheduler(start.scenario))
        injector = session.injector
        assert isinstance(injector, Injector), "a run with a fault has an injector"
        times = _Times(injector.fired)
        injector.fired = times
        begun = session.machine.time
        while session.machine.time - begun < self.max_time:
            ended: str | None = "policy failed"
            with suppress(PolicyError):
                ended = session.step(self.max_time)
            assert all(time <= session.machine.time for time in times.set), (
                f"it happened at {times.set}: that is to come"
            )
            fired = injector.fired[0]
            if ended is not None or (fired is not None and session.machine.time - fired > self.max_time // 4):
                break
        why = f"it happened at {times.set}" if times.set else f"it did not happen: {injector.why(0)}"
        assert len(times.set) == 1, f"{self.fault} in {self.scenario} under {self.policy}: {why}"

    def test_it_does_something(self) -> None:
        """When it has happened, or soon after, the run is in another state than one without; or the policy has failed."""
        begin, states = self._states(self.fault)
        _, plain = self._states(begin=begin)
        assert not self.shows or states != plain, (
            f"{self.fault}: when it has happened, and later, the run is in the states of one without it; "
            "set shows = False if that is meant"
        )

    def test_one_that_is_not_reached_says_so_and_changes_nothing(self) -> None:
        """`fired` is None, and the run ends in the state in which it ends without a fault."""
        when = self.fault.when
        if isinstance(when, Moment):
            never = structs.replace(self.fault, when=Moment(NEVER))
        elif isinstance(when, Where):
            never = structs.replace(self.fault, when=Where(when.register, 0xDEAD_BEEF_DEAD_BEEF, when.cpu))
        else:
            never = structs.replace(self.fault, when=structs.replace(when, nth=NEVER))
        run, plain = self.run(never), self.run()
        assert run.fired == (None,), f"it happened at {run.fired[0]}, and was not to happen"
        assert run.result.state_hash == plain.result.state_hash, "waiting for the fault has changed the run"

    def test_it_happens_at_the_same_time_again(self) -> None:
        """The same run has the same fault at the same virtual time, and ends alike."""
        one, other = self.run(self.fault), self.run(self.fault)
        assert one.fired == other.fired, f"it happened at {one.fired[0]}, and then at {other.fired[0]}"
        assert _end(one) == _end(other), "the same run with the same fault ends otherwise"

    def test_a_recording_with_it_replays_to_the_same_state(self) -> None:
        """What is saved of the run is enough to repeat it, the fault included."""
        run = self.run(self.fault)
        recording = run.start.recording_of(run)
        session = replay_session(recording)
        assert isinstance(session.injector, Injector), "the recording has lost the fault"
        try:
            end = session.run().state_hash
        except PolicyError as error:
            end = str(error)
        except RecordingError as error:
            raise AssertionError(f"its choices do not repeat the run: {error}") from error
        assert tuple(session.injector.fired) == run.fired, "replayed, the fault happens at another time"
        assert end == _end(run), "replayed, the run ends otherwise"


def _end(run: GuestRun) -> str:
    """The state in which a run ends, or what the policy did that no policy may."""
    return run.result.state_hash if run.error is None else str(run.error)
