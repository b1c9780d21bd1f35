"""What any schedule must do: a test class to derive from; and one that follows choices as far as it can.

class TestMine(SchedulerConformance):
    def make(self, seed):
        return MySchedule(seed)

The class stands at the top of its module, since it is imported by another process too.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final

from kstack.base.errors import RecordingError
from kstack.kernels.known import usual_guests
from kstack.machine import MAX_CPUS
from kstack.run.options import RunOptions
from kstack.schedule import Choice, ReplaySchedule, RoundRobin, Scheduler, View
from kstack.stacks.loading.registry import find_policy
from kstack.testing.guests import GuestRun, Start
from kstack.testing.parting import parting
from kstack.testing.worlds import ElsewhereError, elsewhere, world

REST_QUANTUM: Final = 1000
"""Units of a slice, when there is nothing left to follow."""
SCENARIO: Final = "laight"
POLICY: Final = "switch-sp-ipi"
SEEDS: Final = (0, 1, 7)
LIMIT: Final = 120_000
"""Units that the scenario may run: three times what it takes where everybody has his turn."""
SLICES: Final = 307  # a prime: what is counted together does not come out even
CPUS: Final = (1, 2, 4, MAX_CPUS)
"""Of machines whose schedules are asked."""
BEGIN: Final = 80_000
"""Virtual time at which they are asked first: a scenario's guest has booted."""


class Following:
    """Follows choices as far as it can: each CPU runs for so many units of virtual time, in as many slices as it takes.

    One that cannot run is passed over, and after the last choice everybody runs in turn. Unlike `ReplaySchedule` it fits
    any run, so that choices can be drawn, or left out of a recording.

    Args:
        choices: in order.
    """

    def __init__(self, choices: Iterable[Choice]) -> None:
        self.name = "following"
        self._choices = list(choices)
        self._at = 0
        self._end: int | None = None  # when the choice's units will be used up; None before its first slice
        self._asked = -1
        self._rest = RoundRobin(REST_QUANTUM)

    def choose(self, view: View) -> Choice:
        """What is left of the choice that is followed, or the next one that can be."""
        idle, self._asked = view.time == self._asked, view.time
        while self._at < len(self._choices):
            cpu, units = self._choices[self._at]
            if self._end is None:
                self._end = view.time + units
            elif idle:  # a slice that came to nothing
                self._end = view.time
            if cpu in view.runnable and view.time < self._end:
                return Choice(cpu, self._end - view.time)
            self._at, self._end, idle = self._at + 1, None, False
        return self._rest.choose(view)

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""


class SchedulerConformance:
    """Derive a test class and define `make`; pytest runs the rest.

    Attributes:
        limit: units that the guest's run may take.
    """

    limit: ClassVar[int] = LIMIT

    def make(self, seed: int) -> Scheduler:
        """A fresh schedule; one that takes no seed ignores it."""
        raise NotImplementedError(f"{type(self).__name__}: define make(self, seed)")

    def test_it_has_a_name(self) -> None:
        """Verdicts and reports name the schedule."""
        name = getattr(self.make(0), "name", None)
        assert isinstance(name, str), f"its name is {name!r}, and must be a string"
        assert name.strip(), "its name is empty"

    def test_it_chooses_a_cpu_that_can_run_for_at_least_one_unit(self) -> None:
        """Whoever can run, of however many, whoever is blocked, whatever has happened."""
        for seed in SEEDS:
            for cpus in CPUS:
                _drive(self.make(seed), seed, cpus)

    def test_a_seed_is_a_schedule(self) -> None:
        """The same seed and the same views give the same choices, whatever Python's clocks and random numbers are."""
        for seed in SEEDS:
            one, other = self.make(seed), self.make(seed)
            with world(0, type(one)):
                first = _drive(one, seed)
            with world(1, type(other)):
                again = _drive(other, seed)
            wrong = parting(first, again)
            assert not wrong, (
                f"seed {seed} gave two schedules ({wrong}): does it use a clock, `random`, or what it keeps?"
            )

    def test_a_seed_is_the_same_schedule_in_another_process(self) -> None:
        """Where sets have other orders, and no module or class has been used before."""
        try:
            others = elsewhere(choices_of, type(self), SEEDS[::-1])
        except ElsewhereError as error:
            raise AssertionError(str(error)) from error
        own = choices_of(type(self), SEEDS)
        for choices in others:
            wrong = next((wrong for seed in SEEDS if (wrong := parting(own[seed], choices[seed]))), "")
            assert not wrong, f"a seed is another schedule in another process, or where other seeds came first: {wrong}"

    def test_it_leaves_other_schedules_alone(self) -> None:
        """Two of them, asked in turn, choose as each would alone."""
        alone = _drive(self.make(1), 1)
        one, other = self.make(1), self.make(2)
        for view, disturbing, choice in zip(_views(1), _views(2), alone, strict=True):
            _mark(other, disturbing, _checked(other.choose(disturbing), disturbing))
            chosen = one.choose(view)
            assert chosen == choice, "another schedule of its class has changed it"
            _mark(one, view, choice)

    def test_what_it_chose_can_be_replayed(self) -> None:
        """A run of a guest under it, and one by its recorded choices, end in the same state."""
        run = self._run(self.make(3))
        assert run.result.ended == "exit", (
            f"the guest did not come to its end: {run.result.ended}; is somebody starved?"
        )
        try:
            again = self._run(ReplaySchedule(run.choices))
        except RecordingError as error:
            raise AssertionError(f"its choices do not repeat the run: {error}") from error
        assert again.result.state_hash == run.result.state_hash, "its choices lead to another state"

    def _run(self, scheduler: Scheduler) -> GuestRun:
        scenario = usual_guests().scenario(SCENARIO)
        options = RunOptions(max_time=self.limit)
        start = Start(SCENARIO, scenario.cpus, 64 << 20, policy=find_policy(POLICY), options=options)
        return start.run(_Watched(scheduler))


class _Watched:
    """A schedule whose choices are looked at: a slice of nothing would go on for ever."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.name, self._scheduler, self.event = scheduler.name, scheduler, scheduler.event

    def choose(self, view: View) -> Choice:
        """Its choice, if there can be such a one."""
        return _checked(self._scheduler.choose(view), view)


def _checked(choice: Choice, view: View) -> Choice:
    for what in choice:
        assert type(what) is int, f"it chose {choice}, of which {what!r} is no number"
    assert choice.cpu in view.runnable, f"it chose CPU {choice.cpu}, of {view.runnable} that can run"
    assert choice.quantum >= 1, f"it gave CPU {choice.cpu} a slice of {choice.quantum} units"
    return choice


def choices_of(kit: type[SchedulerConformance], seeds: Sequence[int]) -> dict[int, list[Choice]]:
    """What schedules of a kit choose, by seed; made and asked in this order."""
    found = {}
    for seed in seeds:
        scheduler = kit().make(seed)
        with world(0, type(scheduler)):
            found[seed] = _drive(scheduler, seed)
    return found


def _views(seed: int, cpus: int = 4) -> Iterator[View]:
    """Moments at which a schedule may be asked: some CPUs sleep, some wait for others; time goes on, or stands still."""
    chance, time = random.Random(seed), BEGIN
    for _ in range(SLICES):
        runnable = tuple(cpu for cpu in range(cpus) if chance.random() < 0.7) or (chance.randrange(cpus),)
        blocked = frozenset(cpu for cpu in runnable if chance.random() < 0.2)
        yield View(runnable, blocked, time)
        time += chance.choice((0, chance.randrange(1, 200)))


def _mark(scheduler: Scheduler, view: View, choice: Choice) -> None:
    """An event of the guest's now and then."""
    if view.time % 5 == 0:
        scheduler.event(choice.cpu, "here")


def _drive(scheduler: Scheduler, seed: int, cpus: int = 4) -> list[Choice]:
    made = []
    for view in _views(seed, cpus):
        try:
            choice = _checked(scheduler.choose(view), view)
        except Exception as error:
            raise AssertionError(f"asked of {view}: {type(error).__name__}: {error}") from error
        made.append(choice)
        _mark(scheduler, view, choice)
    return made
