"""Guests that mean harm, by seeds: none may end the host, hang it, or take its memory. How they end is counted.

A batch runs in a process of its own, many guests one after the other. One that ends the process, with a signal or an
exception that no guest may cause, is named by its seed and kind, and another process goes on behind it.
`python -m tests.fuzz.hostile_runs SEED 1 [kinds]` runs one alone.
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
        wrong: what must not be, each with its seed.
        ends: how often guests ended so.
        slowest: seconds of processor time, and the seed.
        peak: most bytes that the process had in memory.
        growth: bytes that stayed, after the first few guests.
    """

    wrong: list[str]
    ends: dict[str, int]
    slowest: tuple[float, int]
    peak: int
    growth: int


def batch(first: int, count: int, generator: str = "states") -> Batch:
    """Run the guests of seeds `first` to `first + count - 1` in other processes: one, and one more behind each that went wrong."""
    wrong: list[str] = []
    ends: Counter[str] = Counter()
    slowest, peak, growth, end = (0.0, -1), 0, 0, first + count
    while first < end:
        output, failure = _process(first, end - first, generator)
        lines = output.splitlines()
        ends.update(line.removeprefix("= ") for line in lines if line.startswith("= "))
        if failure is None:
            report: dict[str, Any] = json.loads(lines[-1])
            slowest = max(slowest, (report["slowest"][0], report["slowest"][1]))
            peak, growth = max(peak, report["peak"]), max(growth, report["growth"])
            break
        named = [line for line in lines if line[:1].isdigit()] or [str(first)]
        wrong.append(f"seed {named[-1].strip()} {failure}")
        ends[f"{' '.join(named[-1].split()[1:]) or 'any'}: **wrong**"] += 1
        first = int(named[-1].split()[0]) + 1
    return Batch(wrong, dict(ends), slowest, peak, growth)


def _process(first: int, count: int, generator: str) -> tuple[str, str | None]:
    """What a process printed, and what went wrong with the last seed that it named."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.hostile_runs", str(first), str(count), generator]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=120 + SECONDS_A_GUEST * count, check=False
        )
    except subprocess.TimeoutExpired as hang:
        return (hang.stdout or b"").decode(), "hung"
    if done.returncode or not done.stdout.endswith("}\n"):
        return done.stdout, f"ended the host ({done.returncode})\n{done.stderr[-3000:]}"
    return done.stdout, None


def batches(count: int) -> list[tuple[int, int]]:
    """First seed and number of each batch."""
    return [(first, min(BATCH, count - first)) for first in range(0, count, BATCH)]


def table(found: Iterable[Batch]) -> str:
    """How guests ended, a row a kind, as Markdown; the last line is the result."""
    ends: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    slowest, peak, growth = (0.0, -1), 0, 0
    for one in found:
        for end, number in one.ends.items():
            ends[_parted(end)] += number
        wrong += one.wrong
        slowest, peak, growth = max(slowest, one.slowest), max(peak, one.peak), max(growth, one.growth)
    kinds: dict[str, list[str]] = {}
    for (kind, end), number in sorted(ends.items()):
        kinds.setdefault(kind, []).append(f"{end} {number}")
    rows = [f"| {kind} | {_total(ends, kind)} | {', '.join(parts)} |" for kind, parts in kinds.items()]
    result = (
        f"{ends.total()} guests: {len(wrong)} did what none may; the slowest took {slowest[0]:.2f} s (seed {slowest[1]}); "
        f"at most {peak >> 20} MiB in memory, of which a batch left {growth >> 20}."
    )
    return "\n".join(("| kind | guests | how they ended |\n|---|---|---|", *rows, "", *wrong, result))


def _total(ends: Counter[tuple[str, str]], kind: str) -> int:
    return sum(number for (one, _), number in ends.items() if one == kind)


def _parted(end: str) -> tuple[str, str]:
    kind, _, how = _short(end).partition(": ")
    return kind, how


def _short(end: str) -> str:
    return end.split(": policy")[0] + ": policy error" if "policy error" in end else end
