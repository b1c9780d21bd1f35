"""One run as a line on which one can stand anywhere: forwards by running, backwards by running again.

A place is virtual time (units since reset, `Machine.time`) and whether the next slice has been
chosen there. Everything is deterministic, so a place is reached again by a run up to it, which goes on from the
nearest moment before it that is kept (`checkpoints.py`), or else starts at the beginning. What the user
writes belongs to its place: it drops the recorded future (round robin goes on from there) and is
written again whenever the line is run over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kstack.base.errors import KstackError, PolicyError, RecordingError
from kstack.debug.checkpoints import MOST, NEAR, Checkpoints, Lane, TimelineCheckpoint, TimelineMark
from kstack.debug.origin import UNBOUNDED, Origin
from kstack.hw.cpu.state import SliceEnd
from kstack.machine import Machine
from kstack.run.ending import ENDS
from kstack.run.result import BOUND, WORK
from kstack.run.saved import Prefix
from kstack.run.writes import Change, Write, Writes
from kstack.schedule import DEFAULT_QUANTUM, Choice, RoundRobin, View

PIECE: Final = 1 << 14  # units between two questions whether to stop
APART: Final = 1 << 13  # units between two moments that are kept where one only goes forwards, at least
SHARE: Final = 4  # log2 of the part of the way from the beginning by which they are apart
END_OF_RECORDING: Final = "the recording ends here"
_MAY_GO_ON: Final = (END_OF_RECORDING, BOUND, WORK, "finding", "asleep", "deadlock")  # if something is written


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

    def save(self) -> int:
        """How far it is beyond the choices that it repeats."""
        return self._rest.save()

    def stand(self, choices: list[Choice], goes_on: bool, made: int, turn: int) -> None:
        """Go on where so many choices have been made.

        Args:
            choices: to repeat, those that have been made among them.
            goes_on: there is more after them.
            made: how many.
            turn: what `save` said there.
        """
        self.choices, self.goes_on, self.at = choices, goes_on, min(made, len(choices))
        self._rest = RoundRobin(DEFAULT_QUANTUM)
        if made > len(choices):
            self._rest.load(turn)

    def fork(self, made: list[Choice]) -> None:
        """Forget what would have come after the choices `made` so far."""
        self.choices, self.at, self.goes_on, self._rest = made, len(made), True, RoundRobin(DEFAULT_QUANTUM)


def _towards(units: int) -> int:
    """How many units to run at once to a place that is so many away: moments twice as near each time are worth keeping."""
    near = NEAR
    while 2 * near < units:
        near *= 2
    return units - near if units > near else units


class Timeline:
    """One run.

    Args:
        origin: where it begins.
        most: how many moments are kept at once; with 0 it starts at the beginning each time.
    """

    def __init__(self, origin: Origin, most: int = MOST) -> None:
        self.origin = origin
        self.checkpoints = Checkpoints(origin.memory, most)
        self.recorded = origin.choices is not None
        self.forked = False
        self._keeps = most > 0  # and as long as what is kept comes out the same
        self.kept = False  # there is a recording with all that has been written
        self.reached = 0  # the last virtual time that this line was ever at, since it was written to
        self._writes = list(origin.writes)
        self._choices = origin.choices or []
        self._start = 0
        self.restart()
        self._start = self.time
        self.beginning = self.mark

    @property
    def machine(self) -> Machine:
        """The machine as it is here."""
        return self.origin.machine

    @property
    def time(self) -> int:
        """Virtual time here."""
        return self.machine.time

    @property
    def mark(self) -> TimelineMark:
        """This moment."""
        return TimelineMark(self.time, len(self.session.choices), self.begun is None)

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
        self._plan()
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
        if self.time >= self._next:
            self._keep_now_and_then()
        return self.time - before

    def _guarded(self, action: Callable[[], object]) -> None:
        """Where policy or recording are wrong, the run ends, saying so."""
        try:
            action()
        except KstackError as error:
            self.begun, self.ended = None, str(error)

    def _begin(self) -> None:
        machine, limit = self.machine, UNBOUNDED if self.goes_on else self.origin.limit
        if self.time >= limit:
            self.ended = self.origin.why_limited
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
        first = TimelineMark(time, 0, False)  # of all moments at that time
        if time < self.time or (time == self.time and untouched and not chosen):
            self.back_before(first)
        else:
            self._skip_to(first)
        while self.time < time and self.prepare():
            self.advance(_towards(time - self.time))
            self._keep_before(time)
        if chosen:
            self.prepare()

    def back_before(self, mark: TimelineMark) -> None:
        """Stand at the last kept moment before another one, or at the beginning."""
        kept = self.checkpoints.before(mark)
        if kept is None or not self._load(kept):
            self.restart()

    def _skip_to(self, mark: TimelineMark) -> None:
        """Go to the last kept moment before another one, if that is much farther than here."""
        kept = self.checkpoints.before(mark)
        if kept is not None and kept.mark.time > self.time + NEAR and not self._load(kept):
            self.restart()

    # --- what is kept on the way

    def _plan(self) -> None:
        """Say when to keep a moment next if one only goes forwards: the farther from the beginning, the later."""
        self._next = self.time + max(APART, self.time - self._start >> SHARE)

    def _keep_now_and_then(self) -> None:
        """Keep this moment, if no other one is near."""
        mark = self.mark
        apart = max(APART, self.time - self._start >> SHARE) // 2
        before, after = self.checkpoints.before(mark), self.checkpoints.after(mark)
        since = self._start if before is None else before.mark.time
        if self.time - since >= apart and (after is None or after.mark.time - self.time >= apart):
            self._keep()
        self._plan()

    def _keep_before(self, time: int) -> None:
        """On the way to a virtual time, keep this moment if it brings those that come back there much nearer."""
        if time - self.time < NEAR:
            return
        before = self.checkpoints.before(self.mark)
        since = self._start if before is None else before.mark.time
        if 2 * (self.time - since) >= time - self.time:
            self._keep()

    def _keep(self) -> None:
        """Keep this moment, if it can be."""
        state = self.session.save() if self._keeps and self.ended is None else None
        if state is not None:
            last = self.lanes[-1] if self.lanes else None
            lanes = Prefix(self.lanes, max(0, len(self.lanes) - 1))
            turn = self.schedule.save()
            self.checkpoints.add(TimelineCheckpoint(self.mark, state, turn, self.begun, self.left, lanes, last))

    def _load(self, kept: TimelineCheckpoint) -> bool:
        """Go to a kept moment; False where a policy does not do again what it has done: then nothing is kept any more."""
        if not self.session.is_current:
            self.restart()
        try:
            self.session.load(kept.session)
        except PolicyError:
            self._keeps = False
            self.checkpoints.clear()
            return False
        self.schedule.stand(self._choices, self.goes_on, kept.mark.slices, kept.turn)
        self.begun, self.left, self.ended = kept.begun, kept.left, None
        self.lanes = kept.lanes.list() + ([] if kept.last is None else [kept.last])
        self._plan()
        self._guarded(self._writer.due)
        return True

    # --- who ran, and when

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
        self.checkpoints.drop_after(self.mark)
        self.forked, self.kept, self.reached = True, False, self.time
        if self.ended in _MAY_GO_ON:
            self.ended = None
