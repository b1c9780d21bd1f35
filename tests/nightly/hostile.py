"""Guests that mean harm, by seeds: none may end the host, hang it, or take its memory. How they end is counted.

A batch runs in a process of its own, many guests one after the other. One that ends the process, with a signal or an
exception that no guest may cause, is named by its seed: `python -m tests.fuzz.hostile_runs SEED 1` runs it alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from tests.support.command import ROOT

BATCH: Final = 1000
SECONDS_A_GUEST: Final = 1.0  # of a batch's time; one takes a thirtieth of that


class Batch(NamedTuple):
    """What came of one batch.

    Attributes:
        first, count: its seeds.
        wrong: what must not be, with the seed; None if all is well.
        ends: how often guests ended so.
        slowest: seconds of processor time, and the seed.
        peak: most bytes that the process had in memory.
        growth: bytes that stayed, after the first few guests.
    """

    first: int
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody calls on a batch
    wrong: str | None
    ends: dict[str, int]
    slowest: tuple[float, int]
    peak: int
    growth: int


def batch(first: int, count: int) -> Batch:
    """Run the guests of seeds `first` to `first + count - 1` in another process."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.hostile_runs", str(first), str(count)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=120 + SECONDS_A_GUEST * count, check=False
        )
    except subprocess.TimeoutExpired as hang:
        return _wrong(first, count, (hang.stdout or b"").decode(), "hung")
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        return _wrong(first, count, done.stdout, f"ended the host ({done.returncode})\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads(lines[-1])
    slowest = (report["slowest"][0], report["slowest"][1])
    return Batch(first, count, None, report["ends"], slowest, report["peak"], report["growth"])


def _wrong(first: int, count: int, output: str, what: str) -> Batch:
    seeds = [line for line in output.splitlines() if line.isdigit()]
    return Batch(first, count, f"seed {seeds[-1] if seeds else 'none'} {what}", {}, (0.0, -1), 0, 0)


def batches(count: int) -> list[tuple[int, int]]:
    """First seed and number of each batch."""
    return [(first, min(BATCH, count - first)) for first in range(0, count, BATCH)]


def table(found: Iterable[Batch]) -> str:
    """How guests ended, by kind, as Markdown; the last line is the result."""
    ends: Counter[str] = Counter()
    wrong, slowest, peak, growth, count = [], (0.0, -1), 0, 0, 0
    for one in found:
        ends.update({_short(end): number for end, number in one.ends.items()})
        wrong += [one.wrong] if one.wrong else []
        slowest, peak, growth = max(slowest, one.slowest), max(peak, one.peak), max(growth, one.growth)
        count += sum(one.ends.values())
    rows = [f"| {end} | {number} |" for end, number in sorted(ends.items())]
    result = (
        f"{count} guests: {len(wrong)} did what none may; the slowest took {slowest[0]:.2f} s (seed {slowest[1]}); "
        f"at most {peak >> 20} MiB in memory, of which a batch left {growth >> 20}."
    )
    return "\n".join(("| ended | guests |\n|---|---|", *rows, "", *wrong, result))


def _short(end: str) -> str:
    return end.split(": policy")[0] + ": policy error" if "policy error" in end else end
