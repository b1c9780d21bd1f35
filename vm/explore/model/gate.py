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

from kstack.explore.model.lazy_tlb import How, LazyTlb, Option
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.instruments import Slot
from kstack.hw.mmu.translator import Walker
from kstack.hw.mmu.walk import Attempt, Translation, forbidding
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE_SHIFT
from kstack.x86.entries import FRAME_MASK, NX, RW, US, A, D, G


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
    """The gate of one CPU: the `Translator` of its MMU.

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
        hears_enter: where in RAM its CPU goes, and whether it comes back each time.
        hears_access: each access to RAM that comes back: its physical address and kind.
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
        self.hears_enter: Slot[[int, bool], None] = Slot()
        self.hears_access: Slot[[int, Access], None] = Slot()

    @property
    def is_stopped(self) -> bool:
        """The CPU stands before an operation."""
        return self.held is not None

    def manages(self, address: int) -> bool:
        """Whether a linear address lies in a page of the lazy TLB."""
        return self.lazy.manages(address)

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
        hear = self.hears_access.held
        if hear is not None and access is not Access.FETCH and (managed or self.is_visible(address)):
            hear(physical, access)
        return True

    def entered(self, physical: int, comes_back: bool) -> None:
        """The CPU reaches RAM at `physical` from now on."""
        if (hear := self.hears_enter.held) is not None:
            hear(physical, comes_back)

    def translate(self, walker: Walker, address: int, attempt: Attempt) -> Translation | None:
        """As the explorer has chosen: by the tables, or by an entry that may be cached."""
        lazy, cpu = self.lazy, walker.cpu
        page, option = address >> PAGE_SHIFT, self.option or Option(How.WALK)
        if self.writes:
            attempt = attempt._replace(write=True)
        if self.option is not None and self.option_page not in (page, -1):
            option = Option(How.WALK)
            if (
                len(
                    lazy.options(
                        cpu, page, walker.entry_of(address), attempt.write, forbidding(attempt, walker.control)
                    )
                )
                > 1
            ):
                self.refuse(f"reaches several managed pages in one instruction, {address:#x} the last")
                return None
        if option.how is How.REFUSED or (
            option.how is How.CACHED and forbidding(attempt, walker.control)(option.value)
        ):
            lazy.invalidate(cpu, page, walker.entry_of(address))
            walker.page_fault(address, attempt, True)
            return None
        if option.how is How.CACHED and (option.value & D or not attempt.write):
            return self._translate_by(walker, address, attempt, option)
        result = walker.walk(address, attempt)
        where, level = result.path[-1]
        entry = walker.memory.read64(where) if level == PAGE_SHIFT else 0
        if result.error is not None:
            lazy.invalidate(cpu, page, entry)
            walker.refuse_walk(address, result.error)
            return None
        lazy.entry_is(page, entry)
        lazy.took(cpu, page, Option(How.WALK), entry)
        if result.translation is not None:
            walker.tell_fill(address, result.translation)
        return result.translation

    def _translate_by(self, walker: Walker, address: int, attempt: Attempt, option: Option) -> Translation:
        """By an entry of a managed page that is cached."""
        page, value, current = address >> PAGE_SHIFT, option.value, walker.peek(address)
        path = walker.path(address)
        leaf, rights = path[-1][0], value & (RW | US | NX)
        for where, _ in path[:-1]:
            upper = walker.memory.read64(where)
            rights = rights & upper & (RW | US) | (rights | upper) & NX
        found = Translation(PAGE_SHIFT, page, value & FRAME_MASK, rights, bool(value & D), bool(value & G), leaf)
        if not value & A:
            walker.set_accessed(found)
            self.lazy.entry_is(page, walker.memory.read64(leaf))
        self.lazy.took(walker.cpu, page, option, walker.memory.read64(leaf))
        if not found.same_target(current):
            walker.tell_use(address, Access.STORE if attempt.write else Access.LOAD, found, current)
        return found

    def invalidate(self, walker: Walker, address: int, globals_too: bool, tell: bool) -> list[int]:
        """An invalidation of a managed page: what may be cached from now on is what the tables say."""
        lazy, page = self.lazy, address >> PAGE_SHIFT
        may = sorted(lazy.may.get((walker.cpu, page), ())) if tell else []
        invalidate = lazy.invalidate if globals_too else lazy.invalidate_own
        invalidate(walker.cpu, page, walker.entry_of(address))
        return [value & FRAME_MASK for value in may if globals_too or not value & G]

    def cached(self) -> list[int]:
        """Linear addresses of managed pages of which this CPU may have cached something."""
        return [page << PAGE_SHIFT for cpu, page in sorted(self.lazy.may) if cpu == self.cpu]

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


def gate_of(cpu: Cpu) -> Gate:
    """The gate of a CPU that is being explored."""
    gate = cpu.translator
    assert isinstance(gate, Gate)
    return gate
