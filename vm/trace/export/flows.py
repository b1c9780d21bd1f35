"""Which events lead to which: the arrows of a timeline.

    IPI sent -> interrupt taken for it            by vector and target; several may be taken as one
    thread woken -> it runs
    store of an entry -> page given back -> use of a stale translation -> findings about it
    page given back -> finding about its frame    where no stale use led there

The store is the last before the use that took the entry from this page and frame: with it the translation that is
used has become stale (or has again).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from kstack.trace.events import TraceEvent
from kstack.x86.addresses import PAGE

_PAGE: Final = -PAGE  # as a mask
STORES: Final = ("WritePte", "SwapPte", "ExchangePte")  # steps
_FRAME: Final = re.compile(r"GiveBack\(frame (0x[0-9a-f]+)")


class Flows(NamedTuple):
    """Arrows by the place of their events in the table: numbers of arrows that pass, and of those that end there."""

    passing: dict[int, list[int]]
    ending: dict[int, list[int]]


class _Finder:
    """What may lead to something later."""

    def __init__(self) -> None:
        self.chains: list[list[int]] = []
        self._sent: dict[tuple[int, str], list[int]] = {}  # target, vector -> events
        self._woken: dict[int, int] = {}  # thread -> when last, if it has not run since
        self._stored: dict[int, int] = {}  # page -> the last store of its entry
        self._cleared: dict[tuple[int, int], int] = {}  # page, frame -> the last store that took it away
        self._given: dict[int, int] = {}  # frame -> when it was given back last
        self._given_first: dict[int, int] = {}  # frame -> when first since it was taken from a page
        self._stale: dict[tuple[int, int], tuple[int, list[int]]] = {}  # CPU, page -> frame, chain to the last use

    def see(self, place: int, event: TraceEvent) -> None:
        """The next event."""
        page = None if event.address is None else event.address & _PAGE
        frame = None if event.frame is None else event.frame & _PAGE
        if event.kind == "ipi" and event.value is not None:
            self._sent.setdefault((event.value, event.name), []).append(place)
        elif event.kind in ("interrupt", "nmi"):
            name = "nmi" if event.kind == "nmi" else event.name
            self.chains += [[sent, place] for sent in self._sent.pop((event.cpu, name), [])]
        elif event.kind == "wake" and event.thread is not None:
            self._woken[event.thread] = place
        elif event.kind == "hook" and event.name == "switch_in" and event.thread in self._woken:
            self.chains.append([self._woken.pop(event.thread), place])
        elif event.kind == "step":
            self._step(place, event, page)
        elif event.kind == "shrink" and page is not None and frame is not None:
            self._cleared[page, frame] = place
            self._given_first.pop(frame, None)
        elif event.kind == "tlb-stale" and page is not None and frame is not None:
            self._use(place, event.cpu, page, frame)
        elif event.kind == "finding":
            self._find(place, event.cpu, page, frame)

    def _step(self, place: int, event: TraceEvent, page: int | None) -> None:
        if event.name in STORES and page is not None:
            self._stored[page] = place
        elif match := _FRAME.match(event.text):
            frame = int(match[1], 16)
            self._given[frame] = place
            self._given_first.setdefault(frame, place)

    def _use(self, place: int, cpu: int, page: int, frame: int) -> None:
        cleared = self._cleared.get((page, frame))
        if cleared is None:
            causes = [self._stored.get(page), self._given.get(frame)]
        else:
            causes = [cleared, self._given_first.get(frame)]
        chain = [*sorted(cause for cause in causes if cause is not None), place]
        self.chains.append(chain)
        self._stale[cpu, page] = frame, chain

    def _find(self, place: int, cpu: int, page: int | None, frame: int | None) -> None:
        used, chain = (None, None) if page is None else self._stale.get((cpu, page), (None, None))
        if chain is not None and frame in (None, used):
            chain.append(place)
        elif frame is not None and frame in self._given:
            self.chains.append([self._given[frame], place])


def flows(events: Iterable[TraceEvent]) -> Flows:
    """All arrows of a trace; memory by arrows, pages and frames."""
    finder = _Finder()
    for place, event in enumerate(events):
        finder.see(place, event)
    found = Flows({}, {})
    chains = [chain for chain in finder.chains if len(chain) > 1]
    for number, chain in enumerate(chains, 1):
        for place in chain[:-1]:
            found.passing.setdefault(place, []).append(number)
        found.ending.setdefault(chain[-1], []).append(number)
    return found
