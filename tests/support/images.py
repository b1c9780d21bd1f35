"""Small images of each format, put together by hand, and a guest that prints what a loader and firmware have left."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from kstack.guest.asm import assemble

LOAD, INTERP, NOTE = 1, 3, 4
BASE: Final = 0x100000
MAGIC: Final = 0x1BADB002
ADDRESSES: Final = 1 << 16
STACK_TOP: Final = BASE + 0x4000


class Segment(NamedTuple):
    """Of an ELF file; `size` in memory and `virtual` address are those of the bytes where they are None."""

    physical: int
    data: bytes
    size: int | None = None
    virtual: int | None = None
    kind: int = LOAD


def elf(segments: Sequence[Segment], entry: int, bits: int = 64, kind: int = 2, machine: int | None = None) -> bytes:
    """An ELF file of these segments, in this order."""
    ehdr, phdr = (64, 56) if bits == 64 else (52, 32)
    number = (62 if bits == 64 else 3) if machine is None else machine
    form = "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH"
    header = struct.pack(form, kind, number, 1, entry, ehdr, 0, 0, ehdr, phdr, len(segments), 0, 0, 0)
    table, content, at = b"", b"", ehdr + phdr * len(segments)
    for segment in segments:
        data, size = segment.data, len(segment.data) if segment.size is None else segment.size
        align = 4 if segment.kind == NOTE else 4096
        virtual = segment.physical if segment.virtual is None else segment.virtual
        if bits == 64:
            words = (segment.kind, 7, at, virtual, segment.physical, len(data), size, align)
            table += struct.pack("<IIQQQQQQ", *words)
        else:
            table += struct.pack("<IIIIIIII", segment.kind, at, virtual, segment.physical, len(data), size, 7, align)
        content, at = content + data, at + len(data)
    return b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9) + header + table + content


def pvh_note(entry: int) -> Segment:
    """The segment of a Xen note that names a 32-bit entry."""
    return Segment(0, struct.pack("<3I4sQ", 4, 8, 18, b"Xen", entry), kind=NOTE)


def multiboot_header(flags: int = 0, addresses: Sequence[int] = ()) -> bytes:
    """Of multiboot 1; the addresses are header, load, load end, bss end, entry."""
    return struct.pack(f"<3I{len(addresses)}I", MAGIC, flags, -(MAGIC + flags) & 0xFFFFFFFF, *addresses)


def multiboot(source: str, base: int = BASE, bss: int = 0) -> bytes:
    """32-bit code behind a multiboot header with addresses; it is entered at its beginning."""
    code = assemble(f".code32\n{source}", address=base + 32, bits=32)
    end = base + 32 + len(code)
    return multiboot_header(ADDRESSES, (base, base, end, end + bss, base + 32)) + code


def pvh(source: str, base: int = BASE) -> bytes:
    """32-bit code in an ELF file with a PVH note; it is entered at its beginning."""
    code = assemble(f".code32\n{source}", address=base, bits=32)
    return elf([Segment(base, code), pvh_note(base)], base)


def signed(code: bytes) -> bytes:
    """Code that is loaded as a boot sector is, with the signature of one."""
    return code.ljust(510, b"\0")[:510] + b"\x55\xaa" + code[512:]


def boot_sector(source: str) -> bytes:
    """16-bit code with a boot sector's signature."""
    return assemble(f".code16\n{source}", address=0x7C00, bits=16).ljust(510, b"\0") + b"\x55\xaa"


EXIT: Final = "xor eax, eax\nout 0xf4, al\n.Lstop:\nhlt\njmp .Lstop"
_HEX: Final = """
hex:
    mov edx, 0x3f8
    mov ecx, 8
.Ldigit:
    rol esi, 4
    mov eax, esi
    and eax, 15
    cmp eax, 10
    jb .Ldecimal
    add eax, 39
.Ldecimal:
    add eax, 48
    out dx, al
    dec ecx
    jnz .Ldigit
    mov eax, 32
    out dx, al
    ret
"""


def printing(values: Sequence[str]) -> str:
    """32-bit code that prints 32-bit values in hex, each moved to ESI by its own lines, and ends; EBX stays."""
    return f"mov esp, {STACK_TOP}\n" + "\n".join(f"{value}\ncall hex" for value in values) + f"\n{EXIT}\n{_HEX}"
