"""What a campaign of injected faults came to: a matrix for the terminal, and one as an HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich import box
from rich.table import Table

from kstack.base import html as page
from kstack.inject import NOT_FIRED, OUTCOMES, TrialOutcome, TrialPair
from kstack.inject.campaign import TrialBatch, declared
from kstack.inject.examples import Example
from kstack.judge.pairs import versions

Found = list[tuple[TrialBatch, list[TrialOutcome]]]
TEMPLATE: Final = Path(__file__).parent / "templates" / "faults.html"
MOST: Final = 40  # trials that a cell of the page lists
COLUMNS: Final = (NOT_FIRED, *OUTCOMES)
Places = dict[tuple[TrialPair, TrialOutcome], Path]
SHOWN: Final = (NOT_FIRED, "masked", "by guest", "by policy", "by oracle", "wrong-data", "hang", "shutdown")


class Row(NamedTuple):
    """A trial, as the page lists it: the fault as a campaign's file declares it, and what shows it again, if recorded."""

    scenario: str
    outcome: TrialOutcome
    declared: str
    recording: Path | None


class FaultCell(NamedTuple):
    """A policy and a fault.

    Attributes:
        anchor: of its panel.
        policy, what: by name.
        counts: trials by outcome, all, and `fired`.
        worst: of the outcomes.
        scenarios: the same by scenario.
        rows: trials that were not masked, or whose fault did not happen, at most so many of each that all are MOST.
        left_out: how many more there are.
    """

    anchor: str
    policy: str
    what: str
    counts: Counter[str]
    worst: str
    scenarios: dict[str, Counter[str]]
    rows: list[Row]
    left_out: int


def tally(outcomes: Iterable[TrialOutcome]) -> Counter[str]:
    """How many trials there were (`trials`), whose fault happened (`fired`) or did not, by outcome, and what was detected by whom."""
    found: Counter[str] = Counter()
    for one in outcomes:
        found["trials"] += 1
        found["fired"] += one.fired is not None
        found[one.column] += 1
        if one.column == "detected":
            found[f"by {one.by}"] += 1
    return found


def matrix(found: Found) -> Table:
    """For a terminal: a row a policy and fault, how many trials came to what; outcomes to which none came are left out."""
    shown = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    totals = tally(one for _, outcomes in found for one in outcomes)
    columns = ("trials", "fired", *(name for name in SHOWN if totals[name]))
    for name in ("policy", "fault", *columns):
        shown.add_column(name, justify="left" if name in ("policy", "fault") else "right", no_wrap=True)
    for (policy, what), trials in _by_cell(found).items():
        counts = tally(outcome for _, outcome in trials)
        shown.add_row(policy, what, *(str(counts[column]) if counts[column] else "" for column in columns))
    return shown


def write_matrix(path: Path, found: Found, examples: Sequence[Example], notes: Sequence[str] = ()) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the file.
        found: batches and what came of their trials.
        examples: recordings of some of them.
        notes: on what the modes rest.

    Raises:
        ConfigError: it cannot be written.
    """
    page.check_can_write(path)
    page.write_page(path, render(found, examples, notes))


def render(found: Found, examples: Sequence[Example], notes: Sequence[str] = ()) -> str:
    """The page as text; the same outcomes give the same text."""
    places = {(example.pair, example.outcome): example.path for example in examples}
    cells = [
        _cell(f"pair-{number}", policy, what, trials, places)
        for number, ((policy, what), trials) in enumerate(_by_cell(found).items())
    ]
    whats = list(dict.fromkeys(cell.what for cell in cells))
    rows: dict[str, list[FaultCell | None]] = {cell.policy: [None] * len(whats) for cell in cells}
    for cell in cells:
        rows[cell.policy][whats.index(cell.what)] = cell
    everything = [outcome for _, outcomes in found for outcome in outcomes]
    return page.rendered(
        TEMPLATE,
        {
            "cells": cells,
            "rows": rows,
            "whats": whats,
            "scenarios": list(dict.fromkeys(batch.pair.scenario for batch, _ in found)),
            "totals": tally(everything),
            "outcomes": COLUMNS,
            "shown": SHOWN,
            "modes": found[0][0].pair.modes.as_dict() if found else {},
            "notes": notes,
            "versions": versions(),
        },
        {"share": _share, "slug": _slug},
    )


def _by_cell(found: Found) -> dict[tuple[str, str], list[tuple[TrialPair, TrialOutcome]]]:
    """Trials by policy and fault, in order."""
    cells: dict[tuple[str, str], list[tuple[TrialPair, TrialOutcome]]] = {}
    for batch, outcomes in found:
        for one in outcomes:
            cells.setdefault((batch.pair.policy, one.fault.what), []).append((batch.pair, one))
    return cells


def _cell(
    anchor: str, policy: str, what: str, trials: list[tuple[TrialPair, TrialOutcome]], places: Places
) -> FaultCell:
    counts = tally(one for _, one in trials)
    kinds = [name for name in COLUMNS if name != "masked" and counts[name]]
    rows = []
    for name in kinds:
        alike = sorted((trial for trial in trials if trial[1].column == name), key=lambda trial: trial[1].time)
        recorded = [trial for trial in alike if trial in places]
        chosen = [*recorded, *(trial for trial in alike if trial not in places)][: MOST // len(kinds)]
        rows += [Row(pair.scenario, one, declared(one.fault), places.get((pair, one))) for pair, one in chosen]
    by_scenario: dict[str, list[TrialOutcome]] = {}
    for pair, one in trials:
        by_scenario.setdefault(pair.scenario, []).append(one)
    scenarios = {scenario: tally(outcomes) for scenario, outcomes in by_scenario.items()}
    left = counts["trials"] - counts["masked"] - len(rows)
    return FaultCell(anchor, policy, what, counts, kinds[-1] if kinds else "masked", scenarios, rows, left)


def _slug(name: str) -> str:
    """An outcome as a class of the style sheet."""
    return name.replace(" ", "-")


def _share(counts: Counter[str], name: str) -> float:
    """Per cent of the trials that came to an outcome."""
    return round(100 * counts[name] / counts["trials"], 2)
