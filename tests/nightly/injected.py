"""A fault at every site: each policy in the scenarios that its own mechanism concerns, and what survives what."""

from __future__ import annotations

from collections import Counter
from typing import Final

from kstack.hw.modes import Modes
from kstack.inject import SYSTEMATIC, TrialOutcome, TrialPair
from kstack.inject.campaign import TrialBatch

SCENARIOS: Final = ("laight", "wilcox", "exit-reuse", "two-faults")
"""Growth and sharing, writes by others, exits, faults: every policy does something in each."""
MODES: Final = Modes(df_restart="exact")
SITES: Final = 500  # a fault and pair: 2,000 a policy
SOME: Final = 25  # of every other fault than these
EVERYWHERE: Final = ("nmi", "drop-ipi", "drop-invlpg", "fail-alloc")
WHATS: Final = (*EVERYWHERE, *(what for what in SYSTEMATIC if what not in EVERYWHERE))


def work(names: list[str], sites: int | None = None) -> list[TrialBatch]:
    """Three batches a policy and scenario, so that workers share the work evenly; `sites` of every fault, if given."""
    most, some = (SITES, SOME) if sites is None else (sites, sites)
    parts = ((("nmi",), most), (EVERYWHERE[1:], most), (WHATS[len(EVERYWHERE) :], some))
    return [
        TrialBatch(TrialPair(name, scenario, MODES), whats, (), limit)
        for name in names
        for scenario in SCENARIOS
        for whats, limit in parts
    ]


def table(found: list[tuple[TrialBatch, list[TrialOutcome] | str]]) -> str:
    """A row a policy, a column a fault: trials, and how many were not masked, by what they came to."""
    cells: dict[tuple[str, str], Counter[str]] = {}
    for batch, outcomes in found:
        for one in outcomes if not isinstance(outcomes, str) else ():
            cell = cells.setdefault((batch.pair.policy, one.fault.what), Counter())
            cell["trials"] += 1
            cell["fired"] += one.fired is not None
            cell[one.outcome] += 1
    names = list(dict.fromkeys(batch.pair.policy for batch, _ in found))
    rows = [f"| policy | {' | '.join(WHATS)} |", "|---" * (len(WHATS) + 1) + "|"]
    for name in names:
        rows.append(f"| {name} | {' | '.join(_cell(cells.get((name, what))) for what in WHATS)} |")
    total = sum(cell["trials"] for cell in cells.values())
    fired = sum(cell["fired"] for cell in cells.values())
    refused = list(dict.fromkeys(why for _, why in found if isinstance(why, str)))
    return "\n".join(
        [f"{total:,} trials, {fired:,} faults fired.", "", *rows, "", *(f"Not tried: {why}." for why in refused)]
    )


def _cell(cell: Counter[str] | None) -> str:
    if cell is None:
        return ""
    words = {"detected": "det", "wrong-data": "**wrong**", "hang": "hang", "shutdown": "down"}
    bad = [f"{cell[name]} {word}" for name, word in words.items() if cell[name]]
    return f"{cell['trials']}" + (f": {', '.join(bad)}" if bad else "")
