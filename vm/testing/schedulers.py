"""What any schedule must do: a test class to derive from; and one that follows choices as far as it can.

class TestMine(SchedulerConformance):
    def make(self, seed):
        return MySchedule(seed)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

from vm.errors import RecordingError
from vm.scenarios import find_scenario
from vm.schedule import Choice, ReplaySchedule, RoundRobin, Scheduler, View
from vm.session import RunOptions
from vm.stacks.registry import find_policy
from vm.testing.guests import GuestRun, Start

REST_QUANTUM: Final = 1000
"""Units of a slice, when there is nothing left to follow."""
SCENARIO: Final = "exit-reuse"
POLICY: Final = "switch-sp-ipi"
SEEDS: Final = (0, 1, 7)
LIMIT: Final = 500_000
"""Units that the scenario may run: twice what it takes where everybody has his turn."""
SLICES: Final = 300


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
    """Derive a test class and define `make`; pytest runs the rest."""

    def make(self, seed: int) -> Scheduler:
        """A fresh schedule; one that takes no seed ignores it."""
        raise NotImplementedError(f"{type(self).__name__}: define make(self, seed)")

    def test_it_has_a_name(self) -> None:
        """Verdicts and reports name the schedule."""
        assert self.make(0).name.strip(), "its name is empty"

    def test_it_chooses_a_cpu_that_can_run_for_at_least_one_unit(self) -> None:
        """Whoever can run, whoever is blocked, whatever has happened."""
        for seed in SEEDS:
            _drive(self.make(seed), seed)

    def test_a_seed_is_a_schedule(self) -> None:
        """The same seed and the same views give the same choices, whatever Python's own generator is at."""
        for seed in SEEDS:
            first = _drive(self.make(seed), seed)
            state = random.getstate()
            random.seed(seed + 1)  # what a schedule that draws from it would notice
            try:
                again = _drive(self.make(seed), seed)
            finally:
                random.setstate(state)
            assert again == first, f"seed {seed} gave two schedules: does it use a clock, `random`, or what it keeps?"

    def test_it_leaves_other_schedules_alone(self) -> None:
        """Two of them, asked in turn, choose as each would alone."""
        alone = _drive(self.make(1), 1)
        views, one, other = list(_views(1)), self.make(1), self.make(1)
        for view, choice in zip(views, alone, strict=True):
            other.choose(view)
            assert one.choose(view) == choice, "another schedule of its class has changed it"
            _mark(one, view, choice)
            _mark(other, view, choice)

    def test_what_it_chose_can_be_replayed(self) -> None:
        """A run of a guest under it, and one by its recorded choices, end in the same state."""
        run = self._run(self.make(3))
        try:
            again = self._run(ReplaySchedule(run.choices))
        except RecordingError as error:
            raise AssertionError(f"its choices do not repeat the run: {error}") from error
        assert run.result.ended == "exit", (
            f"the guest did not come to its end: {run.result.ended}; is somebody starved?"
        )
        assert again.result.state_hash == run.result.state_hash

    def _run(self, scheduler: Scheduler) -> GuestRun:
        scenario = find_scenario(SCENARIO)
        options = RunOptions(max_time=LIMIT)
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
    assert choice.cpu in view.runnable, f"it chose CPU {choice.cpu}, of {view.runnable} that can run"
    assert choice.quantum >= 1, f"it gave CPU {choice.cpu} a slice of {choice.quantum} units"
    return choice


def _views(seed: int) -> Iterator[View]:
    """Moments at which a schedule may be asked: some CPUs sleep, some wait for others; time goes on."""
    chance, time = random.Random(seed), 0
    for _ in range(SLICES):
        runnable = tuple(cpu for cpu in range(4) if chance.random() < 0.7) or (chance.randrange(4),)
        blocked = frozenset(cpu for cpu in runnable if chance.random() < 0.2)
        yield View(runnable, blocked, time)
        time += chance.randrange(1, 200)


def _mark(scheduler: Scheduler, view: View, choice: Choice) -> None:
    """An event of the guest's now and then."""
    if view.time % 5 == 0:
        scheduler.event(choice.cpu, "here")


def _drive(scheduler: Scheduler, seed: int) -> list[Choice]:
    made = []
    for view in _views(seed):
        choice = _checked(scheduler.choose(view), view)
        made.append(choice)
        _mark(scheduler, view, choice)
    return made
