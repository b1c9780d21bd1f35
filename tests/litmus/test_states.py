"""States share the parts that a move does not touch: going back and over by parts gives the whole state."""

from __future__ import annotations

import random

import pytest

from vm.explore.stateful import Problem
from vm.explore.world import Grown, State, World
from vm.hw.modes import Modes


def world_of(problem: Problem) -> World:
    """A world that knows all that is visible on some random paths."""
    while True:
        try:
            world = problem.world()
            root, rng = world.state(), random.Random(1)
            for _ in range(30):
                world.become(root)
                while moves := world.moves():
                    world.make(rng.choice(moves))
                    if world.visible.grown:
                        raise Grown(tuple(sorted(world.visible.pages)))
        except Grown as grown:
            problem = Problem(problem.scenario, problem.policy, problem.modes, grown.pages)
            continue
        world.become(root)
        return world


def whole(world: World) -> tuple[object, ...]:
    """Everything, nothing of it taken from an earlier state."""
    machine = world.machine
    snapshot = machine.snapshot()
    return snapshot.memory, snapshot.cpus, snapshot.devices, snapshot.ipis, snapshot.broadcast, world.runtime.snapshot()


@pytest.mark.parametrize(
    ("scenario", "policy", "order"),
    [
        ("litmus-laight", "switch-sp-ipi", "sc"),
        ("litmus-pressure", "sleeper-gc", "sc"),
        ("litmus-wilcox", "switch-sp-invlpgb", "sc"),
        ("litmus-cross", "switch-sp-ipi", "tso"),
    ],
)
def test_a_state_reached_by_jumps_is_the_state_reached_by_moves(scenario: str, policy: str, order: str) -> None:
    world, rng = world_of(Problem(scenario, policy, Modes(memory_order=order))), random.Random(2)
    seen: list[tuple[State, tuple[object, ...], bytes]] = []
    state = world.state()
    for _ in range(300):
        moves = world.moves()
        if moves and (not seen or rng.random() < 0.8):
            world.make(rng.choice(moves))
            state = world.state()
            seen.append((state, whole(world), world.key(state)))
        else:
            state, everything, key = rng.choice(seen)
            world.become(state)
            assert whole(world) == everything
            again = world.state()
            assert world.key(again) == key
