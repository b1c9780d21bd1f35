"""Litmus tests of memory order: as guest programs on the machine, and on an abstract x86-TSO machine.

A program is a text a CPU, operations separated by `;`:  `x=1` a store, `r x` a load, `fence` an MFENCE,
`lock` a locked operation on a word of the CPU's own, `x<>1` an XCHG that loads too. Locations are x, y, z.
An outcome is what each load of each CPU gave, in order, and what the locations hold in the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from vm.explore.locality import Locality
from vm.explore.memo import Memo
from vm.explore.reduction import Reduction, Shared, expand
from vm.explore.world import Grown, World
from vm.hw.engine import Gpr
from vm.hw.gate import Visible
from vm.hw.modes import Modes
from vm.stacks import Policy
from vm.stacks.registry import find_policy

LOCATIONS: Final = "xyz"
RESULTS: Final = (Gpr.R8, Gpr.R9, Gpr.R10, Gpr.R11)
STRIDE: Final = 64

Outcome = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]


class Operation(NamedTuple):
    """`store`, `load`, `fence`, `lock` or `exchange`; of a location, by number; with a value."""

    what: str
    where: int = 0
    value: int = 0


def parse(text: str) -> tuple[Operation, ...]:
    """The operations of one CPU."""
    found = []
    for word in (part.strip() for part in text.split(";")):
        if word in ("fence", "lock"):
            found.append(Operation(word))
        elif word.startswith("r "):
            found.append(Operation("load", LOCATIONS.index(word[2:])))
        else:
            what, sign = ("exchange", "<>") if "<>" in word else ("store", "=")
            where, value = word.split(sign)
            found.append(Operation(what, LOCATIONS.index(where), int(value)))
    return tuple(found)


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


def write_scenario(folder: Path, programs: list[tuple[Operation, ...]]) -> Path:
    """A scenario that runs these programs: its TOML."""
    lines = [".text"]
    for cpu, program in enumerate(programs):
        lines.append(f"program_{cpu}:")
        loads = 0
        for what, where, value in program:
            at = f"qword ptr [r15+{hex(where * STRIDE)}]"
            register = RESULTS[loads].name.lower()
            if what == "store":
                lines.append(f"    mov {at}, {value}")
            elif what == "load":
                lines.append(f"    mov {register}, {at}")
            elif what == "exchange":
                lines += [f"    mov {register}d, {value}", f"    xchg {register}, {at}"]
            else:
                lines.append("    mfence" if what == "fence" else "    lock inc qword ptr [rsp-8]")
            loads += what in ("load", "exchange")
        lines.append("    jmp litmus_end")
    return write_guest(folder, "\n".join(lines) + "\n", len(programs), 0)


def write_guest(folder: Path, text: str, programs: int, stacks: int) -> Path:
    """A litmus scenario of so many programs, `program_0` and so on, and stacks: its TOML."""
    names = ", ".join(f"program_{cpu}" for cpu in range(programs))
    (folder / "order.s").write_text(
        f'{text}.section .rodata\nscenario_name:\n    .asciz "order"\n.p2align 3\nscenario_pool:\n    .quad 48\n'
        f"litmus_stacks:\n    .quad {stacks}\nlitmus_programs:\n    .quad {names}, 0\n"
    )
    toml = folder / "order.toml"
    toml.write_text(
        'id = "order"\ntitle = "memory order"\nquestion = "which outcomes are there?"\nsource = "x86-TSO"\n'
        f'cpus = {programs}\nsources = ["lib_litmus.s", "order.s"]\nsuccess = ""\n'
        'events = ["ready", "done", "wrong"]\nlitmus = true\n[mutant]\npolicy = "fixed-16k"\n'
    )
    return toml


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
            visible = Visible(grown.pages)
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
