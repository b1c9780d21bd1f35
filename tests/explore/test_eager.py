"""Small kernels on the machine, with its lazy TLB, have the histories that they have with a TLB that fills and evicts at will.

A kernel is two CPUs that change one page's entry, by a policy's steps, and read and write through it. What is compared
is all that software can see until both are done: what each step found in the entry, and which frame each read reached.
On the machine the explorer makes every move; beside it a search of its own interleaves the operations with the eager
TLB's fills and evictions. An access that faults is tried again.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from kstack.explore.model.gate import Visible
from kstack.explore.model.lazy_tlb import LazyTlb
from kstack.explore.states import Grown
from kstack.explore.transitions import StateSpace
from kstack.explore.world import World
from kstack.hw.modes import READINGS, Modes
from kstack.kernels.kstack.guest import FACTS
from kstack.stacks import (
    Answer,
    Decision,
    ExchangePte,
    Invlpg,
    Load,
    Policy,
    Pte,
    ReadPte,
    Step,
    Store,
    SwapPte,
    TakePage,
    Thread,
    WritePte,
    map_pages,
)
from kstack.x86.entries import FRAME_MASK, P
from kstack.x86.registers import Gpr
from tests.support.eager_tlb import FAULT, ONE, OTHER, Eager, Op, eager_does, unasked
from tests.support.memory_order import write_guest

MODES: Final = (*READINGS, "none")
SEEDS: Final = (*range(10), 28)  # 3 and 28: other histories in every mode
FRAMES: Final = {ONE & FRAME_MASK: 0xA, OTHER & FRAME_MASK: 0xB}  # what is in them
RESULTS: Final = (Gpr.R8, Gpr.R9, Gpr.R10, Gpr.R11)
SET_UP: Final = [
    one for frame in (ONE, OTHER) for one in (Op("write", 0, frame), Op("store"), Op("write"), Op("invlpg"))
]
"""CPU 0 writes to both frames before CPU 1 begins."""
Seen = tuple[int, int, int, int]
"""CPU, place in its program, flags of the entry (0 for a load), and what is in the frame (0 for none)."""
History = tuple[Seen, ...]


def kernel(seed: int) -> list[list[Op]]:
    """A program a CPU; the entry is present in the end, so that all can come to their end."""
    rng = random.Random(seed)

    def one(cpu: int, whats: str) -> Op:
        what = rng.choice(whats.split())
        value, expected = rng.choice((0, ONE, OTHER)), rng.choice((0, ONE, OTHER))
        return Op(what, cpu, value if what in ("write", "swap", "exchange") else 0, expected * (what == "exchange"))

    first = [one(0, "write swap exchange read load store invlpg") for _ in range(3)]
    second = [one(1, "load load store read invlpg exchange") for _ in range(3)]
    return [[Op("write", 0, ONE), *first, Op("write", 0, rng.choice((ONE, OTHER)))], second]


class Kernel(Policy):
    """Does the operations of a kernel one by one, as it is asked to."""

    id, title = "kernel", "operations on one entry"
    proposer, source = "nobody", "none"
    programs: tuple[list[Op], ...] = ()

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """Two frames, neither of them mapped; the guest's own threads have a page."""
        assert FACTS.programs is not None
        if thread.id < FACTS.programs.first_thread:
            return (yield from map_pages((thread.top,)))
        for name in ("one", "other"):
            frame = yield TakePage()
            yield Store(name, frame)
        return True

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Operation number `size` of this CPU's program, counted from 1."""
        op, page = self.programs[cpu][size - 1], thread.top
        value = yield from self._real(op.value)
        expected = yield from self._real(op.expected)
        if op.what == "invlpg":
            yield Invlpg(page)
        elif op.what == "write":
            yield WritePte(page, Pte(value))
        else:
            found: Pte
            if op.what == "read":
                found = yield ReadPte(page)
            elif op.what == "swap":
                found = yield SwapPte(page, Pte(value))
            else:
                found = yield ExchangePte(page, Pte(value), Pte(expected))
            yield Store(f"seen {cpu}", (cpu, size - 1, found.value), size - 1)
        return True

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """It is tried again."""
        return True
        yield  # a hook is a generator

    def _real(self, value: int) -> Generator[Step, Answer, int]:
        """An entry with the frame that was taken."""
        if not value & P:
            return 0
        frame: int = yield Load("one" if value & FRAME_MASK == ONE & FRAME_MASK else "other")
        return value & ~FRAME_MASK | frame


def written(programs: list[list[Op]]) -> str:
    """The guest's programs: loads go to registers, in order."""
    text = [".text"]
    for cpu, program in enumerate(programs):
        text += [f"program_{cpu}:", "    L_ADDRESS rbx, 0, 64"]
        if cpu:
            text.append("    L_AWAIT 0, 1")
        loads, stores = 0, 0
        for place, op in enumerate(program):
            if not cpu and place == len(SET_UP):
                text.append("    mov qword ptr [r15], 1")
            if op.what == "load":
                text.append(f"    mov {RESULTS[loads].name.lower()}, [rbx]")
                loads += 1
            elif op.what == "store":
                set_up = not cpu and place < len(SET_UP)
                text.append(f"    mov qword ptr [rbx+{0 if set_up else 8}], {hex([0xA, 0xB][stores % 2])}")
                stores += 1
            else:
                text.append(f"    L_REQUEST 0, {hex(place + 1)}")
        text.append("    jmp litmus_end")
    return "\n".join(text) + "\n"


def lazily(toml: Path, programs: list[list[Op]], mode: str) -> set[History]:
    """All histories on the machine."""
    policy, visible = type("OneKernel", (Kernel,), {"programs": tuple(programs)}), Visible()
    while True:
        world = World(str(toml), policy, Modes(speculation=mode), visible)
        try:
            return _ends(StateSpace(world), programs)
        except Grown as grown:
            visible = Visible(grown.frames)


def _ends(space: StateSpace, programs: list[list[Op]]) -> set[History]:
    world, ends = space.world, set()
    seen, work = {space.root.key}, [space.root]
    for node in work:
        if space.finished(node):
            world.become(space.table.state(node))
            ends.add(_history(world, programs))
        for move in space.moves(node):  # what the oracle finds is no matter here: it goes on
            after = space.make(node, move).node
            if after.key not in seen:
                seen.add(after.key)
                work.append(after)
    return ends


def _history(world: World, programs: list[list[Op]]) -> History:
    stored = world.runtime.variables
    frames = dict(zip((one for one in stored if isinstance(one, int)), FRAMES.values(), strict=True))
    found = [
        (cpu, place, value & ~FRAME_MASK, frames.get(value & FRAME_MASK, 0))
        for cpu, place, value in (one for one in stored if isinstance(one, tuple))
    ]
    for cpu, program in enumerate(programs):
        registers = world.machine.cpus[cpu].registers.gpr
        loads = [place for place, op in enumerate(program) if op.what == "load"]
        found += [(cpu, place, 0, registers[register]) for place, register in zip(loads, RESULTS, strict=False)]
    return tuple(sorted(found))


def eagerly(programs: list[list[Op]], mode: str) -> set[History]:
    """All histories with the eager TLB."""
    start: tuple[Eager, tuple[int, ...], History] = (Eager(), (0, 0), ())
    seen, work, ends = {start}, [start], set()
    for state, places, history in work:
        if all(place == len(program) for place, program in zip(places, programs, strict=True)):
            ends.add(tuple(sorted(history)))
        following = [(later, places, history) for later in unasked(state, mode)]
        for cpu, place in enumerate(places):
            if place < len(programs[cpu]) and (not cpu or places[0] >= len(SET_UP)):
                following.append(_done(state, places, history, programs[cpu][place]))
        for one in following:
            if one not in seen:
                seen.add(one)
                work.append(one)
    return ends


def _done(state: Eager, places: tuple[int, ...], history: History, op: Op) -> tuple[Eager, tuple[int, ...], History]:
    """After one operation."""
    observed, after = eager_does(state, op)
    if observed == FAULT:
        return after, places, history
    place = places[op.cpu]
    if op.what in ("read", "swap", "exchange", "load"):
        assert isinstance(observed, int)
        flags = 0 if op.what == "load" else observed & ~FRAME_MASK
        history = (*history, (op.cpu, place, flags, FRAMES.get(observed & FRAME_MASK, 0)))
    return after, (*places[: op.cpu], place + 1, *places[op.cpu + 1 :]), history


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_kernel_has_the_histories_that_it_has_with_an_eager_tlb(seed: int, mode: str, tmp_path: Path) -> None:
    first, second = kernel(seed)
    programs = [SET_UP + first, second]
    toml = write_guest(tmp_path, written(programs), 2, 1)
    eager = eagerly(programs, mode)
    assert eager
    assert lazily(toml, programs, mode) == eager


def test_a_tlb_that_forgets_to_keep_what_was_there_has_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is compared would not tell."""
    first = [Op("write", 0, ONE), Op("write", 0, OTHER), Op("swap", 0, OTHER)]
    programs = [SET_UP + first, [Op("load", 1), Op("load", 1)]]
    toml = write_guest(tmp_path, written(programs), 2, 1)
    right = lazily(toml, programs, "sets-accessed")
    assert right == eagerly(programs, "sets-accessed")
    monkeypatch.setattr(LazyTlb, "_add", lambda *_, **__: None)
    assert lazily(toml, programs, "sets-accessed") < right
