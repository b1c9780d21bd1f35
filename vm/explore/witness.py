"""A witness in words: the moves of a path, made again, and what a finding rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kstack.base.errors import KstackError
from kstack.explore.model.gate import Held, Visible
from kstack.explore.model.lazy_tlb import How
from kstack.explore.world import Grown, Move, World
from kstack.hw.modes import Modes
from kstack.sanitizer.findings import Finding
from kstack.stacks import Policy, PteStore
from kstack.stacks.host.execute import Pending
from kstack.x86.entries import FRAME_MASK, RESERVED_HIGH

REPLAYS = 10


@dataclass(frozen=True)
class Line:
    """One move of a witness: number from 1, CPU, what it does, and where in the guest."""

    number: int
    cpu: int
    what: str
    symbol: str


@dataclass(frozen=True)
class Pair:
    """The two moves that must not meet, and what would have kept them apart.

    Attributes:
        store: the store to the page's entry, as a line.
        access: the access through the old one, as a line.
        flip: one change with which the same moves end without the finding; checked by making them again.
    """

    store: Line
    access: Line
    flip: str


@dataclass(frozen=True)
class Witness:
    """A path to a finding.

    Attributes:
        path: its moves.
        lines: the same in words.
        finding: what the last one brings; None for a state from which no end can be reached.
        switches: how often the CPU changes.
        pair: the critical pair, where the finding is about a stale translation.
    """

    path: tuple[Move, ...]
    lines: tuple[Line, ...]
    finding: Finding | None
    switches: int
    pair: Pair | None


def switches(path: Sequence[Move]) -> int:
    """How often the CPU changes along a path."""
    return sum(one.cpu != other.cpu for one, other in pairwise(path))


def witness(scenario: str, policy: type[Policy], modes: Modes, visible: Visible, path: tuple[Move, ...]) -> Witness:
    """Make a path's moves again, ten times, and put them into words.

    Raises:
        KstackError: they do not lead to the same finding each time.
    """
    lines, finding, stores = _follow(World(scenario, policy, modes, visible), path)
    for _ in range(REPLAYS - 1):
        again = _follow(World(scenario, policy, modes, visible), path)
        if again[:2] != (lines, finding):
            raise KstackError("a witness does not replay: please report this, with the command")
    pair = None
    if finding is not None and path[-1].kind == "access" and path[-1].choice:
        pair = _pair(World(scenario, policy, modes, visible), path, lines, stores, finding)
    return Witness(path, tuple(lines), finding, switches(path), pair)


def _follow(world: World, path: Sequence[Move]) -> tuple[list[Line], Finding | None, dict[int, int]]:
    """The lines of a path, its finding, and for each page (linear number) the line that stored its entry last."""
    lines: list[Line] = []
    stores: dict[int, int] = {}
    finding = None
    for number, move in enumerate(path, 1):
        lines.append(line_of(world, number, move))
        step = world.runtime.calls[move.cpu][-1].step if move.kind == "step" and world.runtime.calls[move.cpu] else None
        if isinstance(step, PteStore):
            stores[step.page.address >> 12] = number
        finding = world.make(move)
        stores |= dict.fromkeys(world.tables.stored, number)
        if world.visible.grown:
            raise Grown(tuple(sorted(world.visible.frames)))
    return lines, finding, stores


def _pair(
    world: World, path: Sequence[Move], lines: list[Line], stores: dict[int, int], finding: Finding
) -> Pair | None:
    """The critical pair, if one invalidation on the accessing CPU would have kept its halves apart."""
    cpu = path[-1].cpu
    for move in path[:-1]:
        world.make(move)
    held = world.held[cpu]
    assert held is not None
    page = held.address >> 12
    number = stores.get(page)
    if number is None:
        return None
    leaf = world.machine.cpus[cpu].mmu.leaf_address(held.address)
    world.lazy.invalidate(cpu, page, 0 if leaf is None else world.machine.memory.read64(leaf))
    stale = [option for option in world.options(cpu, held) if option.how is not How.WALK]
    flip = f"CPU {cpu} invalidates the page between lines {number} and {len(lines)}"
    if stale:
        return None
    return Pair(lines[number - 1], lines[-1], flip)


def line_of(world: World, number: int, move: Move) -> Line:
    """A move that is about to be made, in words."""
    symbol = world.session.symbols.name(world.machine.cpus[move.cpu].registers.rip)
    return Line(number, move.cpu, describe(world, move), symbol)


def describe(world: World, move: Move) -> str:
    """What a move will do."""
    if move.kind == "interrupt":
        arriving = world.next_ipi(move.cpu)
        assert arriving is not None
        return f"takes interrupt {world.machine.ipis[arriving].vector:#x}"
    if move.kind == "store":
        return f"its store to {_place(world, world.buffers.stores[move.cpu][0])} becomes visible"
    held = world.held[move.cpu]
    assert held is not None
    if move.kind == "instruction":
        return "goes on with interrupts on" if held.what == "window" else held.what
    if move.kind == "access":
        return _access(world, move, held)
    calls = world.runtime.calls[move.cpu]
    if not calls:
        return "begins a hook"
    note = ", and some walker has set Accessed before" if move.choice else ""
    return f"{calls[-1].hook.value}: {calls[-1].step}{note}"


def _place(world: World, pending: Pending) -> str:
    """Where a store goes that nobody sees yet."""
    if pending.kind == "pte":
        page, _ = pending.where
        return f"the entry of {_where(world, page << 12)}"
    if pending.kind == "unlock":
        return f"lock {pending.where}"
    if pending.kind == "variable":
        return f"variable {pending.where[0]}"
    return _entry_at(world, pending.where) or f"frame {pending.where & ~0xFFF:#x}"


def _where(world: World, address: int) -> str:
    for thread in world.runtime.threads.values():
        if thread.contains(address):
            return f"thread {thread.id} page {thread.page_at(address).index}"
    return world.session.symbols.name(address)


def _entry(world: World, cpu: int, address: int) -> str | None:
    """The page-table entry at a linear address in words, None if there is none."""
    frame = None if world.lazy.manages(address) else world.frame_of(cpu, address)
    return None if frame is None else _entry_at(world, frame << 12 | address & 0xFFF)


def _entry_at(world: World, physical: int) -> str | None:
    """The page-table entry at a physical address in words, None if there is none."""
    if not world.tables.is_table(physical):
        return None
    pages = [page for _, page in world.tables.pages_of(physical, 1)]
    return f"the entry of {_where(world, pages[0] << 12)}" if pages else f"a page table, frame {physical & ~0xFFF:#x}"


def _access(world: World, move: Move, held: Held) -> str:
    verb = "stores to" if held.write else "loads from"
    where = _entry(world, move.cpu, held.address) or _where(world, held.address)
    option = world.option(move.cpu, held, move.choice)
    if option.how is How.WALK:
        accessed = move.choice >= len(world.options(move.cpu, held))
        return f"{verb} {where}{', and some walker has set Accessed before' if accessed else ''}"
    by = f"{verb} {where} through what it has cached: frame {option.value & FRAME_MASK & ~RESERVED_HIGH:#x}"
    return f"{by}, which forbids it" if option.how is How.REFUSED else by
