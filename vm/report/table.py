"""The verdict table of `kstack compare`, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kstack.explore.witness import WitnessLine
from kstack.hw.modes import Modes
from kstack.judge.verdict import Judgement
from kstack.report.comparison import Comparison
from kstack.report.fleet import FleetEstimate, Range
from kstack.report.words import VERDICTS, modes_line
from kstack.run.statistics import totals_of
from kstack.sanitizer.findings import Finding

NARROW: Final = 100  # columns of a terminal below which counts are left out
WIDE: Final = 132  # and from which on a fleet's figures all have their ranges


def print_judgements(console: Console, comparison: Comparison) -> None:
    """Print the table, and below it what was found."""
    table = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("policy", "scenario", "verdict"):
        table.add_column(name, no_wrap=name != "verdict")
    numbers = ("exercised", "KiB", "PTE st", "INVLPG", "IPIs", "kcycles")
    shown = [place for place, name in enumerate(numbers) if console.width >= NARROW or name in ("KiB", "kcycles")]
    for place in shown:
        table.add_column(numbers[place], justify="right", no_wrap=True)
    for judgement in comparison.judgements:
        row = _row(judgement, comparison)
        table.add_row(*row[:3], *(row[3 + place] for place in shown))
    console.print(table)
    console.print(
        Text(
            "Found in how many runs. Of a run that is measured: KiB mapped a thread, stores to PTEs, INVLPGs, IPIs, kilocycles (range).",
            "dim",
        )
    )
    for line in modes_lines(comparison):
        console.print(Text(line, "dim"))
    for judgement in comparison.judgements:
        if judgement.finding is not None:
            console.print(_explanation(judgement))


def _row(judgement: Judgement, comparison: Comparison) -> tuple[str | Text, ...]:
    word, colour = VERDICTS[judgement.verdict]
    run, cycles = judgement.reference, judgement.cycles(comparison.model)
    verdict, warning = Text(f"{word}: {judgement.reason}", colour), comparison.warning(judgement)
    if warning:
        verdict.append(f"; {warning}", "red")
    if comparison.mark:
        verdict.append(f"; {comparison.mark}", "red")
    if run is None or cycles is None:
        return judgement.policy, judgement.scenario, verdict, *("-" for _ in range(6))
    kib, counts = run.kib_per_thread, totals_of(run)
    return (
        judgement.policy,
        judgement.scenario,
        verdict,
        str(judgement.exercised),
        "-" if kib is None else f"{kib:.1f}",
        str(counts["pte_writes"]),
        str(counts["invlpg"]),
        str(counts["ipis"]),
        f"{cycles.nominal / 1000:.0f} ({cycles.low / 1000:.0f}-{cycles.high / 1000:.0f})",
    )


def modes_lines(comparison: Comparison) -> list[str]:
    """Under which modes everything was found that a comparison shows, a line each."""
    modes, lines = comparison.modes, [modes_line(comparison.modes, comparison.usual), *comparison.notes]
    explored = any(judgement.basis == "exhaustive" for judgement in comparison.judgements)
    if explored:
        lines.append(f"What was explored has every moment's fills and evictions in place of tlb={modes.tlb}.")
    if modes.memory_order != "sc":
        lines.append("What was not explored was run with memory-order=sc.")
    return lines + [before_line(one) for one in comparison.explored_before]


def before_line(modes: Modes) -> str:
    """Under which modes that was explored which comes with kstack as decided."""
    return f"Broken, as explored before. {modes_line(modes, explored=True)}"


def print_fleet(console: Console, estimates: FleetEstimate) -> None:
    """Print what a fleet would save and spend, and what that rests on."""
    fleet = estimates.fleet
    title = (
        f"\nFleet {fleet.name}: {fleet.threads} threads, each {fleet.switches_per_second:g} switches and "
        f"{fleet.syscalls_per_second:g} system calls a second, {fleet.ghz:g} GHz"
    )
    console.print(Text(title, "bold"))
    table = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    table.add_column("safe/unsafe/nothing/?", justify="right", no_wrap=True)
    for name in ("KiB a thread", "MiB saved", "% saved", "Mcycles/s", "CPUs"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in estimates.policies:
        cycles = Range(one.cycles.low / 1e6, one.cycles.nominal / 1e6, one.cycles.high / 1e6)
        table.add_row(
            one.policy,
            Text(f"{one.safe}/{one.unsafe}/{one.did_nothing}/{one.undecided}", "red" if one.broken else ""),
            _range(one.kib, console.width >= WIDE),
            _range(one.saved_mib, console.width >= NARROW),
            short_number(one.saved_percent.nominal),
            _range(cycles),
            _range(one.cores, console.width >= WIDE),
        )
    console.print(table)
    for one in estimates.policies:
        if one.broken:
            console.print(Text(f"{one.policy} is {one.broken}.", "red"))
    console.print(Text(estimates.cross_check))
    for number, assumption in enumerate(estimates.assumptions, 1):
        console.print(Text(f"{number}. {assumption}", "dim"))
    borrowed = sorted({(name, one.policy) for one in estimates.policies for name in one.borrowed})
    if borrowed:
        buckets = ", ".join(dict.fromkeys(name for name, _ in borrowed))
        console.print(Text(f"Under some policies no thread was measured at {buckets} (assumption 2).", "dim"))
    if estimates.left_out:
        console.print(Text(f"Not estimated, since no scenario was finished: {', '.join(estimates.left_out)}.", "dim"))


def _range(value: Range, whole: bool = True) -> str:
    low, nominal, high = (short_number(number) for number in (value.low, value.nominal, value.high))
    return nominal if low == high or not whole else f"{nominal} ({low}-{high})"


def short_number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 1 or value == 0:
        return f"{value:.3g}"
    return f"{value:.2g}" if abs(value) >= 0.001 else "<.001"


def _explanation(judgement: Judgement) -> Group:
    title = Text(f"\n{judgement.policy} / {judgement.scenario}, under {judgement.found_by}", "bold")
    parts: list[RenderableType] = [Padding(finding_text(finding), (0, 0, 0, 2)) for finding in judgement.findings[:2]]
    if judgement.finding is not None and judgement.finding.history:
        parts.append(Padding(lanes(judgement.finding), (0, 0, 0, 2)))
    return Group(title, *parts)


def lanes(finding: Finding) -> Table:
    """What led to a finding: a lane a CPU, time downwards."""
    cpus = sorted({moment.cpu for moment in finding.history} | {finding.cpu})
    table = Table(header_style="bold", box=box.SIMPLE)
    table.add_column("time", justify="right")
    for cpu in cpus:
        table.add_column(f"CPU {cpu}", overflow="fold")
    for moment in finding.history:
        wrong = moment.time == finding.time and moment.cpu == finding.cpu
        style = "bold red" if wrong else "dim" if moment.text.startswith("guest:") else ""
        table.add_row(str(moment.time), *(Text(moment.text if moment.cpu == cpu else "", style) for cpu in cpus))
    return table


def path_lanes(lines: Sequence[WitnessLine]) -> Table:
    """The moves of a path: a lane a CPU, in order."""
    cpus = sorted({line.cpu for line in lines})
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    for cpu in cpus:
        table.add_column(f"CPU {cpu}", overflow="fold")
    for line in lines:
        table.add_row(str(line.number), *(Text(line.what if cpu == line.cpu else "") for cpu in cpus))
    return table


def finding_text(finding: Finding) -> Text:
    """A finding in four lines: what, where, whose frame, who freed it."""
    lines = [f"{finding.kind.value}: {finding.text}"]
    lines.append(f"  at {finding.symbol} on CPU {finding.cpu}, virtual time {finding.time}")
    if finding.old_owner:
        lines.append(f"  frame {finding.frame:#x} belonged to {finding.old_owner}, and now: {finding.new_owner}")
    if finding.freed_by:
        lines.append(f"  freed by {finding.freed_by}")
    return Text("\n".join(lines))
