"""A simpler schedule under which a run fails alike: round robin if that will do, then stretches left out by ddmin.

A stretch is how long a CPU runs before another one does. One that is left out is made up for when its CPU runs next: so
the others come between fewer places, and what each has done when they do is what it was. Then stretches are left out
that need not be made up for. Everything is decided by counts: the same run gives the same result on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from kstack.base.ddmin import ddmin
from kstack.schedule import Choice, ReplaySchedule, RoundRobin, Scheduler, View
from kstack.testing.guests import GuestRun
from kstack.testing.schedulers import REST_QUANTUM, Following

RUNS: Final = 100
"""Runs that are tried at most."""
UNITS: Final = 10_000_000
"""Units of virtual time that these may take together; some ten seconds."""
SIMPLE: Final = (1000, 100, 10)
"""Round-robin quanta that are tried first (units)."""


class Minimised(NamedTuple):
    """A run that fails like another.

    Attributes:
        run: it; the other one itself where nothing simpler was found.
        kept: the stretches that matter; None where all were left as they were. Behind them everybody runs in turn.
        tried: how many runs it took.
        complete: no single choice can be left out; the bound did not cut the search.
    """

    run: GuestRun
    kept: tuple[Choice, ...] | None
    tried: int
    complete: bool


@dataclass
class _Search:
    """Runs that fail alike, and what is left of the bounds."""

    original: GuestRun
    runs: int
    units: int
    tried: int = 0
    best: GuestRun | None = None

    @property
    def spent(self) -> bool:
        return self.tried >= self.runs or self.units <= 0

    def fails(self, scheduler: Scheduler) -> bool:
        """Whether the guest fails as it did, the same faults having happened."""
        self.tried += 1
        run = self.original.start.run(scheduler)
        self.units -= sum(choice.quantum for choice in run.choices)
        wanted = self.original.failure
        assert wanted is not None, "a run that failed is minimised"
        if run.failure is None or run.failure.kind != wanted.kind or _happened(run) != _happened(self.original):
            return False
        self.best = run
        return True


def _happened(run: GuestRun) -> list[bool]:
    """Which of its faults have."""
    return [at is not None for at in run.fired]


def minimise(run: GuestRun, runs: int = RUNS, units: int = UNITS) -> Minimised:
    """Look for a simpler schedule under which a run fails in the same way.

    Args:
        run: that has failed.
        runs: that may be tried; 0 leaves everything as it is.
        units: of virtual time that these may take together.
    """
    run = _stopping(run)
    search = _Search(run, runs, units)
    stretches = _simple(search)
    if stretches is None:
        stretches = _stretches(run)
        if search.spent or not search.fails(Following(stretches)):
            return Minimised(run, None, search.tried, False)
    places = ddmin(
        list(range(len(stretches))),
        lambda some: search.fails(Following(deferred(stretches, some))),
        lambda: search.spent,
    )
    kept = deferred(stretches, places)
    kept = ddmin(kept, lambda some: search.fails(Following(merged(some))), lambda: search.spent)
    best = run.start.run(Following(merged(kept)))  # the last one that was tried need not be the best
    return Minimised(_clipped(best), tuple(merged(kept)), search.tried, not search.spent)


def _stopping(run: GuestRun) -> GuestRun:
    """The run, ending at its finding where that is the first there is; what comes after it does not matter."""
    failure, found = run.failure, run.outcome.findings if run.outcome is not None else ()
    if failure is None or not found or found[0].kind.value != failure.kind:
        return run
    start = replace(run.start, options=replace(run.start.options, stop_at_finding=True))
    again = start.run(ReplaySchedule(run.choices, finished=False), run.schedule)
    return again if again.failure is not None and again.failure.kind == failure.kind else run


class _Timed(ReplaySchedule):
    """Replays, and remembers when it was asked."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        super().__init__(choices, finished=False)
        self.times: list[int] = []

    def choose(self, view: View) -> Choice:
        """The next recorded choice."""
        self.times.append(view.time)
        return super().choose(view)


def _ends(run: GuestRun) -> tuple[GuestRun, list[int]]:
    """The run, made again, and when each of its slices began; the end behind the last."""
    timed = _Timed(run.choices)
    again = run.start.run(timed, run.schedule)
    return again, [*timed.times[: len(run.choices)], again.session.machine.time]


def _stretches(run: GuestRun) -> list[Choice]:
    """How long each CPU really ran, before another one did."""
    times = _ends(run)[1]
    slices = zip(run.choices, times, times[1:], strict=False)
    return merged([Choice(choice.cpu, max(1, min(choice.quantum, end - begin))) for choice, begin, end in slices])


def _clipped(run: GuestRun) -> GuestRun:
    """The run, whose last slice ends with the instruction that brings the finding at which the run ends."""
    found = run.outcome.findings if run.outcome is not None and run.outcome.ended == "finding" else ()
    began = _ends(run)[1][-2] if found else 0
    for units in (found[0].time - began + more for more in (0, 1)) if found else ():
        *before, last = run.choices
        if 0 < units < last.quantum:
            shorter = run.start.run(ReplaySchedule([*before, Choice(last.cpu, units)], finished=False), run.schedule)
            if shorter.failure == run.failure:
                return shorter
    return run


def _simple(search: _Search) -> list[Choice] | None:
    """The stretches of a round robin that fails as well, if one does.

    They are none at all for the round robin that comes behind them anyway.
    """
    for quantum in SIMPLE:
        if not search.spent and search.fails(RoundRobin(quantum)):
            assert search.best is not None, "it has just been run"
            stretches = [] if quantum == REST_QUANTUM else _stretches(search.best)
            if not stretches or search.fails(Following(stretches)):
                return stretches
    return None


def deferred(stretches: Sequence[Choice], places: Sequence[int]) -> list[Choice]:
    """Only some of the stretches; what is left out of a CPU's is added to its next one, and lost if there is none.

    Args:
        stretches: in order.
        places: of those that stay, in order.
    """
    found: list[Choice] = []
    owed: dict[int, int] = {}
    stay = frozenset(places)
    for place, (cpu, units) in enumerate(stretches):
        owed[cpu] = owed.get(cpu, 0) + units
        if place in stay:
            found.append(Choice(cpu, owed.pop(cpu)))
    return merged(found)


def merged(choices: Sequence[Choice]) -> list[Choice]:
    """Choices with those of one CPU in a row made one."""
    found: list[Choice] = []
    for choice in choices:
        if found and found[-1].cpu == choice.cpu:
            found[-1] = Choice(choice.cpu, found[-1].quantum + choice.quantum)
        else:
            found.append(choice)
    return found
