"""Every policy in every litmus scenario that can be explored: a proof, or the shortest way to a finding.

Each pair is searched twice, with what commutes in one order and with every move; both have to say the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vm.explore.stateful import Bounds, Outcome, Problem, search
from vm.hw.modes import Modes
from vm.scenarios import scenarios
from vm.stacks.registry import policies

SCENARIOS: Final = tuple(name for name, scenario in scenarios().items() if scenario.litmus)
BUDGET: Final = 300.0  # seconds a pair


class Decision(NamedTuple):
    """What exploring a pair came to.

    `amount` is states, or visible operations of the shortest way; `every` is states where every move is made.
    """

    policy: str
    scenario: str
    verdict: str
    amount: int
    every: int
    exercised: int


class Differs(Exception):
    """What commutes in one order shows something else than every move does."""


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """All pairs of these policies, or of all."""
    return [(policy, scenario) for policy in names or policies() for scenario in SCENARIOS]


def decide(policy: str, scenario: str, speculation: str) -> Decision:
    """Explore a pair.

    Raises:
        Differs: its two searches do not say the same.
    """
    modes = Modes(df_restart="exact", speculation=speculation)
    problem = Problem(scenario, policy, modes)
    outcome = search(problem, Bounds(budget=BUDGET))
    every = search(problem, Bounds(budget=BUDGET, every_move=True))
    if _said(outcome) != _said(every):
        raise Differs(f"{policy} in {scenario}: {_said(outcome)}, with every move {_said(every)}")
    amount = len(outcome.path) if outcome.verdict == "unsafe" else outcome.states
    return Decision(policy, scenario, outcome.verdict, amount, every.states, outcome.exercised)


def _said(outcome: Outcome) -> tuple[object, ...]:
    """What must not depend on which moves are left out: of a finding all, of a proof whether it asked anything."""
    return outcome.verdict, outcome.finding, outcome.path, outcome.exercised > 0 or outcome.verdict == "unsafe"


def table(found: list[Decision]) -> str:
    """All of it as Markdown: a row a policy, a column a scenario."""
    cells = {(one.policy, one.scenario): _cell(one) for one in found}
    rows = [f"| policy | {' | '.join(name.removeprefix('litmus-') for name in SCENARIOS)} |"]
    rows.append("|---" * (len(SCENARIOS) + 1) + "|")
    for policy in dict.fromkeys(one.policy for one in found):
        rows.append(f"| {policy} | {' | '.join(cells[policy, scenario] for scenario in SCENARIOS)} |")
    decided = sum(one.verdict != "undecided" for one in found)
    proved = [one for one in found if one.verdict == "safe"]
    reduced, every = sum(one.amount for one in proved), sum(one.every for one in proved)
    head = f"{decided} of {len(found)} pairs decided; {reduced:,} states of all proofs, {every:,} with every move."
    return head + "\n\n" + "\n".join(rows)


def _cell(one: Decision) -> str:
    if one.verdict == "unsafe":
        return f"**unsafe**, {one.amount or 'at once'}"
    return f"{one.verdict}, {one.amount:,}" + (" (0)" if not one.exercised else "")
