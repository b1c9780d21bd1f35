"""What any injected fault must do (`vm.fault.Fault`): a test class to derive from.

Derive a test class from `FaultConformance` and set `fault`, `scenario` and `policy` to one that happens there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar, Final

from msgspec import structs

from vm.errors import PolicyError
from vm.fault import Fault, Injector, Moment, Where
from vm.machine import size
from vm.recording import UNFINISHED
from vm.scenarios import find_scenario
from vm.schedule import Exhausted, ReplaySchedule
from vm.session import RunOptions
from vm.setup import replay_session
from vm.stacks.registry import find_policy
from vm.testing.guests import GuestRun, Schedule, Start

NEVER: Final = 1 << 40
"""More executions, steps or units than there are in any run."""


class FaultConformance:
    """Derive a test class and set `fault`; pytest runs the rest.

    Attributes:
        fault: one that happens in this run.
        scenario: what runs.
        policy: under what.
        schedule: as on the command line; empty for the scenario's own.
        max_time: units that the run may take with the fault.
    """

    fault: ClassVar[Fault]
    scenario: ClassVar[str] = "laight"
    policy: ClassVar[str] = "switch-sp-ipi"
    schedule: ClassVar[str] = "random"
    max_time: ClassVar[int] = 300_000

    def start(self, *faults: Fault) -> Start:
        """The run with these faults, not begun."""
        found = find_scenario(self.scenario)
        options = RunOptions(max_time=self.max_time)
        policy = find_policy(self.policy)
        return Start(self.scenario, found.cpus, size(found.ram), policy=policy, options=options, faults=faults)

    def run(self, *faults: Fault) -> GuestRun:
        """A run with these faults."""
        start = self.start(*faults)
        return start.run(Schedule(self.schedule).scheduler(start.scenario))

    def test_it_makes_sense(self) -> None:
        """It passes the check that every fault from a file passes."""
        self.fault.checked(find_scenario(self.scenario).cpus)

    def test_it_happens_exactly_once(self) -> None:
        """From some moment on it has happened, at that moment, and it does not happen again."""
        start = self.start(self.fault)
        session = start.session(Schedule(self.schedule).scheduler(start.scenario))
        assert isinstance(session.injector, Injector), "a run with a fault has an injector"
        begun, times = session.machine.time, []
        while session.machine.time - begun < self.max_time:
            ended: str | None = "policy failed"
            with suppress(PolicyError):
                ended = session.step(self.max_time)
            fired = session.injector.fired[0]
            if fired is not None and fired not in times:
                assert fired <= session.machine.time, f"it happened at {fired}, which is still to come"
                times.append(fired)
            if ended is not None or (fired is not None and session.machine.time - fired > self.max_time // 4):
                break
        assert times, f"{self.fault} did not happen in {self.scenario} under {self.policy}"
        assert len(times) == 1, f"it happened at {times}"

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
        assert one.fired == other.fired
        assert (one.outcome is None) == (other.outcome is None)
        assert one.outcome is None or one.result.state_hash == other.result.state_hash

    def test_a_recording_with_it_replays_to_the_same_state(self) -> None:
        """What is saved of the run is enough to repeat it, the fault included."""
        run = self.run(self.fault)
        recording = run.start.recording(run)
        assert recording.faults, "the recording has lost the fault"
        session = replay_session(recording)
        assert isinstance(session.injector, Injector), "the replay has lost the fault"
        if run.outcome is None:
            again = run.start.run(ReplaySchedule(recording.schedule(), recording.ended != UNFINISHED))
            assert str(again.error) == str(run.error), "replayed, the policy fails otherwise"
            return
        try:
            result = session.run()
        except Exhausted:
            raise AssertionError("the recording ends before the run does") from None
        assert tuple(session.injector.fired) == run.fired, "replayed, the fault happens at another time"
        assert result.state_hash == run.result.state_hash, "replayed, the run ends in another state"
