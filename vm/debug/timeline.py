"""One run as a line on which one can stand anywhere: forwards by running, backwards by running again.

A place is virtual time (units since reset, `Machine.time`) and whether the next slice has been
chosen there. Everything is deterministic, so a place is reached again by a new run up to it. What the user
writes belongs to its place: it drops the recorded future (round robin goes on from there) and is
written again whenever the line is run over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kstack.base.errors import KstackError, RecordingError
from kstack.debug.origin import UNBOUNDED, Origin
from kstack.hw.cpu.cpu import SliceEnd
from kstack.machine import Machine
from kstack.run.ending import ENDS
from kstack.run.session import BOUND, WORK
from kstack.run.writes import Change, Write, Writes
from kstack.schedule import DEFAULT_QUANTUM, Choice, RoundRobin, View

PIECE: Final = 1 << 14  # units between two questions whether to stop
END_OF_RECORDING: Final = "the recording ends here"
_MAY_GO_ON: Final = (END_OF_RECORDING, BOUND, WORK, "finding", "asleep", "deadlock")  # if something is written


class Lane(NamedTuple):
    """CPU `cpu` ran from `start` to `end` (virtual time)."""

    cpu: int
    start: int
    end: int


class Kept:
    """Repeats choices made before, then goes on in turn, unless the line ends with them.

    Args:
        choices: to repeat.
        goes_on: there is more after them.
    """

    name = "debugger"

    def __init__(self, choices: list[Choice], goes_on: bool) -> None:
        self.choices = choices
        self.goes_on = goes_on
        self.at = 0
        self._rest = RoundRobin(DEFAULT_QUANTUM)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to choose."""
        return not self.goes_on and self.at >= len(self.choices)

    def choose(self, view: View) -> Choice:
        """The next choice.

        Raises:
            RecordingError: the run goes another way than when it was recorded.
        """
        if self.at >= len(self.choices):
            return self._rest.choose(view)
        choice = self.choices[self.at]
        if choice.cpu not in view.runnable:
            raise RecordingError(
                f"replay diverges at slice {self.at}, time {view.time}: CPU {choice.cpu} cannot run; record it again"
            )
        self.at += 1
        return choice

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""

    def fork(self, made: list[Choice]) -> None:
        """Forget what would have come after the choices `made` so far."""
        self.choices, self.at, self.goes_on, self._rest = made, len(made), True, RoundRobin(DEFAULT_QUANTUM)


class Timeline:
    """One run.

    Args:
        origin: where it begins.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.recorded = origin.choices is not None
        self.forked = False
        self.kept = False  # there is a recording with all that has been written
        self.reached = 0  # the last virtual time that this line was ever at, since it was written to
        self._writes = list(origin.writes)
        self._choices = origin.choices or []
        self.restart()

    @property
    def machine(self) -> Machine:
        """The machine as it is here."""
        return self.origin.machine

    @property
    def time(self) -> int:
        """Virtual time here."""
        return self.machine.time

    @property
    def writes(self) -> list[Write]:
        """What has been written into this run, by its recording or by the user."""
        return self._writer.writes

    @property
    def goes_on(self) -> bool:
        """The schedule has no end: a live run, or one that was written to."""
        return self.forked or not self.recorded

    @property
    def reason(self) -> str | None:
        """Why the run has ended, in a sentence; None where it has not, or `ended` says all there is to say."""
        return self.session.reason(self.ended) if self.ended in ENDS else None

    @property
    def cpu(self) -> int | None:
        """The CPU that runs next, None where only the end or chance of a schedule not asked yet could tell."""
        if self.begun is not None:
            return self.begun.cpu
        kept = self.schedule
        return kept.choices[kept.at].cpu if self.ended is None and kept.at < len(kept.choices) else None

    def restart(self) -> None:
        """Go to the beginning."""
        self.schedule = Kept(self._choices, self.goes_on)
        self.session = self.origin.session(self.schedule)
        self._writer = Writes(self.session, self._writes)
        self.begun: Choice | None = None  # the slice in flight
        self.left = 0  # units of it
        self.ended: str | None = None  # why the run goes no further
        self.lanes: list[Lane] = []
        self._guarded(self._writer.due)

    # --- forwards

    def prepare(self) -> bool:
        """Choose the next slice, if none is in flight; False where the run has ended."""
        while self.begun is None and self.ended is None:
            self._guarded(self._begin)
        return self.begun is not None

    def advance(self, units: int) -> int:
        """Run the slice in flight for at most `units`.

        Returns:
            Units of virtual time that have passed; 0 where the CPU could not run.
        """
        before = self.time
        self._guarded(lambda: self._run(min(units, self.left)))
        self._guarded(self._writer.due)
        if self.time > self.reached:
            self.reached, self.kept = self.time, False
        return self.time - before

    def _guarded(self, action: Callable[[], object]) -> None:
        """Where policy or recording are wrong, the run ends, saying so."""
        try:
            action()
        except KstackError as error:
            self.begun, self.ended = None, str(error)

    def _begin(self) -> None:
        machine, limit = self.machine, UNBOUNDED if self.goes_on else self.origin.limit
        if machine.work >= machine.work_limit and machine.end() is None and not self.goes_on:
            self.ended = WORK
        elif self.time >= limit:
            self.ended = BOUND
        elif self.schedule.exhausted and machine.end() is None and machine.runnable():
            self.ended = END_OF_RECORDING
        else:
            begun = self.session.begin(limit - self.time)
            if isinstance(begun, Choice):
                self.begun, self.left = begun, begun.quantum
            else:
                self.ended = begun
        self._writer.due()

    def _run(self, units: int) -> None:
        assert self.begun is not None
        number, start = self.begun.cpu, self.time
        piece = self.session.advance(number, units)
        self._ran(number, start)
        self.left -= piece.elapsed
        if piece.end is SliceEnd.BUDGET and self.left > 0:
            return
        self.begun, self.ended = None, self.session.finish()
        if not self.goes_on and self.session.ends_here():
            self.ended = "finding"

    def _ran(self, cpu: int, start: int) -> None:
        if self.time == start:
            return
        last = self.lanes[-1] if self.lanes else None
        if last is not None and last.cpu == cpu and last.end == start:
            self.lanes[-1] = Lane(cpu, last.start, self.time)
        else:
            self.lanes.append(Lane(cpu, start, self.time))

    # --- anywhere

    def goto(self, time: int, chosen: bool = False) -> None:
        """Stand where virtual time is `time`, or where it first is more, or at the end.

        Args:
            time: units; less than the beginning's is the beginning.
            chosen: the slice that comes next has been chosen.
        """
        untouched = self.begun is not None and self.left == self.begun.quantum
        if time < self.time or (time == self.time and untouched and not chosen):
            self.restart()
        while self.time < time and self.prepare():
            self.advance(time - self.time)
        if chosen:
            self.prepare()

    def last_run(self, cpu: int) -> Lane | None:
        """The last stretch before here in which `cpu` ran."""
        return next((lane for lane in reversed(self.lanes) if lane.cpu == cpu), None)

    # --- what would repeat it

    def made(self) -> list[Choice]:
        """The choices so far; the slice in flight ends here."""
        choices = list(self.session.choices)
        if self.begun is not None:
            choices[-1] = Choice(self.begun.cpu, self.begun.quantum - self.left)
        return choices

    def written(self) -> list[Write]:
        """What has been written so far."""
        return self._writer.writes[: self._writer.made]

    # --- writing

    def write(self, change: Change) -> None:
        """Make a change here; what was recorded of the future is dropped.

        Raises:
            ConfigError: it cannot be made; nothing has changed.
        """
        self._writer.write(change)
        self._writes = self._writer.writes
        self._choices = list(self.session.choices)
        self.schedule.fork(self._choices)
        self.forked, self.kept, self.reached = True, False, self.time
        if self.ended in _MAY_GO_ON:
            self.ended = None
