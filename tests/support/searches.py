"""Problems for the explorer, and what of an outcome must not depend on how it was computed."""

from __future__ import annotations

from typing import Any, Final

from kstack.explore.breadth_first import Outcome, Problem
from kstack.hw.modes import Modes

LAIGHT: Final = "litmus-laight"


def problem(policy: str, scenario: str = LAIGHT, **modes: str) -> Problem:
    """A shipped policy in a litmus scenario."""
    return Problem(scenario, policy, Modes(**modes))


def essence(outcome: Outcome) -> tuple[Any, ...]:
    """What an outcome says, but for how long it took."""
    return (
        outcome.verdict,
        outcome.states,
        outcome.moves,
        outcome.exercised,
        outcome.depth,
        outcome.path,
        outcome.finding,
    )
