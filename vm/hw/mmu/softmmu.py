"""The engine's softmmu as a cache of the TLB model: what has been entered there, with which rights, and when it has to leave.

Three kinds of page are entered so that accesses come back: a stale translation and MMIO (each access), a frame of page tables or
of other CPUs' code (each store). Any page is entered without the right to write until a store has filled it, so that stores to
clean frames are seen once (`PhysicalMemory.dirty`).

Not modelled: nothing; the softmmu itself decides nothing.
"""

from __future__ import annotations

from typing import Final, Protocol

from kstack.hw.engine import Engine, MmuIndex
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.moments import MmuHooks
from kstack.hw.mmu.tlb import Tlb
from kstack.hw.mmu.tracking import FrameTracker
from kstack.hw.mmu.translator import Translator
from kstack.hw.mmu.walk import Attempt, PagingControl, Translation, denied
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE, PAGE_SHIFT

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4
WRITES_RETURN: Final = 0x40
STORES_KEPT: Final = 256  # stores to executed code remembered one by one
LONGEST_STORE: Final = 64  # bytes of one access
_MASK64: Final = (1 << 64) - 1
_OFFSET: Final = PAGE - 1


class TlbModel(Protocol):
    """What the softmmu is a cache of: the MMU of one CPU."""

    cpu: int
    data: Tlb
    code: Tlb
    pcid: int
    translator: Translator | None

    @property
    def control(self) -> PagingControl:
        """The control-register bits that rights depend on."""
        ...


class Softmmu:
    """The softmmu of one CPU's engine.

    Args:
        model: the TLBs that it caches.
        memory: the machine's RAM.
        tracker: the machine's code and table frames.
        hooks: hear what is entered.

    Attributes:
        stored_code: stores to code that this CPU has executed, which its engine has not been told of: address and bytes.
    """

    def __init__(self, model: TlbModel, memory: PhysicalMemory, tracker: FrameTracker, hooks: MmuHooks) -> None:
        self._model = model
        self._memory = memory
        self._tracker = tracker
        self._hooks = hooks
        self._entered: dict[int, set[int]] = {}  # physical address of a leaf entry -> pages that were entered by it
        self._watched: frozenset[int] = frozenset()
        self.stored_code: set[tuple[int, int]] = set()
        self.engine: Engine
        tracker.softmmus.append(self)

    def enter_device(self, page: int, physical: int, index: MmuIndex) -> None:
        """Enter a page of what is no RAM: each access comes back, and then goes to the bus."""
        if self._hooks.enter.heard:
            self._hooks.enter(self._model.cpu, page, physical)
        self.engine.enter(page, physical, READ | WRITE, index, 1)

    def enter(
        self,
        address: int,
        access: Access,
        index: MmuIndex,
        found: Translation,
        comes_back: bool,
        unpaged: bool = False,
    ) -> None:
        """Enter a translation to RAM for an access that is about to be made.

        Args:
            address: linear.
            access: of which kind.
            index: under whose rights.
            found: the translation.
            comes_back: each access through it is to come back; of a fetch, each load and store.
            unpaged: it is the identity, while paging is off, and in no TLB.
        """
        model, page = self._model, address & -PAGE
        physical = found.frame + (page & (1 << found.shift) - 1)
        frame = physical >> PAGE_SHIFT
        if access == Access.STORE:
            self._memory.dirty.add(frame)
        elif access == Access.FETCH:
            self._tracker.add_code(frame, model.cpu)
        protection = self._protection(address, access, index, found, frame, unpaged)
        if access == Access.STORE:
            self._note_store(frame, physical | address & _OFFSET, bool(protection & EXECUTE))
        if comes_back and access == Access.FETCH:
            protection &= EXECUTE
        size = 1 if (comes_back and access != Access.FETCH) or page in self._watched else PAGE
        if model.translator is not None:
            model.translator.entered(physical | address & _OFFSET, size == 1)
        if self._hooks.enter.heard:
            self._hooks.enter(model.cpu, page, physical)
        self.engine.enter(page, physical, protection, index, size)
        self._entered.setdefault(found.leaf, set()).add(page)

    def _note_store(self, frame: int, physical: int, engine_sees_it: bool) -> None:
        """Tell the caches of tables and code of a store that is about to happen.

        `engine_sees_it`: this CPU's engine itself drops the blocks that the store changes, which it
        does through an entry that is also executable.
        """
        tracker = self._tracker
        if frame not in tracker.tables and frame not in tracker.code:
            return
        size = min(LONGEST_STORE, PAGE - (physical & _OFFSET))
        tracker.store(physical, size, self._model.cpu if engine_sees_it else -1)
        if self.stored_code:
            self.engine.ask_to_stop()

    def _protection(
        self, address: int, access: Access, index: MmuIndex, found: Translation, frame: int, unpaged: bool
    ) -> int:
        user, smap = index == MmuIndex.USER, index == MmuIndex.KERNEL_SMAP
        model, tracker, control = self._model, self._tracker, self._model.control
        if unpaged:
            data: Translation | None = found
            code = found if tracker.executes(frame, model.cpu) or access == Access.FETCH else None
        else:
            data = found if access != Access.FETCH else model.data.lookup(address, model.pcid)
            code = found if access == Access.FETCH else model.code.lookup(address, model.pcid)
        protection = 0
        if code is not None and code.same_target(found) and not denied(code, Attempt(False, True, user), control):
            protection |= EXECUTE
        if data is None or not data.same_target(found) or denied(data, Attempt(False, False, user, smap), control):
            return protection
        protection |= READ
        writable = data.dirty and frame in self._memory.dirty
        if writable and not denied(data, Attempt(True, False, user, smap), control):
            protection |= WRITE
            aliased = tracker.executes(frame, model.cpu) and not protection & EXECUTE
            if frame in tracker.tables or aliased or tracker.others_execute(frame, model.cpu):
                protection |= WRITES_RETURN
        return protection

    def note(self, leaf: int, address: int) -> None:
        """The page of a linear address rests on the entry at physical `leaf`, too."""
        self._entered.setdefault(leaf, set()).add(address & -PAGE)

    def holds(self, leaf: int, address: int) -> bool:
        """Whether the page of a linear address was entered by the leaf entry at physical `leaf`."""
        return address & -PAGE in self._entered.get(leaf, ())

    def watch(self, pages: frozenset[int]) -> None:
        """Let each access to these pages come back, by linear address."""
        self._watched = pages
        self.flush()

    # --- what leaves

    def flush(self) -> None:
        """Empty it; the model keeps everything."""
        if self._entered:
            self.engine.flush()
            self._entered.clear()

    def start_empty(self) -> None:
        """Empty it, whatever is known to be in it."""
        self._entered.clear()
        self.engine.flush()

    def leave(self, dropped: list[Translation]) -> None:
        """These have left the model, so they leave the softmmu."""
        for entry in dropped:
            if entry.shift == PAGE_SHIFT:
                self._flush_page(entry.leaf, entry.page << PAGE_SHIFT & _MASK64)
            else:
                self.flush()

    def _flush_page(self, leaf: int, page: int) -> None:
        pages = self._entered.get(leaf)
        if pages is not None:
            pages.discard(page)
        self.engine.flush_page(page)  # also where it was entered by another leaf with the same target

    def forget_leaf(self, leaf: int) -> None:
        """The leaf entry at physical `leaf` is about to change: its pages must come back."""
        for page in self._entered.pop(leaf, ()):
            self.engine.flush_page(page)

    def forget_table(self, frame: int) -> None:
        """The leaf entries in a frame (number) are others now."""
        for leaf in [leaf for leaf in self._entered if leaf >> PAGE_SHIFT == frame]:
            self.forget_leaf(leaf)

    def code_stored(self, address: int, size: int) -> None:
        """Code that this CPU has executed is about to change."""
        if len(self.stored_code) < STORES_KEPT:
            self.stored_code.add((address, size))
        else:  # whole frames, of which there are only so many
            frames = {(start & -PAGE, PAGE) for start, _ in self.stored_code}
            self.stored_code = {*frames, (address & -PAGE, PAGE)}
