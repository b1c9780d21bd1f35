"""kstack explore --outcomes: which final values a litmus test or scenario can come to."""

from __future__ import annotations

import sys
import time

from rich import box
from rich.table import Table
from rich.text import Text

from kstack.base.documents import Document
from kstack.cli.output import console, print_json, show_taken
from kstack.explore.problem import Bounds, Progress
from kstack.hw.modes import Modes
from kstack.probe.taken import Taken
from kstack.report.words import modes_line
from kstack.testing.reachable import Outcomes, outcomes


def print_outcomes(
    what: str, policy: str | None, bounds: Bounds, chosen: tuple[Modes, Taken], progress: Progress, json: bool
) -> int:
    """Find all outcomes and print them; 4 if a bound was reached first.

    Args:
        what: a scenario, a TOML file with `programs`, or programs separated by `|`.
        policy: of a scenario; None for one that asks nothing.
        bounds: where to stop.
        chosen: architecture modes, and what of them is a probe's.
        progress: told after each layer.
        json: one document instead of a table.

    Raises:
        ConfigError: a program, a file or a mode is wrong.
        ScenarioError: the scenario cannot be explored, or names no final values.
    """
    started = time.monotonic()
    modes, taken = chosen
    found = outcomes(
        [text.strip() for text in what.split("|")] if is_text(what) else what,
        policy=policy,
        modes=[f"{name}={value}" for name, value in modes.as_dict().items()],
        bounds=bounds,
        progress=progress,
    )
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if json:
        print_json(_document(found, bounds, modes, time.monotonic() - started) | taken.as_dict())
    else:
        _show(what, found, modes)
        show_taken(taken)
    return 0 if found.complete else 4


def is_text(what: str) -> bool:
    """Whether programs are meant, and not a scenario or a file."""
    return any(sign in what for sign in "|;= ") and not what.endswith(".toml")


def _document(found: Outcomes, bounds: Bounds, modes: Modes, seconds: float) -> Document:
    return {
        "version": 1,
        "outcomes": [dict(one) for one in found],
        "complete": found.complete,
        "bound": {"depth": bounds.depth, "states": bounds.states, "budget": bounds.budget, "cut": found.cut},
        "modes": modes.as_dict(),
        "states": found.states,
        "steps": found.moves,
        "stuck": found.stuck,
        "seconds": round(seconds, 3),
    }


def _show(what: str, found: Outcomes, modes: Modes) -> None:
    out = console()
    table = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in found.names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for one in found:
        table.add_row(*(Text(_shown(name, one[name])) for name in found.names))
    out.print(table)
    many = "1 outcome" if len(found) == 1 else f"{len(found)} outcomes"
    bound = "all there are" if found.complete else f"before the bound ({found.cut}) was reached"
    out.print(Text(f"{many} of {what}, {bound}: {found.states} states"))
    out.print(Text(modes_line(modes, explored=True), "dim"))
    if found.stuck:
        out.print(Text(f"From {found.stuck} of these states no end can be reached."))


def _shown(name: str, value: int | str) -> str:
    return f"{value:#x}" if isinstance(value, int) and value > 0xFFFF else str(value)
