"""A guest in segments with a base, of 16 and of 32 bits: where RIP is not the linear address of an instruction.

linear     what
0x7c00     16-bit code, CS 0; it goes on in
0x7c06     16-bit code, CS 0x7c0: an interrupt, a call, ports; then
0x7d00     32-bit code in a segment with the base 0x7c00
0x7e00     what GDTR is loaded from, the GDT behind it
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kstack.guest.asm import assemble
from tests.support.images import signed

BASE: Final = 0x7C00
VECTOR: Final = 0x40
ENTRY32: Final = 0x100
EXIT: Final = 0x10
GDT: Final = 0x7E10
FAR: Final = "cli\n.byte 0xea\n.word 6\n.word 0x7c0"
REAL: Final = f"""
    mov ax, 0x1234
    xor bx, bx
    mov ds, bx
    mov ss, bx
    mov sp, 0x7000
    mov word ptr [{4 * VECTOR}], offset handler
    mov word ptr [{4 * VECTOR + 2}], 0x7c0
    int {VECTOR}
    call both
    mov al, 1
    out 0x80, al
    lgdt [0x7e00]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long {ENTRY32}
    .word 8
handler:
    iret
both:
    inc ax
    ret
"""
PROTECTED: Final = f"""
    mov ecx, 0x10
    mov ss, ecx
    mov esp, 0x7000
    mov edx, {{both:#x}}
    call edx
    mov eax, 0x12345678
    out 0x80, al
    mov al, {EXIT:#x}
    out 0xf4, al
"""


def image() -> bytes:
    """The guest, a flat image."""
    far, real = assemble(FAR, 0, 16), assemble(REAL, 6, 16)
    both = 6 + len(real) - len(assemble("inc ax\nret", 0, 16))
    protected = assemble(PROTECTED.format(both=both), ENTRY32, 32)
    descriptors = (0, 0x00CF9B007C00FFFF, 0x00CF93000000FFFF)  # code from BASE on, data from 0
    parts = {
        0: far + real,
        ENTRY32: protected,
        0x200: (8 * len(descriptors) - 1).to_bytes(2, "little") + GDT.to_bytes(4, "little"),
        GDT - BASE: b"".join(one.to_bytes(8, "little") for one in descriptors),
    }
    made = bytearray(0x300)
    for at, data in parts.items():
        made[at : at + len(data)] = data
    return bytes(made)


def written(folder: Path) -> Path:
    """The guest as a file."""
    path = folder / "segments.bin"
    path.write_bytes(signed(image()))
    return path
