"""The verdict table of `kstack compare`, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vm.coherence import Finding
from vm.judge import Judgement

WORDS = {True: ("safe", "green"), False: ("unsafe", "red"), None: ("undecided", "yellow")}


def print_judgements(console: Console, judgements: Sequence[Judgement]) -> None:
    """Print the table, and below it what was found."""
    table = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("policy", "scenario", "verdict"):
        table.add_column(name, no_wrap=name != "verdict")
    for name in ("exercised", "KiB", "PTE st", "INVLPG", "IPIs", "kcycles"):
        table.add_column(name, justify="right", no_wrap=True)
    for judgement in judgements:
        table.add_row(*_row(judgement))
    console.print(table)
    console.print(
        Text(
            "Found in how many runs. Of the first run: KiB mapped a thread, stores to PTEs, INVLPGs, IPIs, kilocycles (range).",
            "dim",
        )
    )
    for judgement in judgements:
        if judgement.finding is not None:
            console.print(_explanation(judgement))


def _row(judgement: Judgement) -> tuple[str | Text, ...]:
    word, colour = WORDS[judgement.safe]
    run, cycles, counts = judgement.reference, judgement.cycles, judgement.as_dict()["counts"]
    verdict = Text(f"{word}: {judgement.reason}", colour)
    if run is None or cycles is None:
        return judgement.policy, judgement.scenario, verdict, *("-" for _ in range(6))
    kib = run.kib_per_thread
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
        style = "bold red" if wrong else "dim" if moment.what.startswith("guest:") else ""
        table.add_row(str(moment.time), *(Text(moment.what if moment.cpu == cpu else "", style) for cpu in cpus))
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
