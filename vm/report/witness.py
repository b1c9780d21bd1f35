"""A finding's history as lanes: one a CPU, time downwards, with what it did to entries and to its TLB.

Everything is parsed from the oracle's own words; a moment that is not understood is shown as text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kstack.judge.verdict import Judgement
from kstack.stacks.oracle import Finding, Moment

HEAD: Final = 46  # pixels above the first row
ROW: Final = 26
TIME: Final = 92  # width of the column of times
LANE: Final = 236  # width of one lane; a CPU has two
PTE, TLB = 0, 1
BESIDE: Final = 4  # pixels between the bars of two pages
SHOWN: Final = 34  # characters of a moment that fit into a lane

_KINDS: Final = (
    ("stray", re.compile(r"(read|wrote) .*through its TLB"), TLB),
    ("fill", re.compile(r"(speculative )?TLB fill"), TLB),
    ("drop", re.compile(r"INVLPG|INVPCID|invalidat|evict|TLBSYNC"), TLB),
    ("map", re.compile(r"map "), PTE),
    ("clear", re.compile(r"clear "), PTE),
    ("free", re.compile(r"free "), PTE),
    ("guest", re.compile(r"guest: "), PTE),
)
_IPI_SENT: Final = re.compile(r"(?:sends? )?IPI\b.*?\bto CPU (\d+)|IPI sent.*CPU (\d+)", re.IGNORECASE)
_IPI_TAKEN: Final = re.compile(r"takes? (?:the )?(?:IPI|interrupt)|IPI (?:taken|delivered|arrives)", re.IGNORECASE)
_FRAME: Final = re.compile(r"frame (0x[0-9a-f]+)")
_PAGE: Final = re.compile(r"thread (\d+) page (\d+)")


@dataclass(frozen=True)
class Mark:
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
    marks: tuple[Mark, ...]
    bars: tuple[Bar, ...]
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True)
class Witness:
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


def witness(judgement: Judgement, anchor: str, options: str = "") -> Witness:
    """What a pair's cell shows; `options` are those of the command line that chose modes."""
    finding = judgement.finding
    replay = f"kstack compare --policies {judgement.policy} --scenarios {judgement.scenario}{options} --witnesses DIR"
    return Witness(anchor, judgement, finding, lanes(finding) if finding and finding.history else None, replay)


def lanes(finding: Finding) -> Lanes:
    """Draw what led to a finding."""
    moments = finding.history
    cpus = sorted({moment.cpu for moment in moments} | {finding.cpu})
    cpus = sorted(set(cpus) | {target for moment in moments if (target := _target(moment)) is not None})
    left = {cpu: TIME + place * 2 * LANE for place, cpu in enumerate(cpus)}
    marks = tuple(_mark(moment, row, left, finding) for row, moment in enumerate(moments))
    return Lanes(
        width=TIME + len(cpus) * 2 * LANE,
        height=HEAD + len(moments) * ROW + 12,
        cpus=tuple(left.items()),
        marks=marks,
        bars=(*_tlb_bars(moments, left), *_pte_bars(moments, left)),
        arrows=tuple(_arrows(moments, left)),
    )


def _y(row: int) -> int:
    return HEAD + row * ROW + ROW // 2


def _mark(moment: Moment, row: int, left: dict[int, int], finding: Finding) -> Mark:
    kind, lane = _kind(moment)
    if kind == "stray" and (moment.time, moment.cpu) == (finding.time, finding.cpu):
        kind = "wrong"
    text = _shorten(moment.what)
    return Mark(kind, left[moment.cpu] + lane * LANE + 12, _y(row), text, moment.what, moment.time)


def _kind(moment: Moment) -> tuple[str, int]:
    if _target(moment) is not None or _IPI_TAKEN.search(moment.what):
        return "ipi", TLB
    for kind, pattern, lane in _KINDS:
        if pattern.match(moment.what):
            return kind, lane
    return "other", PTE


def _shorten(what: str) -> str:
    """A moment's words, without those that its place in the drawing says already."""
    text = what.removeprefix("guest: ").replace("thread ", "t").replace(" page ", ".p").replace("frame ", "")
    text = text.replace(" through its TLB:", " via TLB").replace(" -> ", " → ").replace("speculative TLB", "spec.")
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _target(moment: Moment) -> int | None:
    found = _IPI_SENT.search(moment.what)
    return int(found[1] or found[2]) if found else None


def _page_of(what: str) -> tuple[str, str] | None:
    found = _PAGE.search(what)
    return (found[1], found[2]) if found else None


def _frame_of(what: str) -> str:
    found = _FRAME.search(what)
    return found[1] if found else "?"


def _tlb_bars(moments: tuple[Moment, ...], left: dict[int, int]) -> list[Bar]:
    """While which CPU held a translation: from its fill (or before) to its INVLPG, its next fill, or the end."""
    held: dict[tuple[int, tuple[str, str]], tuple[int, str]] = {}
    bars: list[Bar] = []

    def end(key: tuple[int, tuple[str, str]], row: int) -> None:
        if key in held:
            top, frame = held.pop(key)
            title = f"CPU {key[0]} holds thread {key[1][0]} page {key[1][1]} → {frame}"
            bars.append(Bar("tlb", left[key[0]] + LANE + 12, _y(top), _y(row), title))

    for row, moment in enumerate(moments):
        kind, _ = _kind(moment)
        page = _page_of(moment.what)
        if page is None or kind not in ("fill", "drop", "stray"):
            continue
        key = (moment.cpu, page)
        if kind == "stray":
            held.setdefault(key, (0, _frame_of(moment.what)))
            continue
        end(key, row)
        if kind == "fill":
            held[key] = (row, _frame_of(moment.what))
    for key in list(held):
        end(key, len(moments) - 1)
    return bars


def _pte_bars(moments: tuple[Moment, ...], left: dict[int, int]) -> list[Bar]:
    """While entries were present, in the lane of the CPU that stored them."""
    mapped: dict[tuple[str, str], tuple[int, int, str]] = {}
    order: dict[tuple[str, str], int] = {}  # a page's place among the bars, which lie side by side
    bars: list[Bar] = []

    def end(page: tuple[str, str], row: int) -> None:
        if page in mapped:
            top, cpu, frame = mapped.pop(page)
            title = f"thread {page[0]} page {page[1]} is mapped to {frame}"
            aside = BESIDE * min(2, order.setdefault(page, len(order)))
            bars.append(Bar("pte", left[cpu] + 12 - aside, _y(top), _y(row), title))

    for row, moment in enumerate(moments):
        kind, _ = _kind(moment)
        page = _page_of(moment.what)
        if page is None or kind not in ("map", "clear"):
            continue
        end(page, row)
        if kind == "map":
            mapped[page] = (row, moment.cpu, _frame_of(moment.what))
    for page in list(mapped):
        end(page, len(moments) - 1)
    return bars


def _arrows(moments: tuple[Moment, ...], left: dict[int, int]) -> list[Arrow]:
    """From each IPI sent to where its target takes it, or straight across if the history does not have that."""
    found: list[Arrow] = []
    taken: set[int] = set()
    for row, moment in enumerate(moments):
        target = _target(moment)
        if target is None:
            continue
        arrival = next(
            (
                later
                for later in range(row + 1, len(moments))
                if later not in taken and moments[later].cpu == target and _IPI_TAKEN.search(moments[later].what)
            ),
            None,
        )
        if arrival is not None:
            taken.add(arrival)
        from_x, to_x = left[moment.cpu] + LANE + 12, left[target] + LANE + 12
        found.append(Arrow(from_x, _y(row), to_x, _y(row if arrival is None else arrival), arrival is not None))
    return found
