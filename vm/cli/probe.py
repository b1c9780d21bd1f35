"""kstack probe: what this processor does, where the manuals leave it open."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kstack.base.errors import ConfigError
from kstack.base.files import write_whole
from kstack.cli.options import Json
from kstack.cli.output import console, place_for, print_json
from kstack.probe.bounds import Rate
from kstack.probe.controls import ProbeControl
from kstack.probe.cpu import check_can_probe
from kstack.probe.document import document, text
from kstack.probe.questions import CLEAN, CLEAR, DIRTYING, HINTS, IDLE_CLEAR, IDLE_SET, MARKING, SET, UNASKED, Question
from kstack.probe.result import ProbeResult
from kstack.probe.result import probe as ask
from kstack.probe.tally import ACCESSED, DATA, DIRTY, ENTRY
from kstack.probe.verdict import ModeVerdict

INTERRUPTED: Final = 130
TRIALS: Final = 1000
MOST: Final = 100_000
EVERY: Final = 10.0  # seconds between lines where stderr is no terminal
WIDTH: Final = 80
LEGEND: Final = (
    "A set: in the entry. line: it came into a cache. entry: a translation was cached, since the load that followed found A "
    "clear and left it so. idle: the most of these without the attack."
)


def probe(
    *,
    trials: Annotated[int, Parameter(help="Trials of each arm of each question.")] = TRIALS,
    seed: Annotated[int, Parameter(help="Of the order of the trials.")] = 0,
    cpu: Annotated[int | None, Parameter(help="CPU to measure (default: the last that may be used).")] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="File to write, for --modes-from.")] = None,
    json: Json = False,
) -> int:
    """Measure the processor that this runs on: trials refute readings of the manuals.

    It needs no root, and touches this process's own memory alone. Where the method does not work it says inconclusive, and why.
    """
    if not 1 <= trials <= MOST:
        raise ConfigError(f"--trials {trials}: give 1 to {MOST}")
    check_can_probe(cpu)
    place = output and place_for(output)
    progress = _ProbeProgress()
    found = ask(trials, seed, cpu, progress)
    progress.end()
    content = document(found)
    if place is not None:
        write_whole(place, text(content))
    if json:
        print_json(content)
    else:
        _show(found)
    if not found.complete and not found.failure:
        print(f"kstack: interrupted after {found.made} trials", file=sys.stderr)
        return INTERRUPTED
    return 0


class _ProbeProgress:
    """How far it is: live on a terminal, else a line from time to time."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        left = (now - self._started) / max(done, 1) * (total - done)
        said = f"{done} of {total} trials, {left:.0f} s left"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{said}", end="", file=sys.stderr, flush=True)
        elif now - self._last >= EVERY:
            self._last = now
            print(f"kstack probe: {said}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave nothing behind on a terminal."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _show(found: ProbeResult) -> None:
    """Print it for people, in 80 columns."""
    out = console()
    out.width = min(out.width, WIDTH)
    out.print(Text(_head(found)))
    if found.made and not found.failure:
        out.print(_speculative(found))
        out.print(Text(LEGEND, "dim"))
        out.print(_simple(found))
    for verdict in found.verdicts:
        _show_verdict(out, verdict)
    _show_controls(out, {one.name: one for verdict in found.verdicts for one in verdict.controls}.values())
    out.print(Text("Of one processor, by these trials: no manual promises it (docs/silicon.md).", "dim"))


def _head(found: ProbeResult) -> str:
    under = f"under {found.hypervisor}" if found.hypervisor else "no hypervisor"
    return (
        f"{found.cpu or 'A processor of which the system says nothing'}, CPU {found.number}, {under}, "
        f"Linux {found.kernel}; {found.trials} trials an arm, seed {found.seed}"
    )


def _table(first: str, *columns: str) -> Table:
    table = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _speculative(found: ProbeResult) -> Table:
    """What gets through an entry with Accessed clear and set, and what is seen of it without an attack."""
    table = _table("", "A=0\nA set", "\nline", "\nentry", "A=1\nline", "\nentry", "\nidle")
    for title, questions in (("nobody asked for it:", UNASKED), ("a hint, which retires:", HINTS)):
        table.add_row(Text(title, "bold"))
        for question in questions:
            table.add_row(question.text, *(_count(rate, found.trials) for rate in _rates(found, question)))
    return table


def _rates(found: ProbeResult, question: Question) -> Iterator[Rate]:
    clear, through = found.tally(question, CLEAR), found.tally(question, SET)
    yield from (clear.rate(seen) for seen in (ACCESSED, DATA, ENTRY))
    yield from (through.rate(seen) for seen in (DATA, ENTRY))
    yield max(
        found.tally(question, IDLE_CLEAR).some(ACCESSED, DATA, ENTRY),
        found.tally(question, IDLE_SET).some(DATA, ENTRY),
        key=lambda rate: rate.share,
    )


def _count(rate: Rate, trials: int) -> str:
    """How often; and of how many, where some trials are none."""
    return str(rate.count) if rate.of == trials else f"{rate.count}/{rate.of}"


def _simple(found: ProbeResult) -> Table:
    """What sets Accessed, and what sets Dirty."""
    table = _table("does it set", "bit", "set")
    for questions, bit, arm, seen in ((MARKING, "A", CLEAR, ACCESSED), (DIRTYING, "D", CLEAN, DIRTY)):
        for question in questions:
            rate = found.tally(question, arm).rate(seen)
            table.add_row(question.text, bit, _count(rate, found.trials))
    return table


def _show_verdict(out: Console, verdict: ModeVerdict) -> None:
    if verdict.value is None:
        out.print(Text(f"{verdict.mode}: inconclusive: {verdict.why}", "yellow"))
    else:
        out.print(Text(f"{verdict.mode}={verdict.value} is not contradicted: {verdict.why}", "green"))
    if verdict.asked_of:
        out.print(Text(f"  asked of: {'; '.join(verdict.asked_of)}"))
    for value, why in verdict.refuted.items():
        out.print(Text(f"  {value} is refuted. {why[0]}"))
    for value, bound in verdict.bounded.items():
        out.print(Text(f"  {value} is not contradicted; what it says is done in less than {bound:.2%} of trials"))


def _show_controls(out: Console, controls: Iterable[ProbeControl]) -> None:
    listed = list(controls)
    failed = [one for one in listed if not one.held]
    for one in failed:
        out.print(Text(f"Control {one.name} failed: {one}", "red"))
    if listed and not failed:
        out.print(Text(f"All {len(listed)} controls held: {', '.join(one.name for one in listed)}.", "dim"))
