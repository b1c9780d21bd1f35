"""What the ranking of policies by cost owes to each figure of the cost model.

Two policies are compared over the scenarios that both finished: the one with fewer nominal cycles is
the cheaper. Then one figure alone goes to its low or high end, and pairs that change places are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from kstack.report.comparison import Comparison
from kstack.run.statistics import operations_of
from kstack.stacks.measure.costs import OPERATIONS, CostModel, cycles


@dataclass(frozen=True)
class Swing:
    """What one figure does at one end of its range.

    Attributes:
        operation: whose figure.
        end: `low` or `high`.
        value: the figure there (cycles).
        swaps: pairs (cheaper before, cheaper then).
        pairs: how many pairs could have swapped.
    """

    operation: str
    end: str
    value: int
    swaps: tuple[tuple[str, str], ...]
    pairs: int


@dataclass(frozen=True)
class Sensitivity:
    """Ranking and swings.

    Attributes:
        ranking: policies, cheapest first, with the number of policies that each is cheaper than.
        swings: of every figure that some policy pays, both ends, most swaps first.
    """

    ranking: tuple[tuple[str, int], ...]
    swings: tuple[Swing, ...]


def sensitivity(comparison: Comparison) -> Sensitivity:
    """Rank policies by nominal cycles, and again with each figure at its ends."""
    amounts = {
        policy: {
            judgement.scenario: operations_of(judgement.reference)
            for judgement in comparison.finished(policy)
            if judgement.reference is not None
        }
        for policy in comparison.policies
    }
    model = comparison.model
    nominal = _signs(amounts, model)
    wins = {policy: 0 for policy, done in amounts.items() if done}
    for (left, right), sign in nominal.items():
        if sign:
            wins[left if sign < 0 else right] += 1
    ranking = tuple(sorted(wins.items(), key=lambda item: (-item[1], item[0])))
    paid = [name for name in OPERATIONS if any(run[name] for done in amounts.values() for run in done.values())]
    swings = []
    for operation in paid:
        for end in ("low", "high"):
            value: int = getattr(model.cost(operation), end)
            changed = _signs(amounts, model.with_nominal(operation, value))
            swaps = [_ordered(pair, sign) for pair, sign in nominal.items() if sign * changed[pair] < 0]
            swings.append(Swing(operation, end, value, tuple(sorted(swaps)), len(nominal)))
    swings.sort(key=lambda swing: -len(swing.swaps))
    return Sensitivity(ranking, tuple(swings))


def _ordered(pair: tuple[str, str], sign: int) -> tuple[str, str]:
    return pair if sign < 0 else (pair[1], pair[0])


def _signs(amounts: dict[str, dict[str, dict[str, int]]], model: CostModel) -> dict[tuple[str, str], int]:
    """Of each pair of policies with a scenario in common: -1 if the first is cheaper, 1 if the second is."""
    cost = {
        policy: {scenario: cycles(run, model).nominal for scenario, run in done.items()}
        for policy, done in amounts.items()
    }
    signs: dict[tuple[str, str], int] = {}
    for left, right in combinations(amounts, 2):
        common = cost[left].keys() & cost[right].keys()
        if common:
            difference = sum(cost[left][name] - cost[right][name] for name in sorted(common))
            signs[left, right] = (difference > 0) - (difference < 0)
    return signs
