"""The machine as firmware leaves it, and the CPU states that boot protocols promise.

Firmware has enabled the caches (CR0.CD and NW are 0), has put the boot CPU's APIC into virtual-wire mode, so that the
8259s' interrupts come through it (SDM volume 3A, 10.1; MultiProcessor Specification 1.4, 3.6.2.2), and has initialised
the 8259s as a PC's does: vectors 8 and 70H up, the timer's line unmasked. Reset itself leaves none of this.

Not done: there is no BIOS to call, no interrupt vector table, no ACPI table, and the timer does not tick until it is
programmed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.load.layout import HIGH, LOW_END
from kstack.machine import Machine
from kstack.x86.control import Cr0
from kstack.x86.registers import Seg
from kstack.x86.segments import CODE, DATA, FLAT_LIMIT, Segment, SegmentAttribute

_BIG: Final = SegmentAttribute.G | SegmentAttribute.B | SegmentAttribute.LIMIT
_CODE32: Final = Segment(0x10, 0, FLAT_LIMIT, CODE | _BIG)
_DATA32: Final = Segment(0x18, 0, FLAT_LIMIT, DATA | _BIG)
_ICW1: Final = 0x11  # edges, two chips, ICW4 follows
_ICW4: Final = 0x01  # 8086 mode
_MASTER: Final = (0x08, 1 << 2, _ICW4, 0xB8)  # ICW2, ICW3, ICW4, OCW1: as SeaBIOS leaves them
_SLAVE: Final = (0x70, 2, _ICW4, 0x8E)


def after_firmware(machine: Machine) -> None:
    """What firmware has done when it starts an image, beyond the state of its protocol."""
    registers = machine.cpus[0].registers
    registers.cr[0] = Cr0.ET
    registers.sync()
    machine.apics[0].virtual_wire()
    for chip, words in ((machine.pics.master, _MASTER), (machine.pics.slave, _SLAVE)):
        chip.write(0, 1, _ICW1)
        for word in words:
            chip.write(1, 1, word)


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


class RamRange(NamedTuple):
    """A range of RAM (bytes)."""

    start: int
    length: int


def memory_map(machine: Machine) -> list[RamRange]:
    """The RAM that firmware reports; what a PC has between 640 KiB and 1 MiB is left out."""
    pieces = RamRange(0, LOW_END), RamRange(HIGH, machine.memory.size - HIGH)
    return [piece for piece in pieces if piece.length]
