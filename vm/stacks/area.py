"""Thread stacks as policies see them: threads, their pages, and page-table entries as values.

A stack is an area of 4 KiB pages that grows down from its top; its page tables exist, and only the
leaf entries change. Linux: THREAD_SIZE is 16 KiB, vmapped, with a guard page below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from kstack.x86.addresses import PAGE
from kstack.x86.entries import FRAME_MASK, NX, RW, A, D, G, P


class Pte(NamedTuple):
    """A leaf page-table entry as a value (SDM table 4-20)."""

    value: int

    @classmethod
    def of(cls, frame: int) -> Pte:
        """A present, writable, global, no-execute kernel entry with A and D clear.

        Args:
            frame: physical address of the frame (bytes, 4 KiB aligned).
        """
        return cls(frame | P | RW | G | NX)

    @property
    def present(self) -> bool:
        """P."""
        return bool(self.value & P)

    @property
    def accessed(self) -> bool:
        """A."""
        return bool(self.value & A)

    @property
    def dirty(self) -> bool:
        """D."""
        return bool(self.value & D)

    @property
    def frame(self) -> int:
        """Physical address of the frame (bytes)."""
        return self.value & FRAME_MASK


EMPTY: Final = Pte(0)


class Page(NamedTuple):
    """One page of a thread's stack.

    Attributes:
        thread: the thread's id.
        index: 0 is the top page, which every thread needs; higher is deeper.
        address: linear address (bytes).
    """

    thread: int
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody calls on a page
    address: int

    @property
    def label(self) -> str:
        """In words."""
        return f"thread {self.thread} page {self.index}"


@dataclass
class Thread:
    """A thread's kernel stack.

    Attributes:
        id: the guest's number for it.
        bottom: lowest linear address of the stack area (bytes).
        size: bytes of the area.
        is_user: it runs in ring 3 too; a kernel thread never leaves the kernel.
        saved_rsp: RSP it was switched out with last, 0 before that.
        since: virtual time since which it is switched out, -1 while it runs or has not run.
    """

    id: int
    bottom: int
    size: int
    is_user: bool = True
    saved_rsp: int = 0
    since: int = -1

    @property
    def pages(self) -> tuple[Page, ...]:
        """All pages, from the top down."""
        count = self.size // PAGE
        top = self.bottom + self.size
        return tuple(Page(self.id, index, top - (index + 1) * PAGE) for index in range(count))

    @property
    def top(self) -> Page:
        """The page at the top, in use as soon as the thread runs."""
        return self.pages[0]

    @property
    def lower(self) -> tuple[Page, ...]:
        """All pages but the top one."""
        return self.pages[1:]

    def pages_for(self, size: int) -> tuple[Page, ...]:
        """The pages that `size` bytes from the top lie on: the top one at least, and no more than there are."""
        return self.pages[: max(1, -(-size // PAGE))]

    def pages_below(self, rsp: int) -> tuple[Page, ...]:
        """The pages that lie wholly below `rsp` (bytes): nothing on them is in use."""
        return tuple(page for page in self.pages if page.address + PAGE <= rsp)

    def contains(self, address: int) -> bool:
        """Whether a linear address lies in the stack area."""
        return self.bottom <= address < self.bottom + self.size

    def page_at(self, address: int) -> Page:
        """The page of a linear address in the area."""
        return self.pages[(self.bottom + self.size - 1 - address) // PAGE]


class AreasState(NamedTuple):
    """What `Areas.save` gives; nobody changes it."""

    owners: dict[int, int]
    lowest: int
    end: int


class Areas:
    """Finds the thread in whose stack an address lies, where there may be ten thousand."""

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}  # by page number: id of the thread that had it last
        self._lowest = self._end = 0
        self._saved: AreasState | None = None  # what `save` gave, until a thread is added

    def add(self, thread: Thread) -> None:
        """Know a thread's stack. Nothing need be said when it goes."""
        if self._owners.get(thread.bottom // PAGE) == thread.id:
            return
        self._saved = None
        for page in range(thread.bottom, thread.bottom + thread.size, PAGE):
            self._owners[page // PAGE] = thread.id
        self._lowest = min(self._lowest or thread.bottom, thread.bottom)
        self._end = max(self._end, thread.bottom + thread.size)

    def save(self) -> AreasState:
        """All that is known; the same object while nothing is added."""
        if self._saved is None:
            self._saved = AreasState(dict(self._owners), self._lowest, self._end)
        return self._saved

    def load(self, state: AreasState) -> None:
        """Know what was known at `save`, and no more: a step that names a page of a later thread is refused again."""
        if state is not self._saved:
            self._owners, self._lowest, self._end = dict(state.owners), state.lowest, state.end
            self._saved = state

    def has(self, address: int) -> bool:
        """Whether a linear address (bytes) is in the stack area of a thread that there is or was."""
        return address // PAGE in self._owners

    def find(self, threads: Mapping[int, Thread], address: int) -> Thread | None:
        """The one of `threads`, all of which were added, whose stack has a linear address (bytes)."""
        if not self._lowest <= address < self._end:
            return None
        known = threads.get(self._owners.get(address // PAGE, -1))
        if known is not None and known.contains(address):
            return known
        return next((thread for thread in threads.values() if thread.contains(address)), None)
