"""Coverage: one HTML file with the guest's sources, and how often each line ran on each CPU.

Sources are those of an image that comes with kstack, if its code is what ran; a line's number is how often a statement
of it was executed, a macro's line all uses together. Code outside of the image that is one of its pages, mapped
elsewhere (ring-3 programs), counts for that page's lines. Everything else is listed by symbol, disassembled, as far as
it ran. The page loads nothing and runs no script.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from kstack.base import html as page
from kstack.kernels.guests import Section
from kstack.trace.export.lines import Chapter, FunctionCoverage, of_code, of_sources
from kstack.trace.export.read import Code, events, instructions
from kstack.trace.export.sources import image_of
from kstack.trace.store import Trace

TEMPLATE: Final = Path(__file__).parent / "templates" / "coverage.html"


class Coverage(NamedTuple):
    """What the page shows: chapters of lines, functions, and virtual machine's instructions by CPU."""

    chapters: list[Chapter]
    functions: list[FunctionCoverage]
    instructions: list[int]


def write(trace: Trace, path: Path) -> None:
    """Write the page; the same trace gives the same text."""
    content = {"meta": trace.meta, "found": coverage(trace), "cpus": range(trace.meta.cpus)}
    path.write_text(page.rendered(TEMPLATE, content, {}), encoding="utf-8")


def coverage(trace: Trace) -> Coverage:
    """What ran how often."""
    code, image = Code(trace), image_of(trace)
    hits = counted(trace)
    total = [int(sum(counts[cpu] for counts in hits.values())) for cpu in range(trace.meta.cpus)]
    chapters: list[Chapter] = []
    functions: list[FunctionCoverage] = []
    if image is not None:
        moved = _moved(hits, _frames(trace), image.sections)
        chapters, functions = of_sources(image, code, moved, trace.meta.cpus)
        spans = [(one.start, one.end) for one in image.sections]
        hits = {rip: counts for rip, counts in moved.items() if not any(low <= rip < high for low, high in spans)}
    if hits:
        chapter, more = of_code(code, hits)
        chapters.append(chapter)
        functions += more
    return Coverage(chapters, functions, total)


def counted(trace: Trace) -> dict[int, list[int]]:
    """How often each address ran, by CPU."""
    found: dict[int, list[int]] = {}
    for rows in instructions(trace):
        for cpu in range(trace.meta.cpus):
            rips, counts = np.unique(rows.rip[rows.cpu == cpu], return_counts=True)
            for rip, count in zip(rips.tolist(), counts.tolist(), strict=True):
                found.setdefault(rip, [0] * trace.meta.cpus)[cpu] += count
    return dict(sorted(found.items()))


def _frames(trace: Trace) -> dict[int, int | None]:
    """The frame of each linear page that a walk found; None if there were several."""
    found: dict[int, int | None] = {}
    for event in events(trace):
        if event.kind == "tlb-fill" and event.address is not None and event.frame is not None:
            page, frame = event.address >> 12, event.frame >> 12
            found[page] = frame if found.get(page, frame) == frame else None
    return found


def _moved(
    hits: dict[int, list[int]], frames: dict[int, int | None], sections: Iterable[Section]
) -> dict[int, list[int]]:
    """Counts by the addresses at which the image has its code."""
    found: dict[int, list[int]] = {}
    spans = [(one.start, one.physical, one.size) for one in sections]
    for rip, counts in hits.items():
        at = rip
        frame = frames.get(rip >> 12)
        if frame is not None and not any(vaddr <= rip < vaddr + size for vaddr, _, size in spans):
            physical = frame << 12 | rip & 0xFFF
            own = [vaddr + physical - paddr for vaddr, paddr, size in spans if paddr <= physical < paddr + size]
            at = own[0] if own else rip
        before = found.get(at, [0] * len(counts))
        found[at] = [one + other for one, other in zip(before, counts, strict=True)]
    return found
