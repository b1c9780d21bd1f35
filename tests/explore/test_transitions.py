"""What a memo recalls is what the machine does: every outcome that it looks up is made as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.shootdown import Shootdown, write_guest
from kstack.explore import footprint as touched
from kstack.explore.breadth_first import Problem
from kstack.explore.components import Node
from kstack.explore.transitions import Memo, Outcome
from kstack.explore.world import Grown, Move
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
    ("litmus-quiet", "accessed-atomic", Modes(speculation="none")),
    ("litmus-laight", "switch-sp-deferred", Modes(memory_order="tso")),
    ("litmus-cross", "switch-sp-ipi", Modes(memory_order="tso-walks-memory")),
    ("litmus-unwinder", "fault-fred", Modes(kernel_pages="pcid")),
]


class Wrong(Exception):
    """A memo recalls what the machine does not do."""


def check(memo: Memo, node: Node, move: Move, recalled: Outcome) -> None:
    """Make a move whose outcome was recalled.

    Raises:
        Wrong: it comes to something else.
    """
    world = memo.world
    world.become(memo.cells.state(node))
    if world.moves() != memo.moves(node):
        raise Wrong(f"moves {world.moves()}, recalled {memo.moves(node)}")
    world.become(memo.cells.state(node))
    before = world.exercised
    finding = world.make(move)
    if world.visible.grown:
        raise Grown(tuple(sorted(world.visible.frames)))
    made = memo.cells.node(world.state())
    whole = memo.cells.whole(recalled.node)
    differing = [part for part, a, b in zip(memo.cells.parts, made.cells, whole.cells, strict=True) if a is not b]
    exercised = world.exercised - before
    if differing or made.key != whole.key or finding != recalled.finding or exercised != recalled.exercised:
        raise Wrong(f"{move}: {differing}, {finding}, {exercised}; recalled {recalled.finding}, {recalled.exercised}")


def explore(problem: Problem, states: int, each: Callable[[Memo, Node, Move, Outcome], None]) -> Memo:
    """Look at so many states of a problem, breadth first; `each` is told of all outcomes that are recalled."""
    while True:
        try:
            memo = Memo(problem.world())
            seen, work = {memo.root.key}, [memo.root]
            for node in work:
                for move in memo.moves(node):
                    known = memo.recalled
                    outcome = memo.make(node, move)
                    if memo.recalled != known:
                        each(memo, node, move, outcome)
                    if outcome.finding is None and outcome.node.key not in seen and len(seen) < states:
                        seen.add(outcome.node.key)
                        work.append(outcome.node)
            return memo
        except Grown as grown:
            problem = Problem(problem.scenario, problem.policy, problem.modes, grown.frames)


@pytest.mark.parametrize(("scenario", "policy", "modes"), PAIRS)
def test_what_is_recalled_is_what_the_machine_does(scenario: str, policy: str, modes: Modes) -> None:
    memo = explore(Problem(scenario, policy, modes), STATES, check)
    assert memo.recalled > 20


def forget(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Let one kind of what is touched go unnoted."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        part = touched.Touched.part

        def without(self: Any, *found: Any) -> None:
            if found[0] != name:
                part(self, *found)

        monkeypatch.setattr(touched.Touched, "part", without)

    return patch


def forget_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model's own accesses to memory go unnoted."""
    monkeypatch.setattr(touched.Touched, "memory", lambda self, address, size: None)


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


def met() -> tuple[Memo, list[Node]]:
    """A memo, and nodes of it."""
    nodes: list[tuple[Memo, Node]] = []
    problem = Problem("litmus-cross", "switch-sp-ipi", Modes())
    memo = explore(problem, STATES, lambda memo, node, *_: nodes.append((memo, node)))
    return memo, [node for whose, node in nodes if whose is memo]


def test_nodes_are_states_and_states_are_nodes() -> None:
    memo, nodes = met()
    for node in nodes:
        memo.world.become(memo.cells.state(node))
        again = memo.cells.node(memo.world.state())
        assert again.key == node.key
        assert again.cells == memo.cells.whole(node).cells


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


def test_another_process_can_go_on_from_a_node_s_cells() -> None:
    """Two memos of one problem number their parts as they meet them; nodes go between them by the names of cells."""
    memo, nodes = met()
    other = Memo(Problem("litmus-cross", "switch-sp-ipi", Modes(), tuple(memo.world.visible.frames)).world())
    assert len(other.cells.parts) < len(memo.cells.parts)
    for node in reversed(nodes):
        names = memo.cells.difference(node, memo.root)
        other.cells.learn(memo.cells.export(names))
        there = other.cells.with_cells(node.key, other.root, names)
        assert other.moves(there) == memo.moves(node)
        for move in memo.moves(node):
            here, elsewhere = memo.make(node, move), other.make(there, move)
            assert here.node.key == elsewhere.node.key
            back = other.cells.difference(elsewhere.node, there)
            memo.cells.learn(other.cells.export(back))
            assert memo.cells.with_cells(elsewhere.node.key, node, back).cells == memo.cells.whole(here.node).cells
