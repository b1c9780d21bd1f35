"""Places of a run that are kept whole, so that going back starts near, and not at the beginning.

As in rr's ReplayTimeline a `TimelineMark` orders moments, and a checkpoint serves all moments behind it. Their number and the
memory that they take are bounded. They are many near the present, and fewer the farther away from it, on both sides: from
the nearest one before a place the way is a part of the distance that one goes back.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

from kstack.hw.memory import MemorySnapshot
from kstack.run.saved import Prefix, SessionState
from kstack.schedule import Choice
from kstack.x86.addresses import PAGE

NEAR: Final = 512  # units: nearer places are not told apart
MOST: Final = 64  # places
BUDGET: Final = 256 << 20  # bytes, about


class TimelineMark(NamedTuple):
    """A moment of a run; of two moments the earlier one is less.

    Attributes:
        time: virtual time (units since reset).
        slices: chosen until then: some take no time.
        over: the last of them has ended, and the next one has not been chosen.
    """

    time: int
    slices: int
    over: bool


class Lane(NamedTuple):
    """CPU `cpu` ran from `start` to `end` (virtual time)."""

    cpu: int
    start: int
    end: int


class TimelineCheckpoint(NamedTuple):
    """A moment with all that is needed to go on from there.

    Attributes:
        mark: which.
        session: its state.
        turn: the CPU that round robin chose last.
        begun: the slice in flight, and units that are left of it.
        lanes: who ran until then, but for the last stretch, which can still grow; and that.
    """

    mark: TimelineMark
    session: SessionState
    turn: int
    begun: Choice | None
    left: int
    lanes: Prefix[Lane]
    last: Lane | None


class Checkpoints:
    """Those of one run, in order.

    Args:
        beginning: RAM at the beginning of the run, which is kept in any case.
        most: how many at once; with 0 none is kept.
        budget: bytes that they may take together, but for the last one.
    """

    def __init__(self, beginning: MemorySnapshot, most: int = MOST, budget: int = BUDGET) -> None:
        self._beginning, self._most, self._budget = beginning, most, budget
        self._kept: list[TimelineCheckpoint] = []
        self._frames: list[int] = []  # of RAM, for each: those that the one before has not

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def marks(self) -> list[TimelineMark]:
        """Where they are."""
        return [kept.mark for kept in self._kept]

    @property
    def size(self) -> int:
        """Bytes that they take, at most, about."""
        return PAGE * sum(self._frames) + sum(kept.session.beside for kept in self._kept)

    def before(self, mark: TimelineMark) -> TimelineCheckpoint | None:
        """The last one that is earlier than a moment, None if there is none."""
        place = self._place(mark)
        return self._kept[place - 1] if place else None

    def after(self, mark: TimelineMark) -> TimelineCheckpoint | None:
        """The first one that is not earlier."""
        place = self._place(mark)
        return self._kept[place] if place < len(self._kept) else None

    def _place(self, mark: TimelineMark) -> int:
        return bisect_left(self._kept, mark, key=lambda kept: kept.mark)

    def add(self, new: TimelineCheckpoint) -> None:
        """Keep one, of the present moment; others may have to make room. A moment that is kept already stays as it is."""
        place = self._place(new.mark)
        if self._most == 0 or (place < len(self._kept) and self._kept[place].mark == new.mark):
            return
        self._kept.insert(place, new)
        self._frames.insert(place, 0)
        self._count(place)
        self._count(place + 1)
        while len(self._kept) > 1 and (len(self._kept) > self._most or self.size > self._budget):
            self._drop(self._least(new))

    def _count(self, place: int) -> None:
        """Count the frames that one has, and the one before it has not."""
        if place < len(self._kept):
            before = self._kept[place - 1].session.memory if place else self._beginning
            own = self._kept[place].session.memory
            self._frames[place] = sum(before.get(frame) is not data for frame, data in own.items())

    def _least(self, new: TimelineCheckpoint) -> int:
        """The old one that is missed least: the gap that it would leave is the smallest for its distance from the present."""
        marks, present = [kept.mark.time for kept in self._kept], new.mark.time

        def missed(place: int) -> float:
            before = marks[place - 1] if place else marks[0] - (marks[-1] - marks[0])  # the beginning is far
            after = marks[place + 1] if place + 1 < len(marks) else present
            return (max(after, marks[place]) - before) / (abs(present - marks[place]) + NEAR)

        old = [place for place, kept in enumerate(self._kept) if kept is not new]
        return min(old, key=lambda place: (missed(place), place))

    def _drop(self, place: int) -> None:
        """Drop one; what it shares with the next one stays, and is counted there."""
        del self._kept[place], self._frames[place]
        self._count(place)

    def drop_after(self, mark: TimelineMark) -> None:
        """Forget all that are later than a moment: the run goes another way there."""
        while self._kept and self._kept[-1].mark > mark:
            self._kept.pop()
            self._frames.pop()

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._frames.clear()
