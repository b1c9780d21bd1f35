"""Every policy in every litmus scenario that can be explored: a proof, or the shortest way to a finding.

Each pair is searched with what commutes in one order, and those of two CPUs with every move as well; both have to say the
same. With three CPUs every move is out of reach.
`--write` keeps what all policies came to as the decisions that come with kstack (`vm/report/decisions.json`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from kstack.explore.breadth_first import Bounds, Outcome, Problem, search
from kstack.hw.modes import READINGS, Modes
from kstack.judge.pairs import policy_hash_of
from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.report.decisions import Decision, Reading
from kstack.report.words import modes_line
from kstack.stacks.loading.registry import policies

SCENARIOS: Final = tuple(name for name, scenario in scenarios().items() if scenario.litmus)
BUDGET: Final = 300.0  # seconds a search
FEW: Final = 2  # CPUs, with which every move can be made
_CLOCK = time.process_time


class Decided(NamedTuple):
    """A decision, and what it took.

    Attributes:
        decision: what exploring came to.
        cpus: of the scenario.
        reduced, every: seconds of a processor with what commutes in one order, and with every move.
        differs: what the two searches say, where that is not the same.
    """

    decision: Decision
    cpus: int
    reduced: float
    every: float
    differs: str = ""


def pairs(names: list[str], places: list[str]) -> list[tuple[str, str]]:
    """All pairs of these policies, or of all, and these litmus scenarios, or all."""
    return [(policy, scenario) for policy in names or policies() for scenario in places or SCENARIOS]


def modes_of(speculation: str) -> Modes:
    """What is decided under a reading of the manual. #DF can be returned to: else every stack that grows so is broken."""
    return Modes(df_restart="exact", speculation=speculation)


def decide(policy: str, scenario: str, speculation: str) -> Decided:
    """Explore a pair, twice if it has few CPUs: the second search begins with what the first found to be visible."""
    problem, cpus = Problem(scenario, policy, modes_of(speculation)), find_scenario(scenario).cpus
    begun = _CLOCK()
    outcome = search(problem, Bounds(budget=BUDGET))
    reduced = _CLOCK() - begun
    seen = replace(problem, visible=tuple(sorted(outcome.visible.frames)))
    every = search(seen, Bounds(budget=BUDGET, every_move=True)) if cpus <= FEW else None
    differs = ""
    if every is not None and _said(outcome) != _said(every):
        differs = f"{policy} in {scenario}: {_said(outcome)}, with every move {_said(every)}"
    amount = len(outcome.path) if outcome.verdict == "unsafe" else outcome.states
    decision = Decision(
        policy=policy,
        policy_hash=policy_hash_of(policy),
        scenario=scenario,
        verdict=outcome.verdict,
        amount=amount,
        every=None if every is None else every.states,
        exercised=outcome.exercised,
        kind=None if outcome.finding is None else outcome.finding.kind.value,
    )
    return Decided(decision, cpus, reduced, _CLOCK() - begun - reduced, differs)


def _said(outcome: Outcome) -> tuple[object, ...]:
    """What must not depend on which moves are left out: of a finding all, of a proof whether it asked anything."""
    return outcome.verdict, outcome.finding, outcome.path, outcome.exercised > 0 or outcome.verdict == "unsafe"


def not_included(readings: Iterable[Reading]) -> list[str]:
    """Pairs with a finding under the least of READINGS, and proved under another: a proof or the finding is wrong.

    Left out is that no end can be reached: with less that a processor may do there may be fewer ends.
    """
    found = {one.modes["speculation"]: {(of.policy, of.scenario): of for of in one.decisions} for one in readings}
    least, *others = READINGS
    return [
        f"{policy} in {scenario}: {one.kind} under {least}, {found[other][policy, scenario].verdict} under {other}"
        for (policy, scenario), one in found[least].items()
        for other in others
        if one.kind is not None and not _has_finding(found[other][policy, scenario])
    ]


def _has_finding(one: Decision) -> bool:
    """Whether there is a finding, or may be one."""
    return one.kind is not None or one.verdict == "undecided"


def took(found: list[Decided]) -> str:
    """What it took."""
    sums = [sum(one.reduced for one in found if one.cpus <= FEW), sum(one.reduced for one in found if one.cpus > FEW)]
    two, three, every = (f"{seconds / 60:.1f}" for seconds in (*sums, sum(one.every for one in found)))
    return f"Minutes of a processor: {two} for the programs of two CPUs, {three} for those of three, and {every} for every move."


def table(found: list[Decision], speculation: str) -> str:
    """All of it as Markdown: under which modes, then a row a policy, a column a scenario; `_cell` says what stands there."""
    cells = {(one.policy, one.scenario): _cell(one) for one in found}
    places = list(dict.fromkeys(one.scenario for one in found))
    rows = [f"| policy | {' | '.join(name.removeprefix('litmus-') for name in places)} |"]
    rows.append("|---" * (len(places) + 1) + "|")
    for policy in dict.fromkeys(one.policy for one in found):
        rows.append(f"| {policy} | {' | '.join(cells[policy, scenario] for scenario in places)} |")
    decided = sum(one.verdict != "undecided" for one in found)
    proved = [(one.amount, one.every) for one in found if one.verdict == "safe"]
    both = [(reduced, every) for reduced, every in proved if every is not None]
    reduced, every = sum(reduced for reduced, _ in both), sum(every for _, every in both)
    head = (
        f"{decided} of {len(found)} pairs decided; {sum(amount for amount, _ in proved):,} states of all proofs, "
        f"{reduced:,} of two CPUs, which are {every:,} with every move."
    )
    return "\n\n".join((head, f"{modes_line(modes_of(speculation), explored=True)}.", "\n".join(rows)))


def _cell(one: Decision) -> str:
    """A number alone is of states of a proof, in brackets of one that asked nothing, in bold of visible operations."""
    if one.verdict == "unsafe":
        return f"**{one.amount or 'at once'}**"
    if one.verdict == "safe":
        return f"{one.amount:,}" if one.exercised else f"({one.amount:,})"
    return f"undecided, {one.amount:,}"
