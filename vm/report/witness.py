"""A finding's history as lanes: one a CPU, time downwards, with what it did to entries and to its TLB.

An occurrence that has no place of its own in the drawing is shown as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kstack.judge.verdict import Judgement
from kstack.sanitizer.findings import Finding
from kstack.sanitizer.history import (
    AnyOccurrence,
    Cleared,
    Dropped,
    Filled,
    Freed,
    Invalidated,
    IpiSent,
    IpiTaken,
    Mapped,
    Marked,
    Occurrence,
    Used,
)

HEAD: Final = 46  # pixels above the first row
ROW: Final = 26
TIME: Final = 92  # width of the column of times
LANE: Final = 236  # width of one lane; a CPU has two
PTE, TLB = 0, 1
BESIDE: Final = 4  # pixels between the bars of two pages
SHOWN: Final = 34  # characters of a moment that fit into a lane

_KINDS: Final[dict[type[Occurrence], tuple[str, int]]] = {
    Used: ("stray", TLB),
    Filled: ("fill", TLB),
    Dropped: ("drop", TLB),
    Invalidated: ("drop", TLB),
    Mapped: ("map", PTE),
    Cleared: ("clear", PTE),
    Freed: ("free", PTE),
    Marked: ("guest", PTE),
    IpiSent: ("ipi", TLB),
    IpiTaken: ("ipi", TLB),
}
Place = tuple[int, int]  # CPU, page


@dataclass(frozen=True)
class LaneMark:
    """One moment: where it is drawn, how, and its words."""

    kind: str
    x: int
    y: int
    text: str
    full: str
    time: int


@dataclass(frozen=True)
class Bar:
    """From when to when a CPU's TLB held a translation, or an entry was present (pixels)."""

    kind: str
    x: int
    top: int
    bottom: int
    title: str


@dataclass(frozen=True)
class Arrow:
    """An IPI, from the sender's lane to the target's."""

    x1: int
    y1: int
    x2: int
    y2: int
    delivered: bool


@dataclass(frozen=True)
class Lanes:
    """A drawing of one finding."""

    width: int
    height: int
    cpus: tuple[tuple[int, int], ...]  # CPU, x of its first lane
    marks: tuple[LaneMark, ...]
    bars: tuple[Bar, ...]
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True)
class VerdictCell:
    """A cell of the verdict matrix that opens.

    Attributes:
        anchor: its id in the page.
        judgement: of the pair.
        finding: what is drawn, None if the pair has none.
        lanes: the drawing, None without a history.
        replay: what repeats the finding by hand.
    """

    anchor: str
    judgement: Judgement
    finding: Finding | None
    lanes: Lanes | None
    replay: str


def witness(judgement: Judgement, anchor: str, options: str = "") -> VerdictCell:
    """What a pair's cell shows; `options` are those of the command line that chose modes."""
    finding = judgement.finding
    replay = f"kstack compare --policies {judgement.policy} --scenarios {judgement.scenario}{options} --witnesses DIR"
    return VerdictCell(anchor, judgement, finding, lanes(finding) if finding and finding.history else None, replay)


def lanes(finding: Finding) -> Lanes:
    """Draw what led to a finding."""
    history = finding.history
    targets = {one.target for one in history if isinstance(one, IpiSent)}
    cpus = sorted({one.cpu for one in history} | {finding.cpu} | targets)
    left = {cpu: TIME + place * 2 * LANE for place, cpu in enumerate(cpus)}
    marks = tuple(_mark(one, row, left, finding) for row, one in enumerate(history))
    return Lanes(
        width=TIME + len(cpus) * 2 * LANE,
        height=HEAD + len(history) * ROW + 12,
        cpus=tuple(left.items()),
        marks=marks,
        bars=(*_tlb_bars(history, left), *_pte_bars(history, left)),
        arrows=tuple(_arrows(history, left)),
    )


def _y(row: int) -> int:
    return HEAD + row * ROW + ROW // 2


def _mark(one: Occurrence, row: int, left: dict[int, int], finding: Finding) -> LaneMark:
    kind, lane = _KINDS.get(type(one), ("other", PTE))
    if kind == "stray" and (one.time, one.cpu) == (finding.time, finding.cpu):
        kind = "wrong"
    return LaneMark(kind, left[one.cpu] + lane * LANE + 12, _y(row), _shorten(one.text), one.text, one.time)


def _shorten(what: str) -> str:
    """An occurrence's words, without those that its place in the drawing says already."""
    text = what.removeprefix("guest: ").replace("thread ", "t").replace(" page ", ".p").replace("frame ", "")
    text = text.replace(" through its TLB:", " via TLB").replace(" -> ", " → ").replace("speculative TLB", "spec.")
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _tlb_bars(history: tuple[AnyOccurrence, ...], left: dict[int, int]) -> list[Bar]:
    """While which CPU held a translation: from its fill (or before) until it was dropped, filled anew, or the end."""
    held: dict[Place, tuple[int, Filled | Used]] = {}
    bars: list[Bar] = []

    def end(place: Place, row: int) -> None:
        if place in held:
            top, one = held.pop(place)
            title = f"CPU {one.cpu} holds {one.owner} → {one.frame:#x}"
            bars.append(Bar("tlb", left[one.cpu] + LANE + 12, _y(top), _y(row), title))

    for row, one in enumerate(history):
        if isinstance(one, Used):
            held.setdefault((one.cpu, one.address), (0, one))
        elif isinstance(one, Filled | Dropped | Invalidated):
            end((one.cpu, one.address), row)
            if isinstance(one, Filled):
                held[one.cpu, one.address] = row, one
    for place in list(held):
        end(place, len(history) - 1)
    return bars


def _pte_bars(history: tuple[AnyOccurrence, ...], left: dict[int, int]) -> list[Bar]:
    """While entries were present, in the lane of the CPU that stored them."""
    mapped: dict[int, tuple[int, Mapped]] = {}  # by page
    order: dict[int, int] = {}  # a page's place among the bars, which lie side by side
    bars: list[Bar] = []

    def end(page: int, row: int) -> None:
        if page in mapped:
            top, one = mapped.pop(page)
            aside = BESIDE * min(2, order.setdefault(page, len(order)))
            title = f"{one.owner} is mapped to {one.frame:#x}"
            bars.append(Bar("pte", left[one.cpu] + 12 - aside, _y(top), _y(row), title))

    for row, one in enumerate(history):
        if isinstance(one, Mapped | Cleared):
            end(one.address, row)
            if isinstance(one, Mapped):
                mapped[one.address] = row, one
    for page in list(mapped):
        end(page, len(history) - 1)
    return bars


def _arrows(history: tuple[AnyOccurrence, ...], left: dict[int, int]) -> list[Arrow]:
    """From each IPI sent to where its target takes it, or straight across if the history does not have that."""
    found: list[Arrow] = []
    taken: set[int] = set()  # rows; asked for membership only
    for row, sent in enumerate(history):
        if not isinstance(sent, IpiSent):
            continue
        arrivals = (
            later
            for later in range(row + 1, len(history))
            if later not in taken and history[later].cpu == sent.target and isinstance(history[later], IpiTaken)
        )
        arrival = next(arrivals, None)
        if arrival is not None:
            taken.add(arrival)
        from_x, to_x = left[sent.cpu] + LANE + 12, left[sent.target] + LANE + 12
        found.append(Arrow(from_x, _y(row), to_x, _y(row if arrival is None else arrival), arrival is not None))
    return found
