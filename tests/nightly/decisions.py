"""Every policy in every litmus scenario that can be explored: a proof, or the shortest way to a finding."""

from __future__ import annotations

from typing import Final, NamedTuple

from vm.explore.stateful import Bounds, Problem, search
from vm.hw.modes import Modes
from vm.scenarios import scenarios
from vm.stacks.registry import policies

SCENARIOS: Final = tuple(name for name, scenario in scenarios().items() if scenario.litmus)
BUDGET: Final = 300.0  # seconds a pair


class Decision(NamedTuple):
    """What exploring a pair came to; `amount` is states, or visible operations of the shortest way."""

    policy: str
    scenario: str
    verdict: str
    amount: int
    exercised: int


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """All pairs of these policies, or of all."""
    return [(policy, scenario) for policy in names or policies() for scenario in SCENARIOS]


def decide(policy: str, scenario: str, speculation: str) -> Decision:
    """Explore a pair."""
    modes = Modes(df_restart="exact", speculation=speculation)
    outcome = search(Problem(scenario, policy, modes), Bounds(budget=BUDGET))
    amount = len(outcome.path) if outcome.verdict == "unsafe" else outcome.states
    return Decision(policy, scenario, outcome.verdict, amount, outcome.exercised)


def table(found: list[Decision]) -> str:
    """All of it as Markdown: a row a policy, a column a scenario."""
    cells = {(one.policy, one.scenario): _cell(one) for one in found}
    rows = [f"| policy | {' | '.join(name.removeprefix('litmus-') for name in SCENARIOS)} |"]
    rows.append("|---" * (len(SCENARIOS) + 1) + "|")
    for policy in dict.fromkeys(one.policy for one in found):
        rows.append(f"| {policy} | {' | '.join(cells[policy, scenario] for scenario in SCENARIOS)} |")
    decided = sum(one.verdict != "undecided" for one in found)
    return f"{decided} of {len(found)} pairs decided.\n\n" + "\n".join(rows)


def _cell(one: Decision) -> str:
    if one.verdict == "unsafe":
        return f"**unsafe**, {one.amount or 'at once'}"
    return f"{one.verdict}, {one.amount:,}" + (" (0)" if not one.exercised else "")
