"""Multiboot 1 (Multiboot Specification 0.6.96).

A header with addresses (flag bit 16) says itself where the file goes and where it is entered, in an ELF file too
(section 3.1.3); one without lets an ELF file speak for itself. The information structure (3.3) has the sizes of memory
and a memory map. There are no modules, no command line and no video modes.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kstack.base.errors import ImageError
from kstack.load.boot_state import enter_protected_mode, memory_map
from kstack.load.layout import ImagePart, Layout
from kstack.machine import Machine
from kstack.x86.registers import Gpr

HEADER_MAGIC: Final = 0x1BADB002
BOOT_MAGIC: Final = 0x2BADB002
SEARCH_BYTES: Final = 8192
MAGIC_2: Final = 0xE85250D6  # Multiboot2 Specification 2.0, 3.1.1
SEARCH_BYTES_2: Final = 32768
FLAGS_BYTES: Final = 12  # magic, flags, checksum
HEADER_BYTES: Final = 32  # of a header with addresses
ADDRESS_OVERRIDE: Final = 1 << 16
VIDEO: Final = 1 << 2
REQUIRED: Final = 0xFFFF  # flags that a loader must understand, or refuse
KNOWN: Final = 0b11  # modules on page boundaries; the size of memory

INFO_BYTES: Final = 128
HAS_MEMORY, HAS_MAP = 1 << 0, 1 << 6
RAM: Final = 1  # type of an entry of the memory map
INFO: Final = struct.Struct("<3I32x2I")  # flags, mem_lower and mem_upper (KiB); mmap_length and mmap_addr at 44
ENTRY: Final = struct.Struct("<IQQI")  # bytes that follow, address, length, type


class Header(NamedTuple):
    """Where the header lies in the file, its flags, and its addresses if it has any."""

    offset: int
    flags: int
    addresses: tuple[int, ...]  # header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr

    @property
    def has_addresses(self) -> bool:
        """Whether they say where the file goes, whatever its format."""
        return bool(self.flags & ADDRESS_OVERRIDE)


def find_header(image: bytes) -> Header | None:
    """The header in the first 8 KiB, if there is one; only what is in there with the rest of it counts."""
    searched = image[:SEARCH_BYTES]
    for offset in range(0, len(searched) - FLAGS_BYTES + 1, 4):
        magic, flags, checksum = struct.unpack_from("<3I", searched, offset)
        if magic == HEADER_MAGIC and magic + flags + checksum & 0xFFFFFFFF == 0:
            addresses = searched[offset + FLAGS_BYTES : offset + HEADER_BYTES]
            return Header(offset, flags, struct.unpack(f"<{len(addresses) // 4}I", addresses[: len(addresses) & -4]))
    return None


def has_header_2(image: bytes) -> bool:
    """Whether there is a header of multiboot 2, which is another protocol."""
    searched = image[:SEARCH_BYTES_2]
    for offset in range(0, len(searched) - 15, 8):
        magic, *rest = struct.unpack_from("<4I", searched, offset)
        if magic == MAGIC_2 and magic + sum(rest) & 0xFFFFFFFF == 0:
            return True
    return False


def load(machine: Machine, image: bytes, name: str, header: Header) -> None:
    """Load by the header's own addresses, and hand over.

    Raises:
        ImageError: it has none, they contradict each other or the file, or do not fit into RAM.
    """
    if not header.has_addresses:
        raise ImageError(
            f"{name}: multiboot header without addresses in a file that is no ELF; set flag bit 16 and the five addresses"
        )
    if len(header.addresses) < 5:
        raise ImageError(f"{name}: damaged: its multiboot header is cut off")
    header_at, start, end, bss_end, entry = header.addresses
    first = header.offset - (header_at - start)
    data = image[max(first, 0) : first + end - start if end else None]
    end = end or start + len(data)
    if header_at < start or first < 0 or end - start != len(data) or (bss_end and bss_end < end):
        raise ImageError(
            f"{name}: damaged: the addresses in its multiboot header contradict each other or the file (header "
            f"{header_at:#x}, load {start:#x} to {end:#x}, bss to {bss_end:#x})"
        )
    enter(machine, name, header, Layout(machine, name, [ImagePart(start, data, max(bss_end, end) - start)]), entry)


def enter(machine: Machine, name: str, header: Header, layout: Layout, entry: int) -> None:
    """Hand over as section 3.2 says: EAX the magic number, EBX the information structure.

    Raises:
        ImageError: the header wants what there is not, the entry is not in the image, or it leaves no room.
    """
    if header.flags & REQUIRED & ~KNOWN:
        what = "a video mode (flag bit 2)" if header.flags & VIDEO else f"flags {header.flags & REQUIRED & ~KNOWN:#x}"
        raise ImageError(f"{name}: its multiboot header asks for {what}, which this machine does not have; clear that")
    entry = layout.entry(entry)
    pieces = memory_map(machine)
    info = layout.room(INFO_BYTES + len(pieces) * ENTRY.size, "multiboot information")
    table = b"".join(ENTRY.pack(ENTRY.size - 4, start, length, RAM) for start, length in pieces)
    lower, upper = pieces[0].length >> 10, sum(piece.length for piece in pieces[1:]) >> 10
    fixed = INFO.pack(HAS_MEMORY | HAS_MAP, lower, upper, len(table), info + INFO_BYTES)
    machine.memory.write(info, fixed.ljust(INFO_BYTES, b"\0") + table)
    enter_protected_mode(machine, entry)
    gpr = machine.cpus[0].registers.gpr
    gpr[Gpr.RAX], gpr[Gpr.RBX] = BOOT_MAGIC, info
