"""A gate: stops a CPU right before each operation that another CPU could tell.

What is visible: data accesses to frames that more than one CPU touches, by whatever linear address, and to frames of page
tables, which every CPU's walker reads; the instructions that the engine hands out anyway (OUT, INVLPG, loads of control
registers, ...), and the boundary at which interrupts can be taken again (`window`), so that none is missed between two
other operations. A CPU that has stopped has done nothing of the operation yet; it is granted one instruction, and then
runs on to the next one.

Not modelled: an instruction that accesses several visible pages is one operation here, and so are its load and its
store where they are two (vm/explore/model/store_buffers.py takes them apart). What the model cannot follow is refused by name:
instruction fetches from managed pages, code that one CPU stores and another executes, and accesses of the processor's
own (descriptor tables, event frames) to managed pages.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from kstack.hw.lazy import LazyTlb, Option
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE_SHIFT


class Held(NamedTuple):
    """The operation before which a CPU stands: an access, or an instruction by its name.

    `address` is linear (bytes), 0 for an instruction.
    """

    what: str
    address: int = 0
    write: bool = False


class Touch(enum.IntEnum):
    """How CPUs touch a frame."""

    PLAIN = 0  # by a page that is not managed
    MANAGED = 1
    STORE = 2  # by either
    FETCH = 3


Masks = tuple[int, int, int, int]
"""CPUs, as bits, that have touched a frame, by `Touch`."""
_NOBODY: Final[Masks] = (0, 0, 0, 0)


class Visible:
    """Which frames are visible, for all CPUs of a machine; it grows as they are touched.

    A frame is visible if one CPU reaches it by a page that is not managed, and another one by any page. (What is reached by
    managed pages alone comes back anyway.)

    Args:
        frames: frame numbers that are known to be.

    Attributes:
        frames: frame numbers that are visible.
        tables: frame numbers of page tables: visible from the beginning, since walkers read them.
        seen: by frame number, who has touched it how.
        recent: frames touched since somebody cleared it, in order, each with the linear page by which it was.
        grown: a frame became visible that was not: what ran before was run too coarsely.
        crossed: a frame from which one CPU executes and to which another one stores, or None.
    """

    def __init__(self, frames: Iterable[int] = ()) -> None:
        self.frames: set[int] = set(frames)  # asked for membership only
        self.tables: frozenset[int] = frozenset()
        self.seen: dict[int, Masks] = {}
        self.recent: dict[int, int] = {}
        self.grown = False
        self.crossed: int | None = None

    def touched(self, cpu: int, frame: int, page: int = -1) -> bool:
        """Whether `cpu` touches a visible frame by a page that is not managed (a linear number)."""
        if frame in self.frames or frame in self.tables:
            return True
        self.recent[frame] = page
        self.note(frame, Touch.PLAIN, 1 << cpu)
        return frame in self.frames

    def note(self, frame: int, how: Touch, cpus: int) -> None:
        """CPUs (as bits) touch a frame."""
        before = self.seen.get(frame, _NOBODY)
        if before[how] & cpus == cpus:
            return
        masks = list(before)
        masks[how] |= cpus
        self.seen[frame] = plain, managed, stores, fetches = masks[0], masks[1], masks[2], masks[3]
        if plain and (plain | managed) & ((plain | managed) - 1):
            self.add(frame)
        if stores and fetches and (stores | fetches) & ((stores | fetches) - 1):
            self.crossed = frame

    def take_in(self, seen: Mapping[int, Masks]) -> None:
        """What has been touched elsewhere, or before, is touched here too."""
        for frame, masks in seen.items():
            for how in Touch:
                self.note(frame, how, masks[how])

    def add(self, frame: int) -> None:
        """A frame is visible from now on."""
        self.grown = self.grown or not (frame in self.frames or frame in self.tables)
        self.frames.add(frame)


class Gate:
    """The gate of one CPU.

    Args:
        cpu: its number.
        visible: shared by all gates.
        lazy: the machine's lazy TLB.
        frame_of: the frame number of a linear address that is not managed, None where no frame is mapped.

    Attributes:
        granted: the operation may be done now.
        writes: it is locked, so that its load is translated as its store is (SDM 8.1.1).
        option: how its access goes, of the page `option_page` (linear number).
        held: the operation before which the CPU has stopped.
        refused: what it did that cannot be explored, or empty.
        on_enter: told where in RAM its CPU goes, and whether it comes back each time, if set.
        on_access: told of each access to RAM that comes back: its physical address and kind, if set.
    """

    def __init__(
        self,
        cpu: int,
        visible: Visible,
        lazy: LazyTlb,
        frame_of: Callable[[int], int | None] = lambda address: address >> PAGE_SHIFT,
    ) -> None:
        self.cpu = cpu
        self.lazy = lazy
        self._visible = visible
        self._frame_of = frame_of
        self.granted = self.writes = False
        self.option: Option | None = None
        self.option_page = -1
        self.held: Held | None = None
        self.refused = ""
        self.on_enter: Callable[[int, bool], None] | None = None
        self.on_access: Callable[[int, Access], None] | None = None

    def stops_access(self, address: int, access: Access) -> bool:
        """A data access is about to be translated: whether to stop before it."""
        if access is Access.FETCH:
            return self.lazy.manages(address) and self.refuse(f"executes from the managed page of {address:#x}")
        if not self.is_visible(address) or self.granted:
            return False
        self.held = Held("access", address, access is Access.STORE)
        return True

    def is_visible(self, address: int) -> bool:
        """Whether each access to this address has to come back."""
        if self.lazy.manages(address):
            return True
        frame = self._frame_of(address)
        return frame is not None and self._visible.touched(self.cpu, frame, address >> PAGE_SHIFT)

    def accesses(self, address: int, physical: int, access: Access) -> bool:
        """An access has been translated; whether it can go on, or is refused."""
        visible, frame, managed = self._visible, physical >> PAGE_SHIFT, self.lazy.manages(address)
        if access is Access.FETCH:
            visible.note(frame, Touch.FETCH, 1 << self.cpu)
        if access is Access.STORE:
            visible.note(frame, Touch.STORE, 1 << self.cpu)
        if visible.crossed is not None:
            return not self.refuse(f"stores code that another CPU executes, or executes it, at {address:#x}")
        if managed and access is not Access.FETCH:
            visible.note(frame, Touch.MANAGED, 1 << self.cpu)
            if frame in visible.tables:
                return not self.refuse(f"reaches a page table through the managed page of {address:#x}")
        if self.on_access is not None and access is not Access.FETCH and (managed or self.is_visible(address)):
            self.on_access(physical, access)
        return True

    def refuse(self, what: str) -> bool:
        """The CPU does what cannot be explored: it stops; always True."""
        self.refused = self.refused or what
        self.held = self.held or Held("refused")
        return True

    def stops_instruction(self, name: str) -> bool:
        """An instruction is about to be carried out by the model: whether to stop before it."""
        if self.granted:
            return False
        self.held = Held(name)
        return True
