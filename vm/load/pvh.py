"""The PVH boot protocol of ELF images with a Xen note 18 (Xen, docs/misc/pvh.pandoc; arch-x86/hvm/start_info.h).

32-bit protected mode without paging; EBX points to hvm_start_info, in version 1, with a memory map. There are no modules,
no command line and no ACPI tables.
"""

from __future__ import annotations

import struct
from typing import Final

from kstack.load.boot_state import enter_protected_mode, memory_map
from kstack.load.layout import Layout
from kstack.machine import Machine
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import BUSY_TSS, Segment
from kstack.x86.tss import LEAST_LIMIT

MAGIC: Final = 0x336EC578
VERSION: Final = 1
RAM: Final = 1  # type of an entry of the memory map
INFO: Final = struct.Struct("<4I4Q2I")
"""Magic, version, flags, modules; module list, command line, RSDP, memory map; entries of the map, reserved."""
ENTRY: Final = struct.Struct("<QQII")  # address, bytes, type, reserved
_TASK: Final = Segment(0, 0, LEAST_LIMIT, BUSY_TSS)


def enter(machine: Machine, layout: Layout, entry: int) -> None:
    """Hand over at the note's entry.

    Raises:
        ImageError: the entry is not in the image, or it leaves no room for the start info.
    """
    entry = layout.entry(entry)
    pieces = memory_map(machine)
    info = layout.room(INFO.size + len(pieces) * ENTRY.size, "PVH start info")
    table = b"".join(ENTRY.pack(start, length, RAM, 0) for start, length in pieces)
    machine.memory.write(info, INFO.pack(MAGIC, VERSION, 0, 0, 0, 0, 0, info + INFO.size, len(pieces), 0) + table)
    enter_protected_mode(machine, entry)
    registers = machine.cpus[0].registers
    registers.set_segment(Seg.TR, _TASK)
    registers.gpr[Gpr.RBX] = info
