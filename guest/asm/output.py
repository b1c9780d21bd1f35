"""What a link puts out: sections, segments and symbols, with their addresses."""

from __future__ import annotations

from dataclasses import dataclass

from kstack.guest.asm.layout import Access


@dataclass(frozen=True)
class OutputSection:
    """One output section: its name, addresses, bytes and size in memory (all in bytes).

    ``data`` is empty for a section without bytes in the file.
    """

    name: str
    access: Access
    vaddr: int
    paddr: int
    data: bytes
    size: int


@dataclass(frozen=True)
class Segment:
    """What a loader copies: ``data`` to physical ``paddr``, zeros up to ``memsz`` bytes."""

    vaddr: int
    paddr: int
    data: bytes
    memsz: int
    access: Access


@dataclass(frozen=True)
class Symbol:
    """A symbol: unsigned 64-bit value, size in bytes, ``func``, ``object`` or ``notype``.

    ``section`` is the output section's name, or empty for a constant.
    """

    name: str
    value: int
    size: int
    type: str
    section: str
