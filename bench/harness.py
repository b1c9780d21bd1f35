"""What a benchmark is, how it is timed, and how results are shown."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

ENOUGH_SECONDS: Final = 0.2
REPEATS: Final = 5
MAX_COUNT: Final = 1 << 32


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        group: what it belongs to: the name of its benchmark.
        name: what was measured.
        value: in `unit`.
        unit: MIPS, /s, us or s.
        peer: name of the peer, and `peer_value` in the same unit.
        ratio: ours over the peer's; the higher the better for rates, the lower for times.
        target: the demand as text, and `met` whether it is met; None where there is none.
    """

    group: str
    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    target: str | None = None
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return self.value / self.peer_value if self.peer_value else None


@dataclass(frozen=True)
class Benchmark:
    """A named group of figures; `run` measures them."""

    name: str
    run: Callable[[], Sequence[Row]]


def seconds_each(*runners: Callable[[int], float], first: int = 1000) -> list[float]:
    """Seconds an iteration takes each runner: the difference between many iterations and one, best of several.

    The runners take turns, so that what else happens on the host meets all of them.

    Args:
        runners: run so many iterations and say how long that took, with a constant start.
        first: how many to try first; more, until the difference can be measured.
    """
    counts = [_count(runner, first) for runner in runners]
    bases, spent = [float("inf")] * len(runners), [float("inf")] * len(runners)
    for _ in range(REPEATS):
        for index, (runner, count) in enumerate(zip(runners, counts, strict=True)):
            bases[index] = min(bases[index], runner(1))
            spent[index] = min(spent[index], runner(count))
    return [(much - base) / (count - 1) for much, base, count in zip(spent, bases, counts, strict=True)]


def _count(runner: Callable[[int], float], count: int) -> int:
    """How many iterations take long enough."""
    base = runner(1)
    while True:
        spent = runner(count) - base
        if spent >= ENOUGH_SECONDS or count >= MAX_COUNT:
            return count
        count = min(MAX_COUNT, count * max(2, min(100, int(1.2 * ENOUGH_SECONDS / max(spent, 1e-4)))))


def at_least(value: float, bound: float, text: str) -> tuple[str, bool]:
    """A target for what should be high: its text, and whether it is met."""
    return text, value >= bound


def at_most(value: float, bound: float, text: str) -> tuple[str, bool]:
    """A target for what should be low: its text, and whether it is met."""
    return text, value <= bound


def figure(value: float) -> str:
    """Three significant digits, without exponents."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_json(rows: Sequence[Row]) -> str:
    """All rows as one JSON document."""
    results = [asdict(row) | {"ratio": row.ratio} for row in rows]
    host = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    return json.dumps({"version": 1, "host": host, "results": results}, indent=2)


def show(rows: Sequence[Row]) -> None:
    """Print all rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("", "kstack", "unit", "peer", "", "ratio", "target", ""):
        right = heading in ("kstack", "ratio") or (heading == "" and len(table.columns) == 4)
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_row(f"[bold]{group}[/bold]")
        mark = "" if row.met is None else "[green]met[/green]" if row.met else "[red]missed[/red]"
        peer_value = "" if row.peer_value is None else figure(row.peer_value)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(
            f"  {row.name}", figure(row.value), row.unit, row.peer or "", peer_value, ratio, row.target or "", mark
        )
    Console(width=120).print(table)
