"""Debug registers: what they stop at (SDM volume 3, 17.2 and 17.3).

Breakpoints on instructions are faults, which RF holds off once; those on data and ports are traps behind the instruction,
which MOV SS and POP SS put off behind the next one (6.8.3). DR7.GD guards the registers themselves.

Not modelled: LBR and BTF, DR6.RTM, and data breakpoints on what the CPU reads and stores by itself (descriptors, frames).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kstack.x86.addresses import PAGE
from kstack.x86.debug_registers import ACCESSES, BREAKPOINTS, EXECUTES, PORTS, condition, is_enabled, length


class DataBreakpoint(NamedTuple):
    """A breakpoint on data or ports: its number, the first address, bytes, and whether loads count too."""

    number: int
    first: int
    size: int
    loads: bool

    def meets(self, address: int, size: int) -> bool:
        """Whether an access overlaps it."""
        return address < self.first + self.size and self.first < address + size


class Breakpoints:
    """What the debug registers of a CPU stop at, taken from them by `arm`.

    Attributes:
        code: bits of DR6 by the linear address of an instruction.
        data, ports: watches.
    """

    def __init__(self) -> None:
        self.code: dict[int, int] = {}
        self.data: tuple[DataBreakpoint, ...] = ()
        self.ports: tuple[DataBreakpoint, ...] = ()

    def arm(self, dr: Sequence[int], io: bool) -> bool:
        """Take over the debug registers.

        Args:
            dr: DR0 to DR7.
            io: CR4.DE is set.

        Returns:
            Whether anything has changed.
        """
        before = self.code, self.data, self.ports
        code: dict[int, int] = {}
        data: list[DataBreakpoint] = []
        ports: list[DataBreakpoint] = []
        for number in range(BREAKPOINTS):
            if not is_enabled(dr[7], number):
                continue
            when, size = condition(dr[7], number), length(dr[7], number)
            watch = DataBreakpoint(number, dr[number] & -size, size, when == ACCESSES)
            if when == EXECUTES:
                code[dr[number]] = code.get(dr[number], 0) | 1 << number
            elif when != PORTS:
                data.append(watch)
            elif io:
                ports.append(watch)
        self.code, self.data, self.ports = code, tuple(data), tuple(ports)
        return before != (self.code, self.data, self.ports)

    def hits(self, address: int, size: int, store: bool) -> int:
        """Bits of DR6 for an access to memory."""
        return sum(1 << watch.number for watch in self.data if (store or watch.loads) and watch.meets(address, size))

    def port_hits(self, port: int, size: int) -> int:
        """Bits of DR6 for an access to a port."""
        return sum(1 << watch.number for watch in self.ports if watch.meets(port, size))

    def pages(self) -> frozenset[int]:
        """Linear addresses of the pages in which data is watched."""
        return frozenset(at & -PAGE for watch in self.data for at in (watch.first, watch.first + watch.size - 1))
