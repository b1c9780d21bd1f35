"""What a space recalls is what the machine does: every transition that it looks up is made as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.shootdown import Shootdown, write_guest
from kstack.explore.breadth_first import Problem
from kstack.explore.components import Component
from kstack.explore.footprint import Footprint
from kstack.explore.nodes import Node
from kstack.explore.states import Grown, Move
from kstack.explore.transitions import StateSpace, Transition
from kstack.hw.memory import PhysicalMemory
from kstack.hw.modes import Modes

STATES = 300
PAIRS = [
    ("litmus-laight", "switch-sp-ipi", Modes()),
    ("litmus-cross", "v1-as-posted", Modes()),
    ("litmus-pressure", "sleeper-gc", Modes()),
    ("litmus-wilcox", "switch-sp-invlpgb", Modes()),
    ("litmus-migrate", "accessed-latch", Modes()),
    ("litmus-reuse", "fixed-16k", Modes()),
    ("litmus-quiet", "accessed-atomic", Modes(speculation="keeps-accessed-clear")),
    ("litmus-walker", "accessed-plain", Modes(speculation="needs-accessed")),
    ("litmus-quiet", "accessed-atomic", Modes(speculation="none")),
    ("litmus-laight", "switch-sp-deferred", Modes(memory_order="tso")),
    ("litmus-cross", "switch-sp-ipi", Modes(memory_order="tso-walks-memory")),
    ("litmus-unwinder", "fault-fred", Modes(kernel_pages="pcid")),
]


class Wrong(Exception):
    """A space recalls what the machine does not do."""


def check(space: StateSpace, node: Node, move: Move, recalled: Transition) -> None:
    """Make a move whose transition was recalled.

    Raises:
        Wrong: it comes to something else.
    """
    world = space.world
    world.become(space.table.state(node))
    if world.moves() != space.moves(node):
        raise Wrong(f"moves {world.moves()}, recalled {space.moves(node)}")
    world.become(space.table.state(node))
    before = world.exercised
    finding = world.make(move)
    if world.visible.grown:
        raise Grown(tuple(sorted(world.visible.frames)))
    made = space.table.node(world.state())
    whole = space.table.whole(recalled.node)
    differing = [one for one, a, b in zip(space.table.components, made.values, whole.values, strict=True) if a is not b]
    exercised = world.exercised - before
    if differing or made.key != whole.key or finding != recalled.finding or exercised != recalled.exercised:
        raise Wrong(f"{move}: {differing}, {finding}, {exercised}; recalled {recalled.finding}, {recalled.exercised}")


def explore(problem: Problem, states: int, each: Callable[[StateSpace, Node, Move, Transition], None]) -> StateSpace:
    """Look at so many states of a problem, breadth first; `each` is told of all outcomes that are recalled."""
    while True:
        try:
            space = StateSpace(problem.world())
            seen, work = {space.root.key}, [space.root]
            for node in work:
                for move in space.moves(node):
                    known = space.recalled
                    transition = space.make(node, move)
                    if space.recalled != known:
                        each(space, node, move, transition)
                    if transition.finding is None and transition.node.key not in seen and len(seen) < states:
                        seen.add(transition.node.key)
                        work.append(transition.node)
            return space
        except Grown as grown:
            problem = Problem(problem.scenario, problem.policy, problem.modes, grown.frames)


@pytest.mark.parametrize(("scenario", "policy", "modes"), PAIRS)
def test_what_is_recalled_is_what_the_machine_does(scenario: str, policy: str, modes: Modes) -> None:
    space = explore(Problem(scenario, policy, modes), STATES, check)
    assert space.recalled > 20


def forget(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Let one kind of what is touched go unnoted."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        note = Footprint.component

        def without(self: Footprint, component: Component) -> None:
            if component.kind != name:
                note(self, component)

        monkeypatch.setattr(Footprint, "component", without)

    return patch


def forget_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model's own accesses to memory go unnoted."""
    monkeypatch.setattr(Footprint, "memory", lambda self, address, size: None)


@pytest.mark.parametrize(
    ("scenario", "policy", "fault"),
    [
        ("litmus-laight", "switch-sp-ipi", forget("may")),
        ("litmus-migrate", "switch-sp-shared", forget("pool")),
        ("litmus-pressure", "sleeper-gc", forget("asleep")),
        ("litmus-cross", "switch-sp-ipi", forget("lock")),
        ("litmus-pressure", "sleeper-gc", forget("variable")),
        ("litmus-laight", "switch-sp-ipi", forget_memory),
    ],
    ids=["may", "pool", "asleep", "lock", "variable", "memory"],
)
def test_what_goes_unnoted_shows(
    scenario: str, policy: str, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises((Wrong, IndexError, KeyError, AssertionError)):
        explore(Problem(scenario, policy, Modes()), 6000, check)


def test_interrupts_on_their_way_unnoted_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes three CPUs, of which one sends to two."""
    problem = Problem(str(write_guest(tmp_path, 2, 1)), Shootdown, Modes())
    explore(problem, STATES, check)
    forget("ipis")(monkeypatch)
    with pytest.raises((Wrong, IndexError)):
        explore(problem, 6000, check)


def met() -> tuple[StateSpace, list[Node]]:
    """A space, and nodes of it."""
    nodes: list[tuple[StateSpace, Node]] = []
    problem = Problem("litmus-cross", "switch-sp-ipi", Modes())
    space = explore(problem, STATES, lambda space, node, *_: nodes.append((space, node)))
    return space, [node for whose, node in nodes if whose is space]


def test_nodes_are_states_and_states_are_nodes() -> None:
    space, nodes = met()
    for node in nodes:
        space.world.become(space.table.state(node))
        again = space.table.node(space.world.state())
        assert again.key == node.key == space.world.key(space.world.state())
        assert again.values == space.table.whole(node).values


def test_the_model_s_own_accesses_are_told_of_as_long_as_somebody_wants_to_hear() -> None:
    memory, told = PhysicalMemory(1 << 20), list[tuple[int, int]]()
    memory.hears_touch.hold(lambda address, size: told.append((address, size)))
    memory.read(0x10, 3)
    memory.read64(0x20)
    memory.write(0x30, b"12")
    memory.exchange_quietly(0x40, 0, 1)
    memory.write64_quietly(0x50, 1)
    memory.patch(0x60, b"1")
    assert set(told) == {(0x10, 3), (0x20, 8), (0x30, 2), (0x40, 8), (0x50, 8), (0x60, 1)}
    memory.hears_touch.release()
    told.clear()
    memory.read64(0x20)
    assert not told


def test_another_process_can_go_on_from_a_node_s_values() -> None:
    """Two state spaces of one problem number their components as they meet them; nodes go between them by the names of values."""
    space, nodes = met()
    other = StateSpace(Problem("litmus-cross", "switch-sp-ipi", Modes(), tuple(space.world.visible.frames)).world())
    assert len(other.table.components) < len(space.table.components)
    for node in reversed(nodes):
        names = space.table.difference(node, space.root)
        other.table.learn(space.table.export(names))
        there = other.table.with_values(node.key, other.root, names)
        assert other.moves(there) == space.moves(node)
        for move in space.moves(node):
            here, elsewhere = space.make(node, move), other.make(there, move)
            assert here.node.key == elsewhere.node.key
            back = other.table.difference(elsewhere.node, there)
            space.table.learn(other.table.export(back))
            assert space.table.with_values(elsewhere.node.key, node, back).values == space.table.whole(here.node).values
