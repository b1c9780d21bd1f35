"""States share the parts that a move does not touch: going back and over by parts gives the whole state."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kstack.explore.breadth_first import Problem
from kstack.explore.states import Grown, State
from kstack.explore.world import World
from kstack.hw.modes import Modes
from tests.support.memory_order import write_guest


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
                        raise Grown(tuple(sorted(world.visible.frames)))
        except Grown as grown:
            problem = Problem(problem.scenario, problem.policy, problem.modes, grown.frames)
            continue
        world.become(root)
        return world


def whole(world: World) -> tuple[object, ...]:
    """Everything, nothing of it taken from an earlier state."""
    machine = world.machine
    snapshot = machine.snapshot()
    return snapshot.memory, snapshot.cpus, snapshot.devices, snapshot.ipis, snapshot.broadcast, world.runtime.snapshot()


PORTS = """.text
program_0:
    mov edx, 0x3f8                      # the console
    mov eax, 1
    out dx, al
    mov qword ptr [r15], 1
    mov eax, 2
    out dx, al
    mov qword ptr [r15], 2
    jmp litmus_end
program_1:
    mov rax, [r15]
    mov rax, [r15]
    jmp litmus_end
"""


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
    wander(world_of(Problem(scenario, policy, Modes(memory_order=order))))


def test_devices_are_part_of_a_state(tmp_path: Path) -> None:
    wander(world_of(Problem(str(write_guest(tmp_path, PORTS, 2, 0)), "fixed-16k", Modes())))


def wander(world: World) -> None:
    """Move, and jump to where it has been, and hold each state to what it was."""
    rng = random.Random(2)
    seen: list[tuple[State, tuple[object, ...], int]] = []
    state = world.state()
    for _ in range(500):
        moves = world.moves()
        if moves and (not seen or rng.random() < 0.9):
            world.make(rng.choice(moves))
            state = world.state()
            fresh = world.machine.snapshot()
            assert (state.rest.cpus, state.rest.devices) == (fresh.cpus, fresh.devices), "what it shares is not stale"
            seen.append((state, whole(world), world.key(state)))
        else:
            state, everything, key = rng.choice(seen)
            world.become(state)
            assert whole(world) == everything
            again = world.state()
            assert world.key(again) == key
