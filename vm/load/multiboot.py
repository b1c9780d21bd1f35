"""Multiboot 1 images with the address override (Multiboot Specification 0.6.96, section 3.1).

ELF images with a multiboot header are loaded as ELF; this is the form without one, whose header
itself says where the file goes. The information structure holds the memory sizes only.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from vm.errors import ImageError
from vm.hw.engine import Gpr
from vm.load.boot_state import enter_protected_mode, put
from vm.machine import Machine

HEADER_MAGIC: Final = 0x1BADB002
BOOT_MAGIC: Final = 0x2BADB002
SEARCH_BYTES: Final = 8192
ADDRESS_OVERRIDE: Final = 1 << 16
INFO_ADDRESS: Final = 0x9000


class Header(NamedTuple):
    """Where the header lies in the file, and its fields."""

    offset: int
    flags: int
    fields: tuple[int, ...]  # header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr


def find_header(image: bytes) -> Header | None:
    """The multiboot header in the first 8 KiB, if there is one."""
    for offset in range(0, min(len(image), SEARCH_BYTES) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<3I", image, offset)
        if magic == HEADER_MAGIC and magic + flags + checksum & 0xFFFFFFFF == 0:
            rest = image[offset + 12 : offset + 32].ljust(20, b"\0")
            return Header(offset, flags, struct.unpack("<5I", rest))
    return None


def enter(machine: Machine, entry: int) -> None:
    """The state the specification promises at entry: EAX the magic, EBX the information structure."""
    lower, upper = 639, max(0, machine.memory.size // 1024 - 1024)
    machine.memory.write(INFO_ADDRESS, struct.pack("<3I", 1, lower, upper).ljust(128, b"\0"))
    enter_protected_mode(machine, entry)
    gpr = machine.cpus[0].registers.gpr
    gpr[Gpr.RAX], gpr[Gpr.RBX] = BOOT_MAGIC, INFO_ADDRESS


def load(machine: Machine, image: bytes, name: str) -> None:
    """Load by the header's own addresses.

    Raises:
        ImageError: the header's addresses contradict each other or the file.
    """
    header = find_header(image)
    assert header is not None
    if not header.flags & ADDRESS_OVERRIDE:
        raise ImageError(f"{name}: multiboot header without addresses (flag bit 16) in a file that is no ELF")
    header_addr, load_addr, load_end, bss_end, entry = header.fields
    start = header.offset - (header_addr - load_addr)
    if load_addr > header_addr or start < 0 or (load_end and load_end < load_addr):
        raise ImageError(f"{name}: multiboot header with contradictory addresses")
    data = image[start : start + load_end - load_addr] if load_end else image[start:]
    put(machine, name, load_addr, data, max(len(data), bss_end - load_addr))
    enter(machine, entry)
