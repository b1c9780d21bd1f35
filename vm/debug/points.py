"""Breakpoints and watchpoints: GDB manual, E.2 (packets Z and z); SDM volume 3, chapter 17, for what a CPU can do.

A breakpoint stops before an instruction begins whose linear address it is. A write watchpoint stops
after what has changed its bytes: an instruction, an event's delivery, a policy's step, as the tables of the
CPU that ran it show them. A read or access watchpoint goes by the instruction's operands.

Not modelled: a store of the value that is there already, or through a stale translation to another
frame, changes no bytes (an access watchpoint sees both).
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from kstack.debug.accesses import accesses
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.state import ActivityState
from kstack.hw.memory import PhysicalMemory
from kstack.stacks.host.runtime import StackRuntime
from kstack.x86.addresses import PAGE
from kstack.x86.registers import Gpr

MAX_WATCHED: Final = 4096  # bytes of one watchpoint
_MASK64: Final = (1 << 64) - 1


class PointType(enum.IntEnum):
    """The digit of a Z packet."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4


class Point(NamedTuple):
    """A breakpoint or watchpoint; `size` in bytes of linear address space."""

    kind: PointType
    address: int
    size: int


class Piece(NamedTuple):
    """A range of physical addresses in one page (bytes)."""

    address: int
    size: int


class Armed(NamedTuple):
    """The watchpoints before a unit of virtual time: what they hold, where, and who is about to be accessed."""

    held: list[tuple[Point, list[tuple[int, bytes]]]]
    touched: list[Point]
    events: int


def physical(cpu: Cpu, address: int) -> int | None:
    """Where the guest's tables put linear `address` now: no caches, no rights; None where nowhere in RAM."""
    if not cpu.paging_enabled():
        found = address & 0xFFFFFFFF
    else:
        translation = cpu.mmu.peek(address)
        if translation is None:
            return None
        found = translation.frame + (address & (1 << translation.shift) - 1)
    return found if cpu.mmu.memory.is_ram(found) else None


def pieces(cpu: Cpu, address: int, size: int) -> list[Piece]:
    """Where a linear range lies, up to the first page that is not there."""
    found = []
    while size > 0 and address <= _MASK64:
        part = min(size, PAGE - address % PAGE)
        where = physical(cpu, address)
        if where is None:
            break
        found.append(Piece(where, part))
        address, size = address + part, size - part
    return found


class Points:
    """All of them, on all CPUs.

    Args:
        memory: the machine's RAM.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._breakpoints: dict[int, PointType] = {}
        self._watched: dict[Point, None] = {}

    def __bool__(self) -> bool:
        return bool(self._breakpoints or self._watched)

    @property
    def watching(self) -> bool:
        """There are watchpoints."""
        return bool(self._watched)

    def add(self, point: Point) -> None:
        """Set one; setting it again changes nothing."""
        if point.kind in (PointType.SOFTWARE, PointType.HARDWARE):
            self._breakpoints.setdefault(point.address, point.kind)
        else:
            self._watched[point] = None

    def remove(self, point: Point) -> None:
        """Take one away, if it is there."""
        if point.kind in (PointType.SOFTWARE, PointType.HARDWARE):
            if self._breakpoints.get(point.address) is point.kind:
                del self._breakpoints[point.address]
        else:
            self._watched.pop(point, None)

    def breakpoint(self, cpu: Cpu, runtime: StackRuntime) -> PointType | None:
        """The kind of breakpoint before whose instruction `cpu` stands, if it is about to begin it."""
        kind = self._breakpoints.get(cpu.linear_rip()) if self._breakpoints else None
        if kind is None or cpu.state is not ActivityState.RUNNING:
            return None
        if cpu.would_wake() and not cpu.registers.shadow:
            return None  # an interrupt comes first
        calls = runtime.calls[cpu.index]
        begun = bool(calls) and calls[-1].key == (cpu.registers.rip, cpu.registers.gpr[Gpr.RSP])
        return None if begun else kind  # of a hypercall, each step of the hook executes the OUT again

    def arm(self, cpu: Cpu) -> Armed:
        """Look at the watchpoints before `cpu` runs for one unit."""
        held = [
            (point, [(at, self._memory.read(at, size)) for at, size in pieces(cpu, point.address, point.size)])
            for point in self._watched
            if point.kind is not PointType.READ
        ]
        operands = accesses(cpu) if any(point.kind is not PointType.WRITE for point in self._watched) else []
        touched = [
            point
            for point in self._watched
            for access in operands
            if access.overlaps(point.address, point.size)
            and (point.kind is PointType.ACCESS or (point.kind is PointType.READ and access.reads))
        ]
        return Armed(held, touched, _events(cpu))

    def triggered(self, cpu: Cpu, armed: Armed) -> Point | None:
        """The first watchpoint that the unit since has triggered."""
        if armed.touched and armed.events == _events(cpu):
            return armed.touched[0]
        for point, before in armed.held:
            now = pieces(cpu, point.address, point.size)
            for (at, data), (where, size) in zip(before, now, strict=False):
                if at == where and self._memory.read(where, size) != data:
                    return point
        return None


def _events(cpu: Cpu) -> int:
    """Grows with each event that the CPU takes in place of an instruction."""
    counts = cpu.counts
    return counts.exceptions + counts.interrupts + counts.nmis
