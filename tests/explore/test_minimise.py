"""A minimised path still ends with the finding, no move can be left out of it, and it is in a few stretches."""

from __future__ import annotations

import random

import pytest

from kstack.explore.breadth_first import Problem, search
from kstack.explore.minimise import minimised
from kstack.explore.states import Grown, Move
from kstack.explore.transitions import StateSpace
from kstack.hw.modes import Modes
from kstack.sanitizer.findings import Kind


def walk(problem: Problem, seed: int) -> tuple[StateSpace, list[Move], Kind]:
    """A random walk to a finding, after those that found none, with all that is visible on it."""
    while True:
        try:
            space = StateSpace(problem.world())
            while True:
                rng, node, path = random.Random(seed), space.root, list[Move]()
                while (moves := space.moves(node)) and len(path) < 3000:
                    path.append(rng.choice(moves))
                    outcome = space.make(node, path[-1])
                    node = outcome.node
                    if outcome.finding is not None:
                        return space, path, outcome.finding.kind
                seed += 1000
        except Grown as grown:
            problem = Problem(problem.scenario, problem.policy, problem.modes, grown.frames)


def ends(space: StateSpace, path: tuple[Move, ...]) -> Kind | None:
    """What the last move of a path finds; None if it cannot be made, or finds nothing."""
    node, finding = space.root, None
    for move in path:
        if finding is not None or move not in space.moves(node):
            return None
        outcome = space.make(node, move)
        node, finding = outcome.node, outcome.finding
    return None if finding is None else finding.kind


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("scenario", "policy"), [("litmus-laight", "entry-exit"), ("litmus-cross", "switch-sp-local")])
def test_nothing_can_be_left_out(scenario: str, policy: str, seed: int) -> None:
    problem = Problem(scenario, policy, Modes())
    space, path, kind = walk(problem, seed)
    found = minimised(space, path, kind)
    assert ends(space, found) is kind
    assert len(found) <= len(path)
    for left_out in range(len(found)):
        assert ends(space, found[:left_out] + found[left_out + 1 :]) is not kind
    shortest = search(problem)
    assert len(found) >= len(shortest.path)


def test_a_shortest_way_stays_as_it_is() -> None:
    problem = Problem("litmus-laight", "entry-exit", Modes())
    outcome = search(problem)
    assert outcome.finding is not None
    space = StateSpace(Problem("litmus-laight", "entry-exit", Modes(), tuple(outcome.visible.frames)).world())
    assert minimised(space, outcome.path, outcome.finding.kind) == outcome.path
