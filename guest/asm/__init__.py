"""An assembler and linker for guest kernels, over Keystone and checked by Capstone.

    image = build([Path("guest/kernel/boot.s")], layout=KERNEL_LAYOUT, entry="start")
    code = assemble("mov rax, 1\\nhlt", address=0x1000)

The dialect is what GNU as accepts with ``.intel_syntax noprefix`` (and gives the same bytes,
with ``-n``), less what Keystone gets wrong:

1.  Intel syntax, one statement a line, ``#`` and ``/* */`` comments; no ``;``, no ``//``.
2.  A label's address is ``offset label``, its memory ``[rip+label]`` or ``[label]``.  A bare
    label is a branch target only.
3.  ``.equ`` constants are defined above the instructions that use them.
4.  Memory operands next to an immediate have a size: ``mov dword ptr [rax], 1``.
5.  ``.align`` among code has its fill: ``.align 16, 0x90``.
6.  Labels have names (``.Lretry`` is private to its file); numbers (``1:``) are not accepted.
7.  No ``.org``, ``.weak``, ``.comm``; far jumps are ``.byte 0xea``, ``.long``, ``.word``.
8.  Sizes are said: ``iretq``, ``sysretq``, ``retfq`` in 64-bit code.
9.  What Keystone lacks is written as ``.byte`` (the error gives the bytes of common ones).
10. Every file begins in ``.text`` and 64-bit mode; sections continue over files.

Symbols ``__NAME_start`` and ``__NAME_end`` bound each output section (``__bss_end``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kstack.guest.asm.assemble import Assembler
from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.image import Image
from kstack.guest.asm.layout import KERNEL_LAYOUT, Access, Layout, Placement
from kstack.guest.asm.link import link
from kstack.guest.asm.output import OutputSection, Segment, Symbol
from kstack.guest.asm.source import read, strip_comments

__all__ = [
    "KERNEL_LAYOUT",
    "Access",
    "AsmError",
    "Image",
    "Layout",
    "OutputSection",
    "Place",
    "Placement",
    "Segment",
    "Symbol",
    "assemble",
    "begin",
    "build",
    "build_text",
]


def build(
    sources: Sequence[Path],
    layout: Layout = KERNEL_LAYOUT,
    entry: str | None = None,
    include: Sequence[Path] = (),
    defines: Mapping[str, int] | None = None,
    begun: bytes = b"",
) -> Image:
    """Assemble and link a program.

    Parameters: source files in the order in which their sections are joined; where sections go;
    the entry symbol (None: the first byte); folders for ``.include`` and ``.incbin``; constants
    defined before the first line; what `begin` gave for the sources before these, with the same
    layout and folders.  Raises AsmError, which names file and line.
    """
    assembler = _assembled(sources, layout, include, defines or {}, begun)
    return link(assembler.program, layout, entry)


def begin(sources: Sequence[Path], layout: Layout = KERNEL_LAYOUT, include: Sequence[Path] = ()) -> bytes:
    """Assemble the first files of several programs once, for `build`.

    Raises AsmError, which names file and line.
    """
    return _assembled(sources, layout, include, {}, b"").saved()


def _assembled(
    sources: Sequence[Path], layout: Layout, include: Sequence[Path], defines: Mapping[str, int], begun: bytes
) -> Assembler:
    assembler = Assembler(layout, include, defines, 64)
    if begun:
        assembler.restore(begun)
    for source in sources:
        assembler.file(read(Path(source), include))
    return assembler


def build_text(
    text: str,
    layout: Layout,
    entry: str | None = None,
    bits: int = 64,
    defines: Mapping[str, int] | None = None,
) -> Image:
    """As `build`, of one source given as text, in a mode of 16, 32 or 64 bits.

    Errors call the source ``<text>``.
    """
    assembler = Assembler(layout, (), defines or {}, bits)
    assembler.file(iter(strip_comments(text, "<text>")))
    return link(assembler.program, layout, entry)


def assemble(text: str, address: int = 0, bits: int = 64, defines: Mapping[str, int] | None = None) -> bytes:
    """The bytes of a snippet at a virtual address, for tests and stubs.

    Parameters: the source; the address of its first byte; 16, 32 or 64 bits; constants.
    Raises AsmError, which calls the source ``<text>``.
    """
    return build_text(text, Layout.flat(address), bits=bits, defines=defines).to_flat()
