"""Every shape of transistency in every mode, and random programs by seed: on the explored machine as on the abstract one.

Each is searched twice, with what commutes in one order and with every move.
"""

from __future__ import annotations

from typing import NamedTuple

from kstack.kernels.kstack.pages import Litmus
from kstack.testing.reachable import Guest
from tests.support.shapes import SHAPES
from tests.support.transistency_programs import MODES, Comparison, compare, draw


class Row(NamedTuple):
    """A test in all modes: outcomes and states over all of them, and what does not agree."""

    name: str
    outcomes: int
    states: int
    differences: tuple[Comparison, ...]


def shape(name: str) -> Row:
    """A shape."""
    return _row(name, SHAPES[name].litmus)


def program(seed: int) -> Row:
    """A random program."""
    return _row(str(seed), draw(seed))


def _row(name: str, test: Litmus) -> Row:
    with Guest(test) as guest:
        found = [compare(guest, mode, every_move) for mode in MODES for every_move in (False, True)]
    return Row(
        name,
        sum(one.outcomes for one in found[::2]),
        sum(one.states for one in found),
        tuple(one for one in found if not one.agrees),
    )


def table(shapes: list[Row], programs: list[Row]) -> str:
    """Both as Markdown."""
    lines = [f"| shape | outcomes in {len(MODES)} modes | states |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.outcomes} | {row.states} |" for row in shapes]
    for what, rows in (("shapes", shapes), ("random programs", programs)):
        differ = [row for row in rows if row.differences]
        lines.append(
            f"\n{len(rows)} {what} in {len(MODES)} modes, {sum(row.outcomes for row in rows)} outcomes: {len(differ)} differ."
        )
        lines += [f"- {row.name}: {one}" for row in differ for one in row.differences[:2]]
    return "\n".join(lines)
