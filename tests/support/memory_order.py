"""Litmus tests of memory order: as guest programs on the machine, and on an abstract x86-TSO machine.

Programs are those of `vm.testing.litmus`.
An outcome is what each load of each CPU gave, in order, and what the locations hold in the end.
"""

from __future__ import annotations

from pathlib import Path

from vm.explore.locality import Locality
from vm.explore.memo import Memo
from vm.explore.reduction import Reduction, Shared, expand
from vm.explore.world import Grown, World
from vm.hw.gate import Visible
from vm.hw.modes import Modes
from vm.stacks import Policy
from vm.stacks.registry import find_policy
from vm.testing.litmus import LOCATIONS, RESULTS, STRIDE, Operation, parse, write_guest, write_scenario

Outcome = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]


def abstract(programs: list[tuple[Operation, ...]], buffered: bool) -> set[Outcome]:
    """All outcomes on the abstract machine of Owens, Sarkar and Sewell (2009); without buffers, all of SC."""
    start = (tuple(0 for _ in LOCATIONS), tuple((0, (), ()) for _ in programs))  # place, buffer, loaded
    seen, work, ends = {start}, [start], set()
    while work:
        memory, cpus = work.pop()
        following = []
        for cpu, (place, buffer, loaded) in enumerate(cpus):
            if buffer:
                (where, value), *rest = buffer
                following.append((_set(memory, where, value), cpu, (place, tuple(rest), loaded)))
            if place == len(programs[cpu]):
                continue
            what, where, value = programs[cpu][place]
            if what == "store" and buffered:
                following.append((memory, cpu, (place + 1, (*buffer, (where, value)), loaded)))
            elif what == "store":
                following.append((_set(memory, where, value), cpu, (place + 1, (), loaded)))
            elif what == "load":
                seen_here = next((one for at, one in reversed(buffer) if at == where), memory[where])
                following.append((memory, cpu, (place + 1, buffer, (*loaded, seen_here))))
            elif not buffer and what == "exchange":
                following.append((_set(memory, where, value), cpu, (place + 1, (), (*loaded, memory[where]))))
            elif not buffer:
                following.append((memory, cpu, (place + 1, (), loaded)))
        if not following:
            ends.add((tuple(loaded for _, _, loaded in cpus), memory))
        for after, cpu, state in following:
            new = (after, (*cpus[:cpu], state, *cpus[cpu + 1 :]))
            if new not in seen:
                seen.add(new)
                work.append(new)
    return ends


def _set(memory: tuple[int, ...], where: int, value: int) -> tuple[int, ...]:
    return (*memory[:where], value, *memory[where + 1 :])


def outcomes(
    toml: Path,
    programs: list[tuple[Operation, ...]],
    order: str,
    policy: type[Policy] | None = None,
    known: Locality | None = None,
) -> set[Outcome]:
    """All outcomes on the machine, over all its states; or, by what is `known`, with what commutes in one order."""
    chosen = policy or find_policy("fixed-16k")
    visible = Visible()
    while True:
        world = World(str(toml), chosen, Modes(memory_order=order), visible)
        try:
            return _ends(world, programs, known)
        except Grown as grown:
            visible = Visible(grown.frames)
        except Shared:
            assert known is not None
            known.relied.clear()


def _ends(world: World, programs: list[tuple[Operation, ...]], known: Locality | None) -> set[Outcome]:
    memo, reduction = Memo(world), None if known is None else Reduction(known)
    seen, work, ends = {memo.root.key}, [memo.root], set()
    words = world.machine.cpus[0].mmu.resolve(world.session.symbols.address("litmus_words") or 0)
    assert words is not None
    while work:
        node = work.pop()
        expansion = expand(memo, node, reduction, whole=False)
        if expansion.left and all(successor.node.key in seen for successor in expansion.successors):
            expansion = expand(memo, node, reduction)
        if reduction is not None:
            reduction.take_in()
        assert expansion.finding is None
        if expansion.finished:
            world.become(memo.cells.state(node))
            loaded = tuple(
                tuple(
                    world.machine.cpus[cpu].registers.gpr[register]
                    for register in RESULTS[: sum(one.what in ("load", "exchange") for one in program)]
                )
                for cpu, program in enumerate(programs)
            )
            memory = tuple(world.machine.memory.read64(words + place * STRIDE) for place in range(len(LOCATIONS)))
            ends.add((loaded, memory))
        for successor in expansion.successors:
            if successor.node.key not in seen:
                seen.add(successor.node.key)
                work.append(successor.node)
    return ends


__all__ = ["Operation", "Outcome", "abstract", "outcomes", "parse", "write_guest", "write_scenario"]
