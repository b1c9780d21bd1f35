"""What an interrupt has left below the stack pointer is put back, and nothing else is."""

from __future__ import annotations

import pytest

from kstack.explore import world
from kstack.explore.breadth_first import Problem, search
from kstack.explore.dead_stack import WINDOW, below
from kstack.explore.world import World
from kstack.hw.modes import Modes
from kstack.x86.addresses import PAGE

PROBLEM = Problem("litmus-laight", "switch-sp-ipi", Modes())


def with_an_interrupt(found: World) -> int:
    """Make moves until a CPU can take an interrupt; the CPU."""
    for turn in range(500):
        for cpu in range(2):
            if found.interrupts_of(cpu):
                return cpu
        moves = [*found.moves_of(turn % 2), *found.moves_of(1 - turn % 2)]
        found.make(moves[0])
    raise AssertionError("no interrupt has come")


def test_after_the_handler_all_is_as_before() -> None:
    found = Problem("litmus-laight", "switch-sp-ipi", Modes(), tuple(search(PROBLEM).visible.frames)).world()
    cpu = with_an_interrupt(found)
    core, memory = found.machine.cpus[cpu], found.machine.memory
    frame = core.mmu.resolve(core.registers.gpr[4] - WINDOW)
    assert frame is not None
    memory.write(frame, bytes(range(256)) * (WINDOW // 256))
    before = below(core, memory)
    assert before is not None
    found.make(found.interrupts_of(cpu)[0])
    assert found.below[cpu] == before
    inside = below(core, memory)
    for _ in range(100):
        if found.below[cpu] is None:
            break
        found.make(found.moves_of(cpu)[0])
    assert memory.read(before.address, WINDOW) == before.data
    assert inside != before


def test_a_stack_that_others_may_store_to_is_left_as_it_is() -> None:
    found = Problem("litmus-laight", "switch-sp-ipi", Modes(), tuple(search(PROBLEM).visible.frames)).world()
    cpu = with_an_interrupt(found)
    lies = below(found.machine.cpus[cpu], found.machine.memory)
    assert lies is not None
    found.visible.frames.add(lies.address // PAGE)
    found.make(found.interrupts_of(cpu)[0])
    assert found.below[cpu] is None


def test_a_world_left_in_a_handler_has_no_say_in_the_next_one() -> None:
    problem = Problem("litmus-laight", "switch-sp-ipi", Modes(), tuple(search(PROBLEM).visible.frames))
    booted = problem.boot()
    left = problem.world(booted)
    cpu = with_an_interrupt(left)
    left.make(left.interrupts_of(cpu)[0])
    assert booted.machine.cpus[cpu].hears_return.held is not None
    problem.world(booted)
    assert booted.machine.cpus[cpu].hears_return.held is None


def test_otherwise_there_are_more_states_and_the_same_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("litmus-migrate", "switch-sp-ipi", Modes())
    usual = search(problem)
    monkeypatch.setattr(world, "put_back", lambda *_: None)
    found = search(problem)
    assert (found.verdict, usual.verdict) == ("safe", "safe")
    assert found.states > usual.states
