"""Which pages of a guest have had their entries changed lately, whatever guest it is: its tables are compared, again and again.

SDM 4.5 (the tables), 4.8 (a walk sets A and D: that is no change here; who clears them has stored to the entry).

What it says depends on the tables at the moments at which it looks, and on nothing else, so that a run that is repeated, or goes
on from a saved state, sees the same: stores to tables as the MMU's tracker sees them would not do, since a machine that has been
restored has yet to find out again which frames are tables.

Not seen: an entry that has changed and changed back between two looks; a table in any place but the first one where it is reached;
more than `MOST_TABLES` tables, of which those nearest to CR3 are taken, by address. So a look costs no more than the guest's own stores to its
tables do, and a part of a millisecond.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kstack.hw.memory import PhysicalMemory
from kstack.x86.addresses import PAGE, canonical
from kstack.x86.entries import FRAME_MASK, PS, A, D, P

MOST_TABLES: Final = 256
MOST_PAGES: Final = 8
"""Pages that count as changed lately."""
_TOP: Final = 39  # log2 of what an entry of the highest table maps
_LEAF: Final = 12
_LEVEL: Final = 9  # bits of a linear address that a level translates
_TABLE: Final = struct.Struct("<512Q")
_EMPTY: Final = bytes(PAGE)
_USED: Final = A | D


class Table(NamedTuple):
    """A table in its place: physical address, log2 of what one of its entries maps, linear address of the first."""

    address: int
    shift: int
    base: int


class Content(NamedTuple):
    """What stood in a table, and the tables below it."""

    data: bytes
    below: tuple[Table, ...]


class ChangedState(NamedTuple):
    """All that decides what is seen next."""

    tables: tuple[tuple[Table, Content], ...] = ()
    pages: tuple[int, ...] = ()


class ChangedEntries:
    """Of one machine.

    Args:
        memory: its RAM.

    Attributes:
        pages: linear addresses of pages whose entries have changed and are present, those that changed last at the end.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._tables: dict[Table, Content] = {}
        self.pages: tuple[int, ...] = ()

    def save(self) -> ChangedState:
        """What decides how it goes on."""
        return ChangedState(tuple(self._tables.items()), self.pages)

    def load(self, state: ChangedState) -> None:
        """Become what `save` returned."""
        self._tables, self.pages = dict(state.tables), state.pages

    def look(self, roots: Iterable[int]) -> None:
        """Compare the tables with what they were.

        Args:
            roots: physical addresses of the highest ones, as the CPUs have them in CR3.
        """
        changed: list[int] = []
        seen: dict[Table, Content] = {}
        reached: set[tuple[int, int]] = set()  # address and shift
        waiting = deque(Table(root, _TOP, 0) for root in sorted(set(roots)))
        while waiting and len(seen) < MOST_TABLES:
            table = waiting.popleft()
            if table[:2] in reached or not self._memory.is_ram(table.address):
                continue
            reached.add(table[:2])
            seen[table] = content = self._content(table, changed)
            waiting.extend(content.below)
        self._tables = seen
        if changed:
            self.pages = (*(page for page in self.pages if page not in changed), *changed)[-MOST_PAGES:]

    def _content(self, table: Table, changed: list[int]) -> Content:
        """What stands in a table; the pages of its entries that have changed go into a list."""
        data = self._memory.read(table.address, PAGE)
        before = self._tables.get(table)
        if before is not None and before.data == data:
            return before
        entries = _TABLE.unpack(data)
        changed.extend(_changed(table, _TABLE.unpack(_EMPTY if before is None else before.data), entries))
        return Content(data, tuple(_below(table, entries)))


def _is_leaf(entry: int, shift: int) -> bool:
    return shift == _LEAF or bool(entry & PS)


def _address(table: Table, index: int) -> int:
    return canonical(table.base | index << table.shift)


def _changed(table: Table, before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[int]:
    """Linear addresses of the pages that present leaf entries map now, and did not, or otherwise."""
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new and new & P and _is_leaf(new, table.shift) and ((old ^ new) & ~_USED or old & ~new & _USED):
            yield _address(table, index)


def _below(table: Table, entries: tuple[int, ...]) -> Iterator[Table]:
    """The tables that a table's entries point to."""
    for index, entry in enumerate(entries):
        if entry & P and not _is_leaf(entry, table.shift):
            yield Table(entry & FRAME_MASK, table.shift - _LEVEL, _address(table, index))
