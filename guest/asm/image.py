"""A linked image: what goes where, and what is where."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from kstack.guest.asm import elf
from kstack.guest.asm.errors import Place
from kstack.guest.asm.output import OutputSection, Segment, Symbol


@dataclass(frozen=True)
class Image:
    """A linked program.

    ``entry`` is a virtual address; ``lines`` holds (address, place) in ascending order, one for
    each statement that emitted bytes.
    """

    sections: tuple[OutputSection, ...]
    symbols: Mapping[str, Symbol]
    entry: int
    lines: tuple[tuple[int, Place], ...] = field(repr=False, default=())

    @property
    def segments(self) -> tuple[Segment, ...]:
        """One segment for each section."""
        return tuple(Segment(s.vaddr, s.paddr, s.data, s.size, s.access) for s in self.sections)

    def __getitem__(self, name: str) -> int:
        """The value of a symbol; KeyError when there is none of that name."""
        return self.symbols[name].value

    def place_at(self, address: int) -> Place | None:
        """The source line whose bytes are at or just before a virtual address."""
        inside = any(s.vaddr <= address < s.vaddr + s.size for s in self.sections)
        at = bisect_right(self.lines, address, key=lambda entry: entry[0])
        return self.lines[at - 1][1] if inside and at else None

    def symbol_at(self, address: int) -> tuple[Symbol, int] | None:
        """The nearest label at or below a virtual address in the same section, and the distance."""
        here = next((s for s in self.sections if s.vaddr <= address < s.vaddr + max(s.size, 1)), None)
        if here is None:
            return None
        labels = [s for s in self.symbols.values() if s.section == here.name and s.value <= address]
        best = max(labels, key=lambda s: s.value, default=None)
        return (best, address - best.value) if best is not None else None

    def to_flat(self) -> bytes:
        """The bytes from the lowest to the highest loaded physical address, zeros between."""
        loaded = [s for s in self.sections if s.data]
        if not loaded:
            return b""
        base = min(s.paddr for s in loaded)
        out = bytearray(max(s.paddr + len(s.data) for s in loaded) - base)
        for section in loaded:
            at = section.paddr - base
            out[at : at + len(section.data)] = section.data
        return bytes(out)

    def to_elf(self) -> bytes:
        """An ELF64 executable with program headers, sections and a symbol table."""
        return elf.write(self.sections, self.symbols, self.entry)
