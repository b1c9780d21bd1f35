"""The CPU states that boot protocols promise: flat 32-bit protected mode, 64-bit, real mode."""

from __future__ import annotations

from typing import Final

from vm.errors import ImageError
from vm.hw.engine import Seg, Segment
from vm.machine import Machine

_CODE32: Final = Segment(0x10, 0, 0xFFFFFFFF, 0xCF9B00)
_DATA32: Final = Segment(0x18, 0, 0xFFFFFFFF, 0xCF9300)


def put(machine: Machine, name: str, address: int, data: bytes, size: int | None = None) -> None:
    """Store a part of an image at physical `address`; `size` counts zeros behind it.

    Raises:
        ImageError: it does not fit into RAM.
    """
    end = address + max(len(data), size or 0)
    if address < 0 or end > machine.memory.size:
        raise ImageError(
            f"{name}: needs RAM from {address:#x} to {end:#x}, but the machine has {machine.memory.size:#x} bytes; "
            f"give more with --ram"
        )
    machine.memory.write(address, data)


def enter_protected_mode(machine: Machine, entry: int) -> None:
    """32-bit protected mode, paging off, flat segments (PVH and multiboot 1)."""
    registers = machine.cpus[0].registers
    registers.cr[0] = 0x11
    registers.set_segment(Seg.CS, _CODE32)
    for seg in (Seg.DS, Seg.ES, Seg.SS, Seg.FS, Seg.GS):
        registers.set_segment(seg, _DATA32)
    registers.rip = entry & 0xFFFFFFFF
    registers.sync()
    machine.cpus[0].mmu.update()
    machine.cpus[0].engine.flush()
