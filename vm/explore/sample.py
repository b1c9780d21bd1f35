"""Random walks through the state space, by seed: for what is too large to be searched.

Each execution draws, from its seed, how it prefers to move: any move alike; one CPU as long as it
can; or with one CPU starved until nothing else can move.
"""

from __future__ import annotations

import random
import time

from vm.coherence import Finding
from vm.explore.stateful import Bounds, Outcome, Progress
from vm.explore.world import Grown, Move, State, World
from vm.hw.gate import Visible
from vm.hw.modes import Modes
from vm.stacks import Policy

_CLOCK = time.monotonic  # for the budget alone
LONGEST = 5_000  # moves of one execution
STAY = 0.9  # how likely a walk that prefers its CPU stays on it


def sample(
    scenario: str,
    policy: type[Policy],
    modes: Modes,
    executions: int,
    bounds: Bounds = Bounds(),
    progress: Progress = lambda *_: None,
) -> Outcome:
    """Walk at random, seeds 0, 1, 2, ...; stop at the first finding.

    Args:
        scenario: its id.
        policy: the policy's class.
        modes: architecture modes.
        executions: how many walks.
        bounds: `budget` ends it early; `depth` cuts walks.
        progress: told after each walk.
    """
    visible = Visible()
    while True:
        try:
            return _walks(World(scenario, policy, modes, visible), executions, bounds, progress)
        except Grown:
            continue


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
            world = World(scenario, policy, modes, visible)
            root = world.state()
            return sum(_walk(world, root, seed, LONGEST)[1] is not None for seed in range(executions))
        except Grown:
            continue


def _walks(world: World, executions: int, bounds: Bounds, progress: Progress) -> Outcome:
    root, made, cut = world.state(), 0, False
    started, longest = _CLOCK(), bounds.depth or LONGEST
    done = 0
    for seed in range(executions):
        path, finding = _walk(world, root, seed, longest)
        made += len(path)
        if finding is not None:
            return Outcome(
                verdict="unsafe",
                complete=False,
                states=0,
                moves=made,
                exercised=world.exercised,
                depth=len(path),
                finding=finding,
                path=tuple(path),
                visible=world.visible,
                executions=done + 1,
            )
        cut = cut or len(path) >= longest
        done += 1
        progress(done, 0, len(path))
        if bounds.budget is not None and _CLOCK() - started > bounds.budget:
            break
    reason = f"{done} executions" + (", some cut" if cut else "")
    return Outcome(
        "undecided", False, 0, made, world.exercised, longest, cut=reason, visible=world.visible, executions=done
    )


def _walk(world: World, root: State, seed: int, longest: int) -> tuple[list[Move], Finding | None]:
    """One walk from the root: its moves, and what the last of them found."""
    world.become(root)
    rng = random.Random(seed)
    style, starved = seed % 3, world.programs[rng.randrange(len(world.programs))]
    path: list[Move] = []
    while len(path) < longest and (moves := world.moves()):
        move = _choose(rng, style, starved, moves, path[-1].cpu if path else -1)
        path.append(move)
        finding = world.make(move)
        if world.visible.grown:
            raise Grown(tuple(sorted(world.visible.pages)))
        if finding is not None:
            return path, finding
    return path, None


def _choose(rng: random.Random, style: int, starved: int, moves: list[Move], last: int) -> Move:
    if style == 1 and rng.random() < STAY:
        moves = [move for move in moves if move.cpu == last] or moves
    elif style == 2:
        moves = [move for move in moves if move.cpu != starved] or moves
    return moves[rng.randrange(len(moves))]
