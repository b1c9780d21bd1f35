"""Random walks through the state space, by seed: for what is too large to be searched.

Each execution draws, from its seed, how it prefers to move: any move alike; one CPU as long as it
can; or with one CPU starved until nothing else can move.
"""

from __future__ import annotations

import random
import time
from typing import NamedTuple

from kstack.explore.model.gate import Visible
from kstack.explore.problem import Bounds, Outcome, Problem, Progress, at_once
from kstack.explore.transitions import Memo
from kstack.explore.world import FoundBefore, Grown, Move, NotReady, World
from kstack.hw.modes import Modes
from kstack.sanitizer.findings import Finding
from kstack.stacks import Policy

_CLOCK = time.monotonic  # for the budget alone
LONGEST = 5_000  # moves of one execution
STAY = 0.9  # how likely a walk that prefers its CPU stays on it


def sample(problem: Problem, bounds: Bounds = Bounds(), progress: Progress = lambda *_: None) -> Outcome:
    """Walk at random, seeds 0, 1, 2, ...; stop at the first finding.

    Args:
        problem: the scenario, the policy, the modes.
        bounds: how many walks; `budget` ends it early, `depth` cuts walks.
        progress: told after each walk.
    """
    visible = Visible(problem.visible)
    while True:
        try:
            world = World(problem.scenario, problem.chosen, problem.modes, visible)
            return _walks(Memo(world), bounds.executions, bounds, progress)
        except Grown:
            continue
        except (FoundBefore, NotReady) as why:
            return at_once(problem.scenario, problem.chosen, problem.modes, why)


def hits(scenario: str, policy: type[Policy], modes: Modes, executions: int) -> int:
    """How many of the walks with seeds 0, 1, 2, ... end with a finding.

    Args:
        scenario: its id.
        policy: the policy's class.
        modes: architecture modes.
        executions: how many walks.
    """
    visible = Visible()
    while True:
        try:
            memo = Memo(World(scenario, policy, modes, visible))
            return sum(_walk(memo, seed, LONGEST).finding is not None for seed in range(executions))
        except Grown:
            continue


def _walks(memo: Memo, executions: int, bounds: Bounds, progress: Progress) -> Outcome:
    made = exercised = done = 0
    cut = False
    started, longest, visible = _CLOCK(), bounds.depth or LONGEST, memo.world.visible
    for seed in range(executions):
        walk = _walk(memo, seed, longest)
        made += len(walk.path)
        exercised += walk.exercised
        if walk.finding is not None:
            return Outcome(
                verdict="unsafe",
                complete=False,
                states=0,
                moves=made,
                exercised=exercised,
                depth=len(walk.path),
                finding=walk.finding,
                path=tuple(walk.path),
                visible=visible,
                stronger=memo.world.stronger,
                executions=done + 1,
            )
        cut = cut or len(walk.path) >= longest
        done += 1
        progress(done, 0, len(walk.path))
        if bounds.budget is not None and _CLOCK() - started > bounds.budget:
            break
    reason = f"{done} executions" + (", some cut" if cut else "")
    return Outcome(
        "undecided",
        False,
        0,
        made,
        exercised,
        longest,
        cut=reason,
        visible=visible,
        executions=done,
        stronger=memo.world.stronger,
    )


class _Walk(NamedTuple):
    """One walk from the root: its moves, what the last of them found, accesses that could have gone two ways."""

    path: list[Move]
    finding: Finding | None
    exercised: int


def _walk(memo: Memo, seed: int, longest: int) -> _Walk:
    rng, programs = random.Random(seed), memo.world.programs
    style, starved = seed % 3, programs[rng.randrange(len(programs))]
    path: list[Move] = []
    node, exercised = memo.root, 0
    while len(path) < longest and (moves := memo.moves(node)):
        move = _choose(rng, style, starved, moves, path[-1].cpu if path else -1)
        path.append(move)
        outcome = memo.make(node, move)
        node, exercised = outcome.node, exercised + outcome.exercised
        if outcome.finding is not None:
            return _Walk(path, outcome.finding, exercised)
    return _Walk(path, None, exercised)


def _choose(rng: random.Random, style: int, starved: int, moves: list[Move], last: int) -> Move:
    if style == 1 and rng.random() < STAY:
        moves = [move for move in moves if move.cpu == last] or moves
    elif style == 2:
        moves = [move for move in moves if move.cpu != starved] or moves
    return moves[rng.randrange(len(moves))]
