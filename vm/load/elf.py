"""ELF images: entered by their PVH note (32-bit), a multiboot header (32-bit), or their 64-bit entry; in this order.

A 64-bit ELF without either is entered in long mode at the physical address of its entry, with the first 4 GiB (all RAM,
and the APIC) identity-mapped and a stack of 16 KiB, which is what simple test kernels expect of a loader. It has no GDT
and no IDT but its own.
"""

from __future__ import annotations

import struct
from typing import Final

from kstack.base.errors import ImageError
from kstack.load import multiboot, pvh
from kstack.load.boot_state import enter_protected_mode
from kstack.load.elf_file import ElfFile
from kstack.load.layout import Layout
from kstack.load.symbols import Symbols
from kstack.machine import Machine
from kstack.x86.addresses import PAGE
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.entries import PS, RW, P
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import CODE, FLAT_LIMIT, Segment, SegmentAttribute

MAPPED_GIB: Final = 4
STACK_BYTES: Final = 4 * PAGE
TABLE_BYTES: Final = (2 + MAPPED_GIB) * PAGE
_ENTRIES: Final = 512  # of a table
_BIG_SHIFT: Final = 21  # 2 MiB pages
_CODE64: Final = Segment(0x10, 0, FLAT_LIMIT, CODE | SegmentAttribute.L | SegmentAttribute.G | SegmentAttribute.LIMIT)


def load(machine: Machine, image: bytes, name: str) -> Symbols:
    """Load an x86 ELF executable and return its symbols.

    Raises:
        ImageError: damaged, not for this machine, not to be entered in any of the ways, or it does not fit into RAM.
    """
    file = ElfFile(image, name)
    parts, pvh_entry, symbols = file.loads(), file.pvh_entry(), file.symbols()
    header = multiboot.find_header(image)
    if pvh_entry is None and header is not None and header.has_addresses:
        multiboot.load(machine, image, name, header)
        return symbols
    if pvh_entry is None:
        _check_kind(file, image, name, header)
    if not parts:
        raise ImageError(f"{name}: ELF file without loadable segments")
    layout = Layout(machine, name, parts)
    if pvh_entry is not None:
        pvh.enter(machine, layout, pvh_entry)
    elif header is not None:
        multiboot.enter(machine, name, header, layout, file.physical_entry())
    else:
        _enter_long_mode(machine, layout, file.physical_entry())
    return symbols


def _check_kind(file: ElfFile, image: bytes, name: str, header: multiboot.Header | None) -> None:
    """Refuse by name what can be entered in none of the ways."""
    if file.is_relocatable:
        raise ImageError(
            f"{name}: position-independent executable (PIE), which nobody relocates here; link it with -static -no-pie, "
            "or give it a PVH note"
        )
    if header is not None:
        return
    if multiboot.has_header_2(image):
        raise ImageError(
            f"{name}: has a multiboot 2 header, and kstack follows multiboot 1; add a multiboot 1 header or a PVH note"
        )
    if file.wants_linker:
        raise ImageError(
            f"{name}: program for an operating system (it names a dynamic linker); link a kernel with -static"
        )
    if file.bits != 64:
        raise ImageError(
            f"{name}: 32-bit ELF file without a multiboot 1 header in its first {multiboot.SEARCH_BYTES} bytes or a PVH "
            "note, so nothing says in what state it is entered; add one"
        )


def _enter_long_mode(machine: Machine, layout: Layout, entry: int) -> None:
    entry = layout.entry(entry)
    root = layout.room(STACK_BYTES + TABLE_BYTES, "boot stack and page tables") + STACK_BYTES
    machine.memory.write(root, _identity_tables(root))
    enter_protected_mode(machine, 0)
    cpu = machine.cpus[0]
    registers = cpu.registers
    registers.cr[4], registers.cr[3], registers.cr[0] = Cr4.PAE, root, Cr0.PG | Cr0.ET | Cr0.PE
    registers.set_segment(Seg.CS, _CODE64)
    registers.efer = Efer.LME | Efer.LMA | Efer.NXE
    registers.rip = entry
    registers.gpr[Gpr.RSP] = root  # the stack is below the tables
    cpu.mmu.update()
    cpu.engine.flush()


def _identity_tables(root: int) -> bytes:
    """PML4, page directory pointer table, and a page directory of 2 MiB pages for each GiB (SDM volume 3A, 4.5)."""
    pointers, first = root + PAGE, root + 2 * PAGE
    upper = [[pointers | RW | P], [first + at * PAGE | RW | P for at in range(MAPPED_GIB)]]
    pages = [at << _BIG_SHIFT | PS | RW | P for at in range(MAPPED_GIB * _ENTRIES)]
    tables = [struct.pack(f"<{len(table)}Q", *table).ljust(PAGE, b"\0") for table in (*upper, pages)]
    return b"".join(tables)
