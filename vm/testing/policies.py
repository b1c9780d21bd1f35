"""What any stack policy must do, whatever it saves: a test class to derive from.

    class TestMine(PolicyConformance):
        policy = Mine

Each test runs the policy on the built-in guests, a second or less each. That a policy passes says
that it keeps the rules of the interface; whether it is safe is for `kstack compare` to say.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from vm.coherence import Kind
from vm.hw.modes import Modes
from vm.scenarios import find_scenario
from vm.schedule import RandomSchedule, RoundRobin, Scheduler
from vm.session import BootedScenario, RunOptions, RunResult, Session
from vm.setup import boot
from vm.stacks import Policy
from vm.stacks.pool import PoolConfig

QUANTUM = 200  # units a slice
POLICY_BUGS = frozenset({Kind.DOUBLE_FREE, Kind.LEAK, Kind.SHARED_FRAME})


@lru_cache(maxsize=16)
def _booted(scenario: str, modes: Modes) -> BootedScenario:
    return boot(find_scenario(scenario), modes=modes)


class PolicyConformance:
    """Derive a test class and set `policy`; pytest runs the rest."""

    policy: ClassVar[type[Policy]]

    def session(self, scenario: str, scheduler: Scheduler, pool: PoolConfig = PoolConfig()) -> Session:
        """A run of a scenario with the policy, not started yet."""
        modes = Modes().resolved(self.policy.delivery)
        if self.policy.delivery == "df":
            modes = modes.with_option("df-restart=exact")
        options = RunOptions(max_time=find_scenario(scenario).max_instructions, pool=pool)
        return _booted(scenario, modes).session(self.policy(), scheduler, options)

    def run(self, scenario: str, scheduler: Scheduler, pool: PoolConfig = PoolConfig()) -> RunResult:
        """A run of a scenario with the policy, to its end."""
        return self.session(scenario, scheduler, pool).run()

    def test_it_says_who_proposed_it_and_where(self) -> None:
        """`id`, `title`, `proposer` and `source` are strings with something in them."""
        for name in ("id", "title", "proposer", "source"):
            assert str(getattr(self.policy, name)).strip(), f"class {self.policy.__name__}: {name} is empty"

    def test_it_keeps_account_of_its_frames(self) -> None:
        """Threads come, go deep and exit: no frame is lost, freed twice or in two stacks."""
        result = self.run("exit-reuse", RoundRobin(QUANTUM))
        wrong = [found.text for found in result.findings if found.kind in POLICY_BUGS]
        assert not wrong, "\n".join(wrong)

    def test_it_does_the_same_again(self) -> None:
        """Its hooks depend on nothing but their arguments and answers: the same run ends in the same state."""
        hashes = {self.run("exit-reuse", RandomSchedule(7)).state_hash for _ in range(2)}
        assert len(hashes) == 1, "two runs with one seed differ: does a hook use a clock, `random`, or its own state?"

    def test_it_goes_on_from_a_snapshot(self) -> None:
        """A run that is saved and restored in the middle of its hooks ends as one that is not."""
        plain = self.session("exit-reuse", RoundRobin(QUANTUM))
        saved = self.session("exit-reuse", RoundRobin(QUANTUM))
        for _ in range(40):
            saved.step(QUANTUM)
        states = saved.machine.snapshot(), saved.runtime.snapshot()
        middle = saved.machine.state_hash()
        for _ in range(40):
            saved.step(QUANTUM)
        saved.machine.restore(states[0])
        saved.runtime.restore(states[1])
        assert saved.machine.state_hash() == middle
        assert saved.runtime.snapshot() == states[1], "a hook made again from its answers is another one"
        del plain

    def test_it_takes_no_for_an_answer(self) -> None:
        """With nothing in the pools it may refuse or lose a thread, but no hook raises."""
        result = self.run("pool-dry", RoundRobin(QUANTUM), PoolConfig(per_cpu=1))
        assert not [found for found in result.findings if found.kind in POLICY_BUGS]


def conformance_of(policy: type[Policy]) -> Any:
    """A conformance class for a policy, to be bound to a name that begins with Test."""
    return type(f"Test{policy.__name__}", (PolicyConformance,), {"policy": policy})
