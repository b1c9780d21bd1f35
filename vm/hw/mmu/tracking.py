"""Which frames hold code or page tables, so that stores to them are seen by every CPU's caches.

Translated code is private to an engine, and a softmmu entry outlives the table it came from. So a
frame that somebody has executed from, or that a walk has read as a table, is entered in such a way
that each store to it comes back (SDM 11.6 and 8.1.3 for code; 4.10 for tables).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

CLEARED: Final = 64
"""Stores, each right behind the one before, after which a frame is thought to be no table any more."""
_P: Final = 1
_NEXT: Final = 64  # bytes from a store to the next one, at most


class TrackedSoftmmu(Protocol):
    """One CPU's softmmu, as far as others must tell it of stores."""

    def flush(self) -> None:
        """Let every access come back once."""
        ...

    def forget_table(self, frame: int) -> None:
        """The same for all entries of a table of leaves, by its frame number."""
        ...

    def forget_leaf(self, leaf: int) -> None:
        """Let accesses to the pages that the entry at physical `leaf` maps come back."""
        ...

    def code_stored(self, address: int, size: int) -> None:
        """Code that this CPU has executed is about to change."""
        ...


class FrameTracker:
    """Code and table frames of one machine, shared by the MMUs of all its CPUs.

    Args:
        read64: the 64-bit word at a physical address.
    """

    def __init__(self, read64: Callable[[int], int]) -> None:
        self._read64 = read64
        self.softmmus: list[TrackedSoftmmu] = []
        self.code: dict[int, int] = {}  # frame number -> bit mask of CPUs that executed from it
        self.tables: dict[int, int] = {}  # frame number -> log2 of what one of its entries maps
        self.generation = 0  # grows whenever a walk may come out differently
        self._last = 0  # where a table was stored to
        self._in_row = 0  # stores to tables, each right behind the one before

    def add_code(self, frame: int, cpu: int) -> None:
        """CPU `cpu` executes from `frame` (a frame number)."""
        known = self.code.get(frame, 0)
        if not known >> cpu & 1:
            self.code[frame] = known | 1 << cpu
            for softmmu in self.softmmus:
                softmmu.flush()

    def add_table(self, address: int, shift: int) -> None:
        """A walk read the entry at physical `address` in a table of level `shift`."""
        frame = address >> 12
        known = self.tables.get(frame)
        if known is None:
            self.tables[frame] = shift
            for softmmu in self.softmmus:
                softmmu.flush()
        elif known < shift:
            self.tables[frame] = shift

    def store(self, address: int, size: int, storer: int = -1) -> None:
        """Somebody is about to store `size` bytes at physical `address` (`storer`: which CPU, or -1)."""
        for frame in range(address >> 12, (address + size - 1 >> 12) + 1):
            if frame in self.tables:
                self._table_stored(address, size, self.tables[frame])
                self._in_row = self._in_row + 1 if 0 < address - self._last <= _NEXT else 0
                self._last = address
                if self._in_row >= CLEARED:
                    self._forget(frame)
            users = self.code.get(frame, 0)
            if not users:
                continue
            for cpu, softmmu in enumerate(self.softmmus):
                if users >> cpu & 1 and cpu != storer:
                    softmmu.code_stored(address, size)

    def _forget(self, frame: int) -> None:
        """A frame is being cleared or filled: as long as no walk reads it again its stores need not come back."""
        self._in_row = 0
        del self.tables[frame]
        self.flush()  # the generation has grown: whatever a TLB holds is compared again, by a walk

    def _table_stored(self, address: int, size: int, shift: int) -> None:
        self.generation += 1
        entries = range(address & ~7, address + size, 8)
        if shift != 12 or size > 64:
            # What the softmmus hold came by entries that were present, and are so still, or each access comes back.
            if any(self._read64(entry) & _P for entry in entries):
                for softmmu in self.softmmus:
                    softmmu.flush()
            return
        for leaf in entries:
            for softmmu in self.softmmus:
                softmmu.forget_leaf(leaf)

    def flush(self) -> None:
        """Every softmmu starts empty, so that each page's next store comes back."""
        for softmmu in self.softmmus:
            softmmu.flush()

    def others_execute(self, frame: int, cpu: int) -> bool:
        """Whether a CPU other than `cpu` has executed from `frame`."""
        return bool(self.code.get(frame, 0) & ~(1 << cpu))

    def executes(self, frame: int, cpu: int) -> bool:
        """Whether `cpu` has executed from `frame`."""
        return bool(self.code.get(frame, 0) >> cpu & 1)

    def replaced(self, frames: list[int], all_start_empty: bool) -> None:
        """Frames (numbers) have other contents now, all at once: every CPU's translated code from them is void.

        Args:
            frames: which.
            all_start_empty: every softmmu will be emptied; else what rests on a changed table is forgotten here.
        """
        for frame in frames:
            users = self.code.pop(frame, 0)
            for cpu, softmmu in enumerate(self.softmmus):
                if users >> cpu & 1:
                    softmmu.code_stored(frame << 12, 4096)
        if all_start_empty:
            self.tables.clear()
        for frame in frames if not all_start_empty else ():
            shift = self.tables.get(frame)
            for softmmu in self.softmmus if shift is not None else ():
                if shift == 12:
                    softmmu.forget_table(frame)
                else:
                    softmmu.flush()
        self.generation += 1
