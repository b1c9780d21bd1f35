"""What any stack policy must do, whatever it saves: a test class to derive from.

    class TestMine(PolicyConformance):
        policy = Mine

Each test runs the policy on the built-in guests, a few seconds or less each. That a policy passes says
that it keeps the rules of the interface; whether it is safe is for `kstack compare` to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import ClassVar, Final, NamedTuple

from kstack.base.errors import PolicyError, RecordingError
from kstack.fault import Fault, Injector, Step
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.machine import MachineSnapshot, size
from kstack.run.boots import booted
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.sanitizer.findings import Kind
from kstack.schedule import Choice, RandomSchedule, ReplaySchedule, RoundRobin, Scheduler, View
from kstack.stacks import Policy, Pte
from kstack.stacks import Step as MicroStep
from kstack.stacks.host.call import HookCall
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.host.state import RuntimeSnapshot
from kstack.stacks.steps import Answered
from kstack.testing.hooks import Asked, NotedPolicy, differences_elsewhere, differences_in
from kstack.testing.worlds import ElsewhereError, elsewhere, world

QUANTUM: Final = 200
"""Units a slice."""
POLICY_BUGS: Final = frozenset({Kind.DOUBLE_FREE, Kind.LEAK, Kind.SHARED_FRAME})
SCENARIOS: Final = ("exit-reuse", "recursion", "pressure", "interrupt-deep", "two-faults")
"""Together they call every hook there is, and some of each in the middle of others."""
SAVED: Final = ("exit-reuse", "pressure")
"""Of these, those that are run again, and saved and restored."""
ACCOUNTS: Final = ("exit-reuse", "litmus-exits")
"""Threads come and exit; in the second nobody goes deep, so that a stack of one page will do."""
REFUSED: Final = "exit-reuse"
REFUSALS: Final = 4
"""Allocations of this run that are refused, one a run, evenly spread."""
ENDLESS: Final = 1000
"""Steps of a hook that goes on for ever."""
SAME: Final = "the same object"
WHOM: Final = (SAME, "a new object")
"""Who makes hooks again when a state is restored."""
REWINDS: Final = 3
"""Moments of a run from which it is run to its end once more."""


class StepDone(NamedTuple):
    """A step of a policy's hook, and what it answered."""

    cpu: int
    hook: str
    step: MicroStep
    answer: Answered

    def __str__(self) -> str:
        return f"{self.step} of {self.hook} on CPU {self.cpu}, answered {self.answer!r}"


@dataclass(frozen=True)
class Done:
    """A run, as two that must be alike are compared.

    Attributes:
        steps: of the policy, in order.
        findings: of the oracle, in words.
        ended, state_hash: as in `RunResult`.
    """

    steps: tuple[StepDone, ...]
    findings: tuple[str, ...]
    ended: str
    state_hash: str

    def differs_from(self, other: Done) -> str:
        """What is not alike, in words; empty if all is."""
        for number, (step, wanted) in enumerate(zip_longest(self.steps, other.steps), 1):
            if step != wanted:
                return f"its step {number} is {step or 'none'}, and was {wanted or 'none'}"
        if self.findings != other.findings:
            return f"the oracle finds {self.findings}, and found {other.findings}"
        if (self.ended, self.state_hash) != (other.ended, other.state_hash):
            return (
                f"it ends by {self.ended} in state {self.state_hash}, and ended by {other.ended} in {other.state_hash}"
            )
        return ""


class _Moment(NamedTuple):
    """A moment of a run from which it is made again; `made` is how many steps there were before."""

    machine: MachineSnapshot
    runtime: RuntimeSnapshot
    made: int


class _Steps:
    """An instrument that keeps a policy's steps."""

    def __init__(self) -> None:
        self.made: list[StepDone] = []

    def on_step(self, cpu: int, call: HookCall, step: MicroStep, answer: Answered, previous: Pte | None) -> None:
        """A step was carried out."""
        self.made.append(StepDone(cpu, call.hook.value, step, answer))


class _Between:
    """A schedule that lets something be done before each slice, by its number from 0.

    Args:
        schedule: what decides.
    """

    def __init__(self, schedule: Scheduler) -> None:
        self.name, self.event, self._schedule = schedule.name, schedule.event, schedule
        self.act: Callable[[int], None] = lambda _: None
        self._made = 0

    def choose(self, view: View) -> Choice:
        """As the schedule does."""
        self.act(self._made)
        self._made += 1
        return self._schedule.choose(view)


class PolicyConformance:
    """Derive a test class and set `policy`; pytest runs the rest."""

    policy: ClassVar[type[Policy]]

    def session(
        self,
        scenario: str,
        scheduler: Scheduler,
        pool: PoolConfig = PoolConfig(),
        policy: Policy | None = None,
    ) -> Session:
        """A run of a scenario with the policy, not started yet; with an object of its own unless one is given."""
        modes = Modes().resolved(self.policy.delivery)
        if self.policy.delivery == "df":
            modes = modes.with_option("df-restart=exact")
        found = usual_guests().scenario(scenario)
        options = RunOptions(max_time=found.max_instructions, pool=pool)
        return booted(scenario, found.cpus, size(found.ram), modes).session(policy or self.policy(), scheduler, options)

    def run(self, scenario: str, scheduler: Scheduler, pool: PoolConfig = PoolConfig()) -> RunResult:
        """A run of a scenario with the policy, to its end."""
        return self.session(scenario, scheduler, pool).run()

    def test_it_says_who_proposed_it_and_where(self) -> None:
        """`id`, `title`, `proposer` and `source` are strings with something in them."""
        for name in ("id", "title", "proposer", "source"):
            value = getattr(self.policy, name, None)
            assert isinstance(value, str), f"class {self.policy.__name__}: {name} is {value!r}, and must be a string"
            assert value.strip(), f"class {self.policy.__name__}: {name} is empty"

    def test_it_keeps_account_of_its_frames(self) -> None:
        """Threads come, go deep and exit: no frame is lost, freed twice or in two stacks."""
        looked = 0
        for scenario in ACCOUNTS:
            result = self.run(scenario, RoundRobin(QUANTUM))
            wrong = [found.text for found in result.findings if found.kind in POLICY_BUGS]
            assert not wrong, "\n".join(wrong)
            looked += result.ended == "exit" and not result.panicked
        assert looked, f"no run of {' or '.join(ACCOUNTS)} comes to an end at which its frames can be counted"

    def test_it_does_the_same_again(self) -> None:
        """The same run ends in the same state, whatever Python's clocks and random numbers are then."""
        for scenario in SAVED:
            with world(0, self.policy):
                first = self._done(self.session(scenario, RandomSchedule(7)))
            with world(1, self.policy):
                again = self._done(self.session(scenario, RandomSchedule(7)))
            wrong = again.differs_from(first)
            assert not wrong, (
                f"two runs with one seed differ, of {scenario}: {wrong}; "
                "does a hook use a clock, `random`, `id`, or its own state?"
            )

    def test_its_hooks_do_the_same_when_they_are_asked_again(self) -> None:
        """In any order, half and whole, by this object and by others: each depends on its arguments and answers alone."""
        wrong = differences_in(1, self.policy, self._asked(*SCENARIOS))
        assert not wrong, _remembered(wrong)

    def test_its_hooks_do_the_same_in_another_process(self) -> None:
        """Where sets have other orders, and no module or class has been used before."""
        try:
            answers = elsewhere(differences_elsewhere, self.policy, self._asked(*SCENARIOS))
        except ElsewhereError as error:
            raise AssertionError(str(error)) from error
        for wrong in answers:
            assert not wrong, _remembered(wrong)

    def test_it_goes_on_from_a_snapshot(self) -> None:
        """Saved and restored wherever a hook is in flight, a run ends as one that is not; so with a new object each time."""
        for scenario in SAVED:
            plain = self._done(self.session(scenario, _schedule()))
            for whom in WHOM:
                wrong = _difference(plain, partial(self._restored, scenario, whom))
                assert not wrong, f"{scenario}, restored in the middle of hooks with {whom}: {wrong}"

    def test_it_goes_back_to_a_snapshot(self) -> None:
        """Run to its end, restored to the middle of a hook and run to its end again, it does the same again."""
        for scenario in SAVED:
            for at, whom, first, again in self._rewound(scenario):
                wrong = _difference(first, again)
                assert not wrong, f"{scenario}, restored from its end to slice {at} with {whom}: {wrong}"

    def test_it_takes_no_for_an_answer(self) -> None:
        """Where there is no page it may refuse or lose a thread; no hook raises, loses a page, or asks for ever."""
        for session in self._short_of_pages():
            try:
                result = session.run()
            except PolicyError as error:
                raise AssertionError(f"where there is no page: {error}") from error
            wrong = [found.text for found in result.findings if found.kind in POLICY_BUGS]
            assert not wrong, "\n".join(wrong)

    # --- runs

    def _done(self, session: Session) -> Done:
        """Run a session to its end."""
        steps = _Steps()
        session.machine.instruments.add(steps)
        result = session.run()
        findings = tuple(f"{found.kind.value} at {found.time}: {found.text}" for found in result.findings)
        return Done(tuple(steps.made), findings, result.ended, result.state_hash)

    def _asked(self, *scenarios: str) -> list[Asked]:
        """What the policy's hooks are asked in runs of these scenarios in the first world, one after the other."""
        asked: list[Asked] = []
        for scenario in scenarios:
            session = self.session(scenario, RandomSchedule(5), policy=NotedPolicy(self.policy(), asked))
            with world(0, self.policy):
                session.run()
        return asked

    def _restored(self, scenario: str, whom: str) -> Done:
        """A run that is saved and restored before each slice, where a hook is in flight."""
        between = _Between(_schedule())
        session = self.session(scenario, between)

        def restore(_: int) -> None:
            if any(session.runtime.calls):
                machine, runtime = session.machine.snapshot(), session.runtime.snapshot()
                session.runtime.policy = self._renewed(session, whom)
                session.machine.restore(machine)
                session.runtime.restore(runtime)

        between.act = restore
        return self._done(session)

    def _renewed(self, session: Session, whom: str) -> Policy | None:
        return session.runtime.policy if whom == SAME else self.policy()

    def _moments(self, scenario: str) -> list[int]:
        """Slices before which a hook is in flight, a few of them, evenly spread."""
        found: list[int] = []
        between = _Between(_schedule())
        session = self.session(scenario, between)
        between.act = lambda slice_: found.append(slice_) if any(session.runtime.calls) else None
        session.run()
        return _evenly(found, REWINDS)

    def _rewound(self, scenario: str) -> Iterator[tuple[int, str, Done, Callable[[], Done]]]:
        """Slices, what comes after each in the run itself; and what makes it again, with whom."""
        moments = self._moments(scenario)
        between, steps = _Between(_schedule()), _Steps()
        session = self.session(scenario, between)
        saved: dict[int, _Moment] = {}

        def save(slice_: int) -> None:
            if slice_ in moments:
                saved[slice_] = _Moment(session.machine.snapshot(), session.runtime.snapshot(), len(steps.made))

        between.act = save
        session.machine.instruments.add(steps)
        result, choices = session.run(), list(session.choices)

        def again(at: int, whom: str) -> Done:
            _unwatch(session)
            session.machine.restore(saved[at].machine)
            session.runtime.policy = self._renewed(session, whom)
            session.runtime.restore(saved[at].runtime)
            session.scheduler = ReplaySchedule(choices[at:])
            session.stirred()
            return self._done(session)

        steps_made = list(steps.made)
        for at, moment in saved.items():
            first = Done(tuple(steps_made[moment.made :]), (), result.ended, result.state_hash)
            for whom in WHOM:
                yield at, whom, first, partial(again, at, whom)

    def _short_of_pages(self) -> Iterator[Session]:
        """Runs with a page a CPU, and in which one allocation is refused; each begins when the one before has been run."""
        between = _Between(RoundRobin(QUANTUM))
        session = self.session("pool-dry", between, PoolConfig(per_cpu=1))
        between.act = partial(_check_ends, session)
        yield session
        made = Counter(type(step).__name__ for one in self._asked(REFUSED) for step in one.steps)
        for name in ("TakePage", "AllocPage"):
            for nth in _evenly(list(range(1, 1 + made[name])), REFUSALS):
                between = _Between(RandomSchedule(5))
                session = self.session(REFUSED, between)
                between.act = partial(_check_ends, session)
                Injector(session, [Fault("fail-alloc", Step(name, nth))])
                yield session


def _check_ends(session: Session, slice_: int) -> None:
    """No hook of a run goes on for ever."""
    for call in (call for calls in session.runtime.calls for call in calls):
        name, made = call.hook.value, len(call.answers)
        assert made <= ENDLESS, f"{name} has made {made} steps, and does not end where there is no page"


def _schedule() -> Scheduler:
    """Slices of which some end in the middle of hooks."""
    return RandomSchedule(3, QUANTUM)


def _evenly(items: list[int], most: int) -> list[int]:
    """So many of them at most, evenly spread."""
    count = min(most, len(items))
    return [items[number * (len(items) - 1) // max(1, count - 1)] for number in range(count)]


def _unwatch(session: Session) -> None:
    """Nobody looks any more: who has seen the end of a run would wonder at going back."""
    session.oracle = session.usage = None
    session.machine.instruments.clear()


def _difference(first: Done, again: Callable[[], Done]) -> str:
    """What is not alike when a run is made again, or why it cannot be."""
    try:
        return again().differs_from(first)
    except (PolicyError, RecordingError) as error:
        return str(error)


def _remembered(wrong: Sequence[str]) -> str:
    return f"{'; '.join(wrong)}: a hook may depend on its arguments and its answers alone"
