"""ELF images: entered by their PVH note (32-bit), a multiboot header (32-bit), or their 64-bit entry.

PVH: the Xen ELF note 18 gives a 32-bit entry; EBX points to hvm_start_info (Xen public
arch-x86/hvm/start_info.h). A 64-bit ELF without either is entered in long mode with the first
GiB identity-mapped, which is what simple test kernels expect of a loader.
"""

from __future__ import annotations

import struct
from typing import Final

from vm.errors import ImageError
from vm.hw.engine import Gpr, Seg, Segment
from vm.load import multiboot
from vm.load.boot_state import enter_protected_mode, put
from vm.load.elf_file import ElfFile
from vm.load.symbols import Symbols
from vm.machine import Machine

START_INFO: Final = 0x9000
START_INFO_MAGIC: Final = 0x336EC578
IDENTITY_TABLES: Final = 0x1000
_CODE64: Final = Segment(0x10, 0, 0xFFFFFFFF, 0xAF9B00)


def load(machine: Machine, image: bytes, name: str) -> Symbols:
    """Load an x86 ELF executable and return its symbols.

    Raises:
        ImageError: damaged, for another machine, or too large for RAM.
    """
    file = ElfFile(image, name)
    segments, pvh, symbols = file.loads(), file.pvh_entry(), file.symbols()
    if not segments:
        raise ImageError(f"{name}: ELF file without loadable segments")
    for address, data, size in segments:
        put(machine, name, address, data, size)
    if pvh is not None:
        _enter_pvh(machine, pvh)
    elif multiboot.find_header(image) is not None:
        multiboot.enter(machine, file.entry)
    elif file.bits == 64:
        _enter_long_mode(machine, file.entry)
    else:
        enter_protected_mode(machine, file.entry)
    return symbols


def _enter_pvh(machine: Machine, entry: int) -> None:
    info = struct.pack("<4I3Q2I", START_INFO_MAGIC, 1, 0, 0, 0, START_INFO + 0x80, 0, 1, 0)
    memory_map = struct.pack("<QQII", 0, machine.memory.size, 1, 0)
    machine.memory.write(START_INFO, info.ljust(0x80, b"\0") + memory_map)
    enter_protected_mode(machine, entry)
    machine.cpus[0].registers.gpr[Gpr.RBX] = START_INFO


def _enter_long_mode(machine: Machine, entry: int) -> None:
    memory = machine.memory
    memory.write64(IDENTITY_TABLES, IDENTITY_TABLES + 0x1000 | 3)
    memory.write64(IDENTITY_TABLES + 0x1000, IDENTITY_TABLES + 0x2000 | 3)
    for index in range(512):
        memory.write64(IDENTITY_TABLES + 0x2000 + 8 * index, index << 21 | 0x83)
    enter_protected_mode(machine, 0)
    cpu = machine.cpus[0]
    registers = cpu.registers
    registers.cr[4], registers.cr[3], registers.cr[0] = 0x20, IDENTITY_TABLES, 0x80000011
    registers.set_segment(Seg.CS, _CODE64)
    registers.efer = 0xD00
    registers.rip = entry
    registers.gpr[Gpr.RSP] = 0x8000
    cpu.mmu.update()
    cpu.engine.flush()
