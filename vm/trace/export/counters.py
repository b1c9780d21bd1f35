"""Numbers over time: the depth of stacks, mapped pages, frames in use, translations filled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kstack.trace.events import TraceEvent
from kstack.trace.export.read import Instructions
from kstack.x86.addresses import PAGE

Column = NDArray[np.uint64]
WINDOW: Final = 64  # virtual time, of which the first, the last and both extremes of a depth are kept
_NUMBER: Final = re.compile(r"-> (?:0x)?[0-9a-f]+$")
_PAGE: Final = -PAGE  # as a mask


class Area(NamedTuple):
    """A thread's stack: where it is (bytes), and from when to when (virtual time)."""

    thread: int
    bottom: int
    size: int
    begun: int
    ended: int


def areas(events: Iterable[TraceEvent], end: int) -> list[Area]:
    """All stacks of a trace, in the order of their creation; those that are not given up last until `end`."""
    found: list[Area] = []
    last: dict[int | None, int] = {}  # thread -> place
    for event in events:
        if event.kind == "thread" and event.address is not None and event.thread is not None:
            last[event.thread] = len(found)
            found.append(Area(event.thread, event.address, event.value or 0, event.count, end))
        elif event.kind == "thread-gone" and event.thread in last:
            place = last.pop(event.thread)
            found[place] = found[place]._replace(ended=event.count)
    return found


class DepthSample(NamedTuple):
    """How deep a thread is in its stack: virtual time, thread, and bytes from the top."""

    time: int
    thread: int
    depth: int


class CounterValue(NamedTuple):
    """What a counter is from now on: `pages` of a thread, `fills` and `level` of a CPU, `used`."""

    what: str
    whose: int
    value: int


class Depths:
    """How deep threads are in their stacks, thinned.

    Args:
        stacks: of the trace.
    """

    def __init__(self, stacks: list[Area]) -> None:
        self._at: dict[int, list[Area]] = {}  # bottom -> one after the other
        for area in stacks:
            self._at.setdefault(area.bottom, []).append(area)
        self._bottoms = np.array(sorted(self._at), dtype=np.uint64)
        self._last: dict[Area, int] = {}

    def samples(self, rows: Instructions) -> Iterator[DepthSample]:
        """Depths where they have changed, by thread and time.

        Args:
            rows: the next instructions.
        """
        places = np.searchsorted(self._bottoms, rows.rsp, "left")  # 0: below all
        for place in np.unique(places[places > 0]).tolist():
            own = places == place
            times, pointers = rows.count[own], rows.rsp[own]
            for area in self._at[int(self._bottoms[place - 1])]:
                inside = (times >= area.begun) & (times <= area.ended) & (pointers <= area.bottom + area.size)
                yield from self._changes(area, times[inside], pointers[inside])

    def _changes(self, area: Area, times: Column, pointers: Column) -> Iterator[DepthSample]:
        depths = np.uint64(area.bottom + area.size) - pointers
        for place in _kept(times, depths):
            depth = int(depths[place])
            if self._last.get(area) != depth:
                self._last[area] = depth
                yield DepthSample(int(times[place]), area.thread, depth)


def _kept(times: Column, depths: Column) -> list[int]:
    """Places of the first, the last, the deepest and the shallowest of each window."""
    if not len(times):
        return []
    windows = times // np.uint64(WINDOW)
    starts = np.concatenate(([0], np.nonzero(windows[1:] != windows[:-1])[0] + 1))
    ends = np.concatenate((starts[1:], [len(times)])) - 1
    order = np.lexsort((depths, windows))  # within each window by depth
    return [int(place) for place in np.unique(np.concatenate((starts, ends, order[starts], order[ends])))]


class Counters:
    """Numbers that events change."""

    def __init__(self) -> None:
        self._pages: dict[int, dict[int, None]] = {}  # thread -> addresses
        self._fills: dict[int, int] = {}  # CPU -> fills
        self._in_use = 0

    def told(self, event: TraceEvent) -> Iterator[CounterValue]:
        """The next event: counters that it changes.

        `used` is frames that the policy has taken and not given back, since the trace began; `level` is what a step
        that asks its pool was answered.
        """
        if event.kind in ("grow", "shrink") and event.thread is not None and event.address is not None:
            pages = self._pages.setdefault(event.thread, {})
            if event.kind == "grow":
                pages[event.address & _PAGE] = None
            else:
                pages.pop(event.address & _PAGE, None)
            yield CounterValue("pages", event.thread, len(pages))
        elif event.kind in ("tlb-fill", "tlb-speculated"):
            self._fills[event.cpu] = self._fills.get(event.cpu, 0) + 1
            yield CounterValue("fills", event.cpu, self._fills[event.cpu])
        elif event.kind == "step":
            answered = _NUMBER.search(event.text)
            if event.name == "GiveBack" or (event.name in ("TakePage", "AllocPage") and answered):
                self._in_use += -1 if event.name == "GiveBack" else 1
                yield CounterValue("used", 0, self._in_use)
            elif event.name == "PoolLevel" and answered:
                yield CounterValue("level", event.cpu, int(answered[0].removeprefix("-> "), 0))
