"""The report's plots, as plotly figures. Names come from users: they are escaped for plotly's pseudo-HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape, unescape
from typing import Final

import plotly.graph_objects as go

from kstack.report.comparison import Comparison, UnitCosts
from kstack.report.fleet import find_fleet
from kstack.stacks.measure.costs import Cycles
from kstack.stacks.measure.levels import PoolUse
from kstack.stacks.measure.usage import BUCKETS

GREEN, RED, YELLOW, BLUE = "#1a7f37", "#cf222e", "#9a6700", "#0969da"
INK, GRID = "#1f2328", "#d8dee4"
_FONT: Final = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
_VERDICTS: Final = (
    ("unsafe somewhere, or broken when explored", RED, "x"),
    ("undecided somewhere, unsafe nowhere", YELLOW, "diamond-open"),
    ("did nothing somewhere, safe elsewhere", BLUE, "circle-open"),
    ("safe everywhere", GREEN, "circle"),
)
_LABELS: Final = ("≤1K", "≤2K", "≤4K", "≤8K", "≤16K")
_LEAST: Final = 0.5  # cycles; less is drawn here on a logarithmic axis
POOL_CHOICES: Final = 24
_HEIGHT: Final = 620  # pixels of the scatter plot
_PLOT: Final = (1200, 540)  # pixels inside its axes
_WIDEST: Final = 18.0  # KiB
_CHARACTER: Final = 6.3  # pixels of a character in a label


def _layout(height: int, **more: object) -> dict[str, object]:
    return {
        "template": "plotly_white",
        "font": _FONT,
        "height": height,
        "margin": {"l": 70, "r": 24, "t": 16, "b": 60},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
        **more,
    }


def _verdict(comparison: Comparison, policy: str) -> int:
    """The place in `_VERDICTS` of a policy."""
    found = comparison.verdicts(policy)
    if found["unsafe"] or comparison.is_broken(policy):
        return 0
    return 1 if found["undecided"] else 2 if found["did-nothing"] else 3


def _bars(costs: list[Cycles], low: str = "low", high: str = "high") -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [getattr(cost, high) - cost.nominal for cost in costs],
        "arrayminus": [cost.nominal - max(getattr(cost, low), min(cost.nominal, _LEAST)) for cost in costs],
        "thickness": 1,
        "width": 4,
    }


def scatter(comparison: Comparison) -> go.Figure:
    """Memory against cost: a point a policy."""
    figure = go.Figure()
    for place, (name, colour, symbol) in enumerate(_VERDICTS):
        chosen = [
            (units, kib)
            for policy, units in comparison.units.items()
            if _verdict(comparison, policy) == place and (kib := comparison.kib(policy)) is not None
        ]
        if not chosen:
            continue
        costs = [comparison.cost(units.total) for units, _ in chosen]
        figure.add_scatter(
            x=[kib for _, kib in chosen],
            y=[max(_LEAST, cost.nominal) for cost in costs],
            error_y={**_bars(costs), "color": colour + "55", "width": 0},
            mode="markers",
            text=[escape(units.policy) for units, _ in chosen],
            marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2, "color": colour}},
            name=name,
            customdata=[
                (len(units.scenarios), cost.low, cost.high) for (units, _), cost in zip(chosen, costs, strict=True)
            ],
            hovertemplate="%{text}<br>%{x:.1f} KiB a thread<br>%{y:,.0f} cycles a switch (%{customdata[1]:,.0f}-"
            "%{customdata[2]:,.0f})<br>%{customdata[0]} scenarios finished<extra></extra>",
        )
    points = {
        escape(policy): (kib, math.log10(max(_LEAST, comparison.cost(units.total).nominal)))
        for policy, units in comparison.units.items()
        if (kib := comparison.kib(policy)) is not None
    }
    lowest, highest = _span([y for _, y in points.values()])
    figure.update_layout(_layout(_HEIGHT), annotations=label_points(points, (0, _WIDEST), (lowest, highest)))
    figure.update_xaxes(title="KiB mapped a thread, averaged over time", range=[0, _WIDEST])
    figure.update_yaxes(title="cycles a context switch, all in", type="log", dtick=1, range=[lowest, highest])
    return figure


def _span(values: list[float]) -> tuple[float, float]:
    """A logarithmic axis with room for labels."""
    return (min(values, default=0.0) - 0.4, max(values, default=1.0) + 0.4)


def label_points(
    points: dict[str, tuple[float, float]], across: tuple[float, float], up: tuple[float, float]
) -> list[dict[str, object]]:
    """A label for each point, beside it where there is room, else further off with a line to it.

    Args:
        points: (x, y) by label, as plotly takes them (y is the logarithm on a logarithmic axis).
        across: range of the x axis.
        up: range of the y axis.
    """
    wide, high = _PLOT[0] / (across[1] - across[0]), _PLOT[1] / (up[1] - up[0])
    at = {name: ((x - across[0]) * wide, (up[1] - y) * high) for name, (x, y) in points.items()}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in at.values()]
    labels = []
    for name in sorted(at, key=lambda name: (at[name][1], name)):
        x, y = at[name]
        half = _CHARACTER * len(unescape(name)) / 2 + 2
        for dx, dy in _offsets(half):
            box = (x + dx - half, y + dy - 8, x + dx + half, y + dy + 8)
            inside = box[0] >= 0 and box[2] <= _PLOT[0] and box[1] >= 0 and box[3] <= _PLOT[1]
            if inside and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        near = abs(dy) <= 16 and abs(dx) <= half + 10
        labels.append(
            {
                "x": points[name][0],
                "y": points[name][1],
                "text": name,
                "ax": dx,
                "ay": dy,
                "showarrow": True,
                "arrowhead": 0,
                "arrowwidth": 0.8,
                "arrowcolor": "rgba(0,0,0,0)" if near else "#8c959f",
                "font": {"size": 11},
                "borderpad": 1,
            }
        )
    return labels


def _offsets(half: float) -> Iterator[tuple[float, float]]:
    """Where a label's middle may be, from its point, the nearest first."""
    for step in range(20):
        far = 16 * step
        for dx, dy in (
            (half + 9, far),
            (half + 9, -far),
            (-half - 9, far),
            (-half - 9, -far),
            (0, far + 15),
            (0, -far - 15),
        ):
            yield (dx if step < 2 else dx * 1.2), dy


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def unit_costs(comparison: Comparison) -> go.Figure:
    """Cycles a switch and a system call of each policy, with the model's range."""
    from plotly.subplots import make_subplots

    units = sorted(comparison.units.values(), key=lambda one: comparison.cost(one.total).nominal)
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=("hooks of a context switch", "hooks of a system call"),
    )
    names = [escape(one.policy) for one in units]
    for column, amounts in enumerate(([one.switch for one in units], [one.syscall for one in units]), 1):
        costs = [comparison.cost(amount) for amount in amounts]
        figure.add_trace(
            go.Scatter(
                x=[max(_LEAST, cost.nominal) for cost in costs],
                y=names,
                mode="markers",
                marker={"color": [INK if cost.nominal else "#afb8c1" for cost in costs], "size": 8},
                error_x={**_bars(costs), "color": "#57606a"},
                customdata=[(cost.low, cost.nominal, cost.high) for cost in costs],
                hovertemplate="%{y}<br>%{customdata[1]:,.0f} cycles (%{customdata[0]:,.0f}-%{customdata[2]:,.0f})<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=column,
        )
    figure.update_layout(_layout(150 + 20 * len(units)))
    figure.update_layout(margin={"l": 10, "t": 40})
    figure.update_xaxes(type="log", dtick=1, title="cycles (a dot at the left edge: none)")
    figure.update_yaxes(automargin=True, ticks="outside", tickfont={"size": 12}, dtick=1, col=1)
    figure.update_yaxes(dtick=1, showticklabels=False, col=2)
    return figure


def depths(comparison: Comparison) -> go.Figure:
    """Depth of threads at context switch and at most, beside the published counters."""
    switch, deepest = [0] * len(BUCKETS), [0] * len(BUCKETS)
    for scenario in comparison.scenarios:
        usage = depth_source(comparison, scenario)
        if usage is not None:
            switch = [a + b for a, b in zip(switch, usage[1], strict=True)]
            deepest = [a + b for a, b in zip(deepest, usage[2], strict=True)]
    figure = go.Figure()
    series = (
        ("at a context switch (here)", switch, BLUE, ""),
        ("maximum of a thread (here)", deepest, "#8250df", "/"),
        ("kstack_*, Intel (maximum)", list(find_fleet("intel").depth.counts), "#57606a", "."),
        ("kstack_*, arm64 (maximum)", list(find_fleet("arm64").depth.counts), "#afb8c1", "x"),
    )
    for name, counts, colour, pattern in series:
        total = sum(counts) or 1
        figure.add_bar(
            x=list(_LABELS),
            y=[100 * count / total for count in counts],
            customdata=counts,
            name=name,
            marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "white"}},
            hovertemplate=name + "<br>%{x}: %{y:.2f} % (%{customdata:,})<extra></extra>",
        )
    figure.update_layout(_layout(380, barmode="group"))
    figure.update_xaxes(title="bytes of stack in use")
    figure.update_yaxes(title="percent", range=[0, 100])
    return figure


def depth_source(comparison: Comparison, scenario: str) -> tuple[str, tuple[int, ...], tuple[int, ...]] | None:
    """Depths of a scenario's threads, from the first policy that finished it (a fully backed one if any)."""
    order = sorted(comparison.units, key=lambda policy: not policy.startswith("fixed-16k"))
    for policy in order:
        judgement = comparison.pair(policy, scenario)
        if judgement is not None and judgement.scenario in comparison.units[policy].scenarios:
            usage = judgement.reference.usage if judgement.reference else None
            if usage is not None:
                return policy, usage.depth_at_switch, usage.depth_max
    return None


def pool_choices(comparison: Comparison) -> list[tuple[str, str, PoolUse]]:
    """The pairs whose pools moved furthest apart or were drawn on most, most first."""
    found = [
        (judgement.policy, judgement.scenario, run.usage.pools)
        for judgement in comparison.judgements
        if (run := judgement.reference) is not None and run.usage is not None and run.usage.pools is not None
    ]
    found.sort(key=lambda one: (-one[2].imbalance, -one[2].peak_draw, one[0], one[1]))
    return found[:POOL_CHOICES]


def pool_levels(use: PoolUse) -> go.Figure:
    """Pages in each CPU's pool over time."""
    figure = go.Figure()
    end = max((sample.time for sample in use.samples), default=0)
    dashes = ("solid", "dash", "dot", "dashdot")
    for cpu, start in enumerate(use.start):
        points = [(0, start), *((sample.time, sample.level) for sample in use.samples if sample.cpu == cpu)]
        points.append((end, points[-1][1] if use.every == 1 else use.end[cpu]))
        figure.add_scatter(
            x=[time for time, _ in points],
            y=[level for _, level in points],
            mode="lines",
            line={"shape": "hv", "dash": dashes[cpu % len(dashes)], "width": 1.6},
            name=f"CPU {cpu}",
        )
    figure.update_layout(_layout(320))
    figure.update_xaxes(title="virtual time since the run began (instructions)")
    figure.update_yaxes(title="pages in the pool", rangemode="tozero")
    return figure


def ranges(units: UnitCosts, comparison: Comparison) -> dict[str, Cycles]:
    """The four costs a unit, by name."""
    return {
        "switch": comparison.cost(units.switch),
        "syscall": comparison.cost(units.syscall),
        "thread": comparison.cost(units.thread),
        "fault": comparison.cost(units.fault),
    }
