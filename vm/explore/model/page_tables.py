"""The guest's page tables while interleavings are explored: who stores to which entry, and what the lazy TLB hears of it.

A walker reads page tables on behalf of every CPU (SDM volume 3A, 4.10.2.3), so their frames are visible from the
beginning, and the lazy TLB hears of every store to the entry of a managed page, whoever makes it and in whatever width.
Pages are managed where they belong to the stacks of a litmus scenario's threads, or where its TOML names them (`managed`).

What the lazy TLB does not model is refused by name: a store to an entry above the leaves, since paging-structure
caches are not explored, and one that changes the translation of a page that is not managed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from kstack.base.errors import ScenarioError
from kstack.explore.model.lazy_tlb import LazyTlb
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.mmu import Mmu
from kstack.load import Symbols
from kstack.x86.addresses import PAGE, canonical
from kstack.x86.entries import FRAME_MASK, IGNORED, LEVELS, PS, A, P

WORD: Final = 8  # bytes of an entry
_ENTRIES: Final = PAGE // WORD
_LEAF, _TOP = min(LEVELS), max(LEVELS)
MOST_TABLES: Final = 1 << 16
MOST_PAGES: Final = 1 << 12
_NAME: Final = re.compile(r"(?P<name>[^\s:+]+)(\+(?P<offset>0x[0-9a-fA-F]+|\d+))?(:(?P<pages>\d+))?")


def managed_pages(names: Iterable[str], symbols: Symbols) -> frozenset[int]:
    """The pages (linear numbers) that a scenario names.

    Args:
        names: `symbol`, `symbol+offset` (bytes), `0xaddress`, each with `:pages` behind it for more than one page.
        symbols: of its image.

    Raises:
        ScenarioError: a name is none of these, or the image has no such symbol.
    """
    found: set[int] = set()
    for text in names:
        match = _NAME.fullmatch(text)
        if match is None:
            raise ScenarioError(f"managed {text!r}: write a symbol or an address, as x, x+0x1000 or x:4 for four pages")
        name, pages = match["name"], int(match["pages"] or 1)
        address = int(name, 16) if name.startswith("0x") else symbols.address(name)
        if address is None:
            raise ScenarioError(f"managed {text!r}: the image has no symbol {name}")
        if not 1 <= pages <= MOST_PAGES:
            raise ScenarioError(f"managed {text!r}: give 1 to {MOST_PAGES} pages")
        first = address + int(match["offset"] or "0", 0) >> _LEAF
        found.update(range(first, first + pages))
    return frozenset(found)


class GuestPageTables:
    """The page tables of one machine, as they are when exploring begins.

    Args:
        memory: the machine's RAM.
        mmus: of all its CPUs.
        managed: linear page numbers.
        lazy: told of each store to an entry of theirs.
        name_of: names a linear address in errors.

    Attributes:
        frames: by frame number, log2 of what one of its entries maps, at the most.
        leaves: by physical address of an entry, the managed pages (linear numbers) that it maps.
        stored: pages whose entries have been stored since somebody cleared it, in order.

    Raises:
        ScenarioError: a managed page has no entry of 4 KiB, or under `needs-accessed` one above it with A clear; or there
            are too many tables.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        mmus: list[Mmu],
        managed: frozenset[int],
        lazy: LazyTlb,
        name_of: Callable[[int], str],
    ) -> None:
        self._memory = memory
        self._lazy = lazy
        self._name_of = name_of
        self.frames: dict[int, int] = {}
        self.leaves: dict[int, tuple[int, ...]] = {}
        self.stored: list[int] = []
        self._maps: dict[int, int] = {}  # by leaf table's frame: the linear address that its first entry maps
        self.roots = tuple(dict.fromkeys(mmu.table for mmu in mmus if mmu.table is not None))
        for root in self.roots:
            self._find(root, _TOP, 0)
        for page in sorted(managed):
            for mmu in mmus:
                self._manage(page, mmu)

    def _find(self, table: int, shift: int, base: int) -> None:
        """A table and all below it."""
        frame = table >> _LEAF
        if self.frames.get(frame, 0) >= shift:
            return
        self.frames[frame] = shift
        if len(self.frames) > MOST_TABLES:
            raise ScenarioError(f"the guest has more than {MOST_TABLES} page tables: too many to be explored")
        if shift == _LEAF:
            self._maps[frame] = base
            return
        for index in range(_ENTRIES):
            entry = self._memory.read64(table + index * WORD)
            if entry & P and not entry & PS and self._memory.is_ram(entry & FRAME_MASK):
                self._find(entry & FRAME_MASK, shift - 9, base + (index << shift))

    def _manage(self, page: int, mmu: Mmu) -> None:
        if mmu.table is None:
            return
        leaf = mmu.leaf_address(page << _LEAF)
        if leaf is None:
            raise ScenarioError(
                f"the managed page of {self._name_of(page << _LEAF)} has no entry of 4 KiB on CPU {mmu.cpu}: "
                "map it by one, or leave it out"
            )
        if self._lazy.needs_accessed:
            self._check_upper(page, mmu)
        pages = self.leaves.get(leaf, ())
        if page not in pages:
            self.leaves[leaf] = (*pages, page)

    def _check_upper(self, page: int, mmu: Mmu) -> None:
        """The lazy TLB has a page's leaf alone: what else decides whether it can be cached must be set, and stay so.

        Raises:
            ScenarioError: an entry above the leaf has Accessed clear.
        """
        for where, shift in mmu.path(page << _LEAF)[:-1]:
            if not self._memory.read64(where) & A:
                raise ScenarioError(
                    f"the managed page of {self._name_of(page << _LEAF)} is reached on CPU {mmu.cpu} by a {LEVELS[shift]} with "
                    "Accessed clear, through which speculation=needs-accessed caches nothing: let an access set it before "
                    "the programs are ready, or leave the page out"
                )

    def is_table(self, physical: int) -> bool:
        """Whether a physical address lies in a page table."""
        return physical >> _LEAF in self.frames

    def words(self, physical: int, width: int) -> range:
        """The entries that `width` bytes from a physical address overlap, by their addresses; none outside tables."""
        if not self.is_table(physical):
            return range(0)
        return range(physical & -WORD, physical + width, WORD)

    def pages_of(self, physical: int, width: int) -> list[tuple[int, int]]:
        """The managed pages whose entries some bytes overlap: (address of the entry, linear page number)."""
        return [(word, page) for word in self.words(physical, width) for page in self.leaves.get(word, ())]

    def changed(self, word: int, old: int, plain: bool) -> None:
        """The entry at a physical address was `old`, and has just been stored.

        Args:
            word: its address.
            old: what it was.
            plain: by a store that does not see whether a walker has set Accessed meanwhile.

        Raises:
            ScenarioError: it is an entry that exploring takes to be fixed.
        """
        new = self._memory.read64(word)
        for page in self.leaves.get(word, ()):
            self._lazy.entry_was(page, old, plain)
            self._lazy.entry_is(page, new)
            self.stored.append(page)
        if word in self.leaves or not (old ^ new) & ~IGNORED or not (old | new) & P:
            return
        shift = self.frames[word >> _LEAF]
        if shift != _LEAF:
            raise ScenarioError(
                f"a store to an entry above the leaves (at physical {word:#x}, of 2^{shift} bytes each) cannot be "
                "explored: paging-structure caches are not modelled there"
            )
        address = canonical(self._maps[word >> _LEAF] + ((word & PAGE - 1) // WORD << _LEAF))
        raise ScenarioError(
            f"a store to the entry of {self._name_of(address)} ({address:#x}), whose page is not managed: name it in the "
            'scenario\'s TOML, as managed = ["symbol"]'
        )
