"""The CPU states that boot protocols promise, and the RAM that firmware reports."""

from __future__ import annotations

from typing import Final

from vm.hw.engine import Seg, Segment
from vm.hw.mmu import Cr0
from vm.load.layout import HIGH, LOW_END
from vm.machine import Machine

_CODE32: Final = Segment(0x10, 0, 0xFFFFFFFF, 0xCF9B00)
_DATA32: Final = Segment(0x18, 0, 0xFFFFFFFF, 0xCF9300)


def enter_protected_mode(machine: Machine, entry: int) -> None:
    """32-bit protected mode, paging off, flat segments (PVH and multiboot 1)."""
    registers = machine.cpus[0].registers
    registers.cr[0] = Cr0.PE | Cr0.ET
    registers.set_segment(Seg.CS, _CODE32)
    for seg in (Seg.DS, Seg.ES, Seg.SS, Seg.FS, Seg.GS):
        registers.set_segment(seg, _DATA32)
    registers.rip = entry
    registers.sync()
    machine.cpus[0].mmu.update()
    machine.cpus[0].engine.flush()


def memory_map(machine: Machine) -> list[tuple[int, int]]:
    """Start and length of the RAM that firmware reports; what a PC has between 640 KiB and 1 MiB is left out."""
    pieces = [(0, LOW_END), (HIGH, machine.memory.size - HIGH)]
    return [(start, length) for start, length in pieces if length]
