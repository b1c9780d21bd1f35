"""Input sections: what the assembler writes and the linker places.

A section is a list of items.  Between items whose size is not fixed yet (short or near
branches, alignment) lie *runs* of fixed size; a label is known by its run and its offset in
it, so that the difference of two labels of one run is a number at once, as in GNU as.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kstack.guest.asm.encode import Branch, Slot
from kstack.guest.asm.errors import Place
from kstack.guest.asm.expr import Linear
from kstack.guest.asm.layout import Access


@dataclass(frozen=True)
class Chunk:
    """Bytes of a fixed size, with slots to fill.  ``code`` tells instructions from data."""

    data: bytes
    slots: tuple[Slot, ...]
    place: Place
    code: bool = False


@dataclass(frozen=True)
class Jump:
    """A branch whose form the linker chooses."""

    branch: Branch
    place: Place


@dataclass(frozen=True)
class Align:
    """Fill up to a multiple of ``boundary`` bytes, unless that takes more than ``most`` bytes."""

    boundary: int
    fill: bytes
    most: int
    place: Place


@dataclass(frozen=True)
class Space:
    """A number of bytes that depends on addresses."""

    count: Linear
    fill: int
    place: Place


Item = Chunk | Jump | Align | Space


@dataclass(frozen=True)
class Label:
    """A position: before item ``index`` of a section; or, for a run, where the run begins."""

    section: str
    index: int


@dataclass
class Section:
    """One input section under construction."""

    name: str
    access: Access
    nobits: bool
    place: Place
    items: list[Item] = field(default_factory=list)
    align: int = 1
    run: int = 0
    run_index: int = 0
    run_offset: int = 0

    @property
    def run_name(self) -> str:
        """The hidden symbol at the beginning of the current run."""
        return f"\0{self.name}#{self.run}"

    def append(self, item: Item) -> None:
        """Add an item; anything but a chunk begins a new run."""
        self.items.append(item)
        if isinstance(item, Chunk):
            self.run_offset += len(item.data)
            return
        self.run += 1
        self.run_index, self.run_offset = len(self.items), 0
        if isinstance(item, Align):
            self.align = max(self.align, item.boundary)
