"""One HTML file with everything that `kstack compare` has found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from kstack.base import html as page
from kstack.judge.pairs import versions
from kstack.judge.verdict import Judgement
from kstack.report.comparison import Comparison
from kstack.report.fleet import Fleet, estimate
from kstack.report.sensitivity import sensitivity
from kstack.report.table import modes_lines, short_number
from kstack.report.witness import VerdictCell, witness
from kstack.report.words import VERDICTS, modes_line
from kstack.run.statistics import detail_of, totals_of
from kstack.stacks.measure.costs import OPERATIONS, Cycles
from kstack.stacks.measure.usage import BUCKETS

TEMPLATES: Final = Path(__file__).parent / "templates"
_NEEDS: Final = ("plotly", "jinja2")


def check_can_write(path: Path) -> None:
    """Find out whether a report can be made and written.

    Raises:
        ConfigError: a library is missing, or the file cannot be written.
    """
    page.check_can_write(path, _NEEDS)


def write_report(path: Path, comparison: Comparison, fleet: Fleet | None = None) -> None:
    """Write the report, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    check_can_write(path)
    page.write_page(path, render(comparison, fleet))


def render(comparison: Comparison, fleet: Fleet | None = None) -> str:
    """The report as text; the same comparison gives the same text."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    content = _content(comparison, fleet) | {"plotly": Markup(get_plotlyjs().replace("</script", "<\\/script"))}
    return page.rendered(
        TEMPLATES / "report.html",
        content,
        {"short": short_number, "cycles": _cycles, "modes": partial(_modes, comparison)},
    )


def _modes(comparison: Comparison, judgement: Judgement) -> str:
    """Under which modes a pair was judged."""
    given = replace(judgement.modes, stack_fault_delivery=comparison.modes.stack_fault_delivery)
    line = modes_line(judgement.modes, comparison.usual, given=given, explored=judgement.basis == "exhaustive")
    return f"{line}; {comparison.mark}" if comparison.mark else line


def _content(comparison: Comparison, fleet: Fleet | None) -> dict[str, object]:
    """What the template shows."""
    cells, witnesses = _matrix(comparison)
    verdicts = [judgement.verdict for judgement in comparison.judgements]
    return {
        "comparison": comparison,
        "numbers": {word: verdicts.count(word) for word in VERDICTS},
        "modes": modes_lines(comparison),
        "cells": cells,
        "witnesses": witnesses,
        "words": {verdict: word for verdict, (word, _) in VERDICTS.items()},
        "details": {one.anchor: _numbers(one.judgement, comparison) for one in witnesses},
        "sensitivity": sensitivity(comparison),
        "paid": _paid(comparison),
        "costs": {name: comparison.model.cost(name) for name in OPERATIONS},
        "fleet": None if fleet is None else estimate(fleet, comparison),
        "versions": versions(),
        "buckets": [f"≤{bound // 1024}K" for bound in BUCKETS],
        **_figures(comparison),
    }


def _matrix(comparison: Comparison) -> tuple[list[tuple[str, list[VerdictCell | None]]], list[VerdictCell]]:
    """Rows of the verdict matrix, and all that its cells open."""
    rows: list[tuple[str, list[VerdictCell | None]]] = []
    witnesses: list[VerdictCell] = []
    usual = comparison.usual.as_dict()
    chosen = [(name, value) for name, value in comparison.modes.as_dict().items() if value != usual[name]]
    options = "".join(f" --mode {name}={value.replace(' ', ':')}" for name, value in chosen)
    for policy in comparison.policies:
        row: list[VerdictCell | None] = []
        for scenario in comparison.scenarios:
            judgement = comparison.pair(policy, scenario)
            if judgement is None:
                row.append(None)
                continue
            witnesses.append(witness(judgement, f"pair-{len(witnesses)}", options))
            row.append(witnesses[-1])
        rows.append((policy, row))
    return rows, witnesses


def _numbers(judgement: Judgement, comparison: Comparison) -> list[tuple[str, str]]:
    """Counts of one pair, as names and values."""
    run = judgement.reference
    if run is None:
        return []
    found = [(name.replace("_", " "), f"{value:,}") for name, value in totals_of(run).items()]
    for name, value in detail_of(run).items():
        if isinstance(value, int) and value:
            found.append((name.replace("_", " "), f"{value:,}"))
    total = judgement.cycles(comparison.model)
    if total is not None:
        found.append(("cycles", _cycles(total)))
    usage = run.usage
    if usage is not None and usage.kib_mean is not None:
        found.append(("KiB a thread", f"{usage.kib_mean:.1f} mean, {usage.kib_peak:.1f} peak"))
        if usage.kib_asleep is not None:
            found.append(("KiB a sleeping thread", f"{usage.kib_asleep:.1f}"))
        if usage.pools is not None:
            found.append(("pool: peak draw, imbalance", f"{usage.pools.peak_draw}, {usage.pools.imbalance} pages"))
        if usage.faults:
            found.append(("exceptions", ", ".join(f"{name} {number}" for name, number in usage.faults.items())))
    return found


def _paid(comparison: Comparison) -> list[tuple[str, dict[str, Cycles], float | None, float | None]]:
    """Costs a unit by policy, cheapest first: cycles of a switch, system call, thread and fault; walks; KiB."""
    from kstack.report.plots import ranges

    units = sorted(comparison.units.values(), key=lambda one: comparison.cost(one.total).nominal)
    return [(one.policy, ranges(one, comparison), one.walks, comparison.kib(one.policy)) for one in units]


def _cycles(value: Cycles) -> str:
    low, nominal, high = (short_number(round(number, 3)) for number in (value.low, value.nominal, value.high))
    return "0" if not value.high else f"{nominal} ({low}-{high})"


def _figures(comparison: Comparison) -> dict[str, object]:
    """Plots as plain data, and the table of depths."""
    from kstack.report import plots

    choices = plots.pool_choices(comparison)
    figures = {
        "scatter": plots.scatter(comparison),
        "units": plots.unit_costs(comparison),
        "depths": plots.depths(comparison),
        **{f"pool-{place}": plots.pool_levels(use) for place, (_, _, use) in enumerate(choices)},
    }
    return {
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
        "pools": choices,
        "depth_rows": list(_depth_rows(comparison)),
    }


def _depth_rows(comparison: Comparison) -> Iterator[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    from kstack.report.plots import depth_source

    for scenario in comparison.scenarios:
        found = depth_source(comparison, scenario)
        if found is not None:
            yield scenario, *found
