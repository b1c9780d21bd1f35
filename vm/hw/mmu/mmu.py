"""One CPU's memory management unit: SDM volume 3, chapter 4.

It answers the engine's softmmu misses from the TLB model, and else by a walk of the guest's tables,
and carries out what drops translations: INVLPG, INVPCID, loads of CR0, CR3 and CR4, page faults.
The softmmu (softmmu.py) is a cache of the model and never holds what the model does not. A `Translator` (translator.py) can
answer for some pages in the TLB's place. INVPCID and loads of control registers are in invalidation.py,
fills and evictions that no instruction asked for in speculation.py.

Not modelled: memory types, 32-bit and PAE paging (CR0.PG without long mode stops the machine).
"""

from __future__ import annotations

from typing import Final

from kstack.hw.engine import Engine, MmuIndex
from kstack.hw.instruments import Slot
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.moments import Cause, Drop, Fill, MmuHooks, Use
from kstack.hw.mmu.softmmu import Softmmu
from kstack.hw.mmu.state import MmuCounts, MmuState
from kstack.hw.mmu.tlb import StructureCaches, Tlb
from kstack.hw.mmu.tracking import FrameTracker
from kstack.hw.mmu.translator import Translator
from kstack.hw.mmu.walk import (
    Attempt,
    PagingControl,
    Refusal,
    TableEntry,
    Translation,
    Walk,
    WalkRules,
    denied,
    error_code,
    look,
    walk,
)
from kstack.hw.modes import Modes
from kstack.hw.rules import ALL, Rule
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE, is_canonical
from kstack.x86.control import Cr0, Cr3, Cr4, Efer
from kstack.x86.entries import FRAME_MASK, RW, US, A, D, P
from kstack.x86.vectors import GP, PF, UD

_MASK64: Final = (1 << 64) - 1
_ALL_RIGHTS: Final = RW | US
SINGLE_FLUSHES: Final = 64  # pages up to which dropping one by one beats refilling everything


class Mmu:
    """The MMU of one CPU.

    Args:
        cpu: its index.
        memory: the machine's RAM.
        tracker: the machine's code and table frames.
        modes: architecture modes.
        rules: the rules it obeys; tests take rules away.
        hooks: hear what it does.
    """

    def __init__(
        self,
        cpu: int,
        memory: PhysicalMemory,
        tracker: FrameTracker,
        modes: Modes,
        rules: frozenset[Rule] = ALL,
        hooks: MmuHooks | None = None,
    ) -> None:
        self.cpu = cpu
        self.hooks = hooks or MmuHooks()
        self._memory = memory
        self._tracker = tracker
        self.modes = modes
        self.rules = rules
        self.walk_rules = WalkRules(
            Rule.COMBINED_RIGHTS in rules, Rule.CACHE_NEEDS_ACCESSED in rules, Rule.LOCKED_AD_UPDATE in rules
        )
        self._any_pcid = Rule.PCID_TAGS not in rules
        self._survives = {Rule.CACHED_ENTRY_SURVIVES, Rule.NOT_PRESENT_SURVIVES} <= rules
        self._sets_again = not {Rule.ACCESSED_NOT_SET_AGAIN, Rule.DIRTY_NOT_SET_AGAIN} <= rules
        self.data = Tlb(modes.capacity)
        self.code = Tlb(modes.capacity)
        self.structures = StructureCaches()
        self._missing: set[int] = set()  # pages cached as not present: only a broken model has any
        self.decides_invlpg: Slot[[int], bool] = Slot()  # whether an INVLPG is carried out
        self.fault: Refusal | None = None
        self.walks = 0
        self._in_vain = 0  # walks of the last access that the engine was refused
        self.lost = 0
        self._taken_over: tuple[int, int, int, int] | None = None
        self.pcid = 0
        self.smap = False
        self._paging = False
        self._control = PagingControl(False, False, False)
        self._root = TableEntry(0, _ALL_RIGHTS)
        self.softmmu = Softmmu(self, memory, tracker, self.hooks)
        self.peers: list[Mmu] = [self]  # of all CPUs, which a broken model keeps coherent
        self.translator: Translator | None = None  # decides in the TLB's place, while exploring
        self.engine: Engine

    def attach(self, engine: Engine) -> None:
        """Serve this engine."""
        self.engine = self.softmmu.engine = engine
        self.update()

    def update(self) -> bool:
        """Take over CR0, CR3, CR4 and EFER after any of them changed; whether the tables are others now."""
        registers = self.engine.registers
        cr0, cr3, cr4 = registers.cr[0], registers.cr[3], registers.cr[4]
        if self._taken_over == (cr0, cr3, cr4, registers.efer):
            return False
        self._taken_over = (cr0, cr3, cr4, registers.efer)
        self._paging = bool(cr0 & Cr0.PG)
        self._control = PagingControl(bool(cr0 & Cr0.WP), bool(registers.efer & Efer.NXE), bool(cr4 & Cr4.SMEP))
        self.smap = bool(cr4 & Cr4.SMAP)
        self.pcid = cr3 & Cr3.PCID if cr4 & Cr4.PCIDE else 0
        root = TableEntry(cr3 & FRAME_MASK, _ALL_RIGHTS)
        if root == self._root:
            return False
        self._root = root
        self._tracker.generation += 1
        return True

    @property
    def table(self) -> int | None:
        """Physical address of the table that CR3 points to; None while paging is off."""
        return self._root.table if self._paging else None

    @property
    def memory(self) -> PhysicalMemory:
        """The machine's RAM."""
        return self._memory

    @property
    def control(self) -> PagingControl:
        """The control-register bits that rights depend on."""
        return self._control

    # --- the engine's misses

    def fill(self, address: int, access: Access, mmu: MmuIndex, probe: bool, location: int) -> bool:
        """Answer a softmmu miss; on a refusal `fault` says why."""
        self._in_vain = 0
        if not self._paging:
            identity = Translation(12, address >> 12, address & 0xFFFFF000, _ALL_RIGHTS, True, True, -1)
            return self._enter(address, access, mmu, identity, False, True)
        if not is_canonical(address):
            self.fault = Refusal(GP, 0, address)
            return False
        translator = self.translator
        if translator is not None and translator.stops_access(address, access):
            return False
        attempt = Attempt(
            access == Access.STORE, access == Access.FETCH, mmu == MmuIndex.USER, mmu == MmuIndex.KERNEL_SMAP
        )
        walks = self.walks
        found, cached = self._translate(address, attempt)
        if found is None:
            self._in_vain = self.walks - walks
            return False
        stale = False
        if cached and self.hooks.use.heard:
            stale = self._report_if_stale(address, access, found)
        if translator is not None:
            physical = found.frame + (address & (1 << found.shift) - 1)
            if self._memory.is_ram(physical) and not translator.accesses(address, physical, access):
                return False
            stale = stale or (access is not Access.FETCH and translator.is_visible(address))  # so that each comes back
        return self._enter(address, access, mmu, found, stale)

    def _enter(
        self, address: int, access: Access, mmu: MmuIndex, found: Translation, comes_back: bool, unpaged: bool = False
    ) -> bool:
        page = address & -PAGE
        physical = found.frame + (page & (1 << found.shift) - 1)
        if self._memory.is_ram(physical):
            self.softmmu.enter(address, access, mmu, found, comes_back, unpaged)
        elif access is Access.FETCH:
            self.fault = Refusal(UD, 0, address)  # a bus without an answer reads as 0xff 0xff: #UD
            return False
        else:
            self.softmmu.enter_device(page, physical, mmu)
        return True

    def untried(self) -> None:
        """The access that was refused last was a fetch for an instruction that is not to run yet: it will come again."""
        self.walks -= self._in_vain
        self._in_vain, self.fault = 0, None

    def _translate(self, address: int, attempt: Attempt) -> tuple[Translation | None, bool]:
        """The translation to use (and whether caches had a part in it), or None with `fault` set."""
        translator = self.translator
        if translator is not None and not attempt.fetch and translator.manages(address):
            return translator.translate(self, address, attempt), False
        tlb = self.code if attempt.fetch else self.data
        found = self._lookup(tlb, address)
        if found is not None:
            refused = denied(found, attempt, self._control)
            if refused and Rule.SPURIOUS_FAULT in self.rules:
                self.page_fault(address, attempt, True)
                return None, False
            if not refused and (not attempt.write or found.dirty):
                if not found.accessed:
                    self.set_accessed(found)
                if self._sets_again:
                    self._set_again(found, attempt.write)
                return found, True
            if not refused and (Rule.DIRTY_REWALK not in self.rules or self.modes.dirty_rewalk == "no"):
                self._set_dirty(found)
                return found, True
        if address >> 12 in self._missing:
            self.page_fault(address, attempt, False)
            return None, False
        result = self.walk(address, attempt)
        if result.error is not None:
            if Rule.NOT_PRESENT_NOT_CACHED not in self.rules and result.translation is None:
                self._missing.add(address >> 12)
            self.refuse_walk(address, result.error)
            return None, False
        assert result.translation is not None
        self._insert(tlb, address, result.translation)
        return result.translation, result.path[0][1] != 39

    def entry_of(self, address: int) -> int:
        """The leaf entry of a linear address as it is in memory, 0 where no table reaches it."""
        leaf = self.leaf_address(address)
        return 0 if leaf is None else self._memory.read64(leaf)

    def path(self, address: int) -> list[tuple[int, int]]:
        """The entries by which the tables reach linear `address`: physical address and level of each, from the top."""
        return walk(self._memory, self._root, 39, address, None, self._control).path

    def page_fault(self, address: int, attempt: Attempt, present: bool) -> None:
        """The access is refused with a page fault."""
        self.refuse_walk(address, error_code(present, attempt, self._control))

    def refuse_walk(self, address: int, error: int) -> None:
        """The same, with the error code that a walk has found."""
        self.fault = Refusal(PF, error, address)

    def _lookup(self, tlb: Tlb, address: int) -> Translation | None:
        found = tlb.lookup(address, self.pcid, self._any_pcid)
        if found is None or self._survives:
            return found
        if Rule.CACHED_ENTRY_SURVIVES not in self.rules:
            return found if found.same_target(self.peek(address)) else None
        return found if self.peek(address) is not None else None

    def _set_again(self, found: Translation, write: bool) -> None:
        """What only a broken model does at each use of a cached entry: set A and D in its leaf."""
        bits = 0 if Rule.ACCESSED_NOT_SET_AGAIN in self.rules else A
        bits |= D if write and Rule.DIRTY_NOT_SET_AGAIN not in self.rules else 0
        if bits:
            self._memory.write64_quietly(found.leaf, self._memory.read64(found.leaf) | bits)

    def set_accessed(self, found: Translation) -> None:
        """An access through an entry cached with A=0 sets A, if the leaf still maps the frame (mode)."""
        found.accessed = True
        self.data.changed()
        self.code.changed()
        entry = self._memory.read64(found.leaf)
        if entry & P and entry & FRAME_MASK & -(1 << found.shift) == found.frame:
            self._memory.exchange_quietly(found.leaf, entry, entry | A)

    def _set_dirty(self, found: Translation) -> None:
        if Rule.D_SET_THROUGH_CACHE in self.rules:
            while True:
                entry = self._memory.read64(found.leaf)
                if self._memory.exchange_quietly(found.leaf, entry, entry | D):
                    break
        found.dirty = True
        self.data.changed()

    def walk(self, address: int, attempt: Attempt, rules: WalkRules | None = None) -> Walk:
        """Walk the tables for an access, from where the structure caches let it; no translation is cached.

        Args:
            address: linear.
            attempt: the access.
            rules: of a walk that no instruction asked for, where they differ (`speculation.rules_of`).
        """
        self.walks += 1
        start, shift = self._root, 39
        if Rule.STRUCTURE_CACHES in self.rules:
            cached = self.structures.lookup(address, self.pcid)
            if cached is not None:
                shift, start = cached[0] - 9, cached[1]
        result = walk(
            self._memory,
            start,
            shift,
            address,
            attempt,
            self._control,
            rules or self.walk_rules,
        )
        for where, level in result.path:
            self._tracker.add_table(where, level)
        for level, page, entry in result.tables:
            self.structures.insert(level, page, entry, self.pcid)
        return result

    def _insert(self, tlb: Tlb, address: int, found: Translation) -> None:
        self.cache(tlb, found)
        self.tell_fill(address, found)

    def tell_fill(self, address: int, found: Translation, speculative: bool = False) -> None:
        """A translation has been made by a walk."""
        if self.hooks.fill.heard:
            self.hooks.fill(Fill(self.cpu, address, found, speculative))

    def cache(self, tlb: Tlb, found: Translation) -> None:
        """Cache a translation in one of the TLBs."""
        serves_any = bool(self.engine.registers.cr[4] & Cr4.PGE) and Rule.GLOBAL_SERVES_ANY_PCID in self.rules
        as_global = found.is_global and serves_any
        self.forget(tlb.insert(found, self.pcid, as_global), Cause.REPLACED)

    def _report_if_stale(self, address: int, access: Access, found: Translation) -> bool:
        generation = self._tracker.generation
        if found.checked == generation or not is_canonical(address):
            return False
        current, _, _, path = walk(self._memory, self._root, 39, address, None, self._control)
        for where, level in path:  # a later store to one of these can make the translation stale
            self._tracker.add_table(where, level)
        self.softmmu.note(path[-1][0], address)
        if found.same_target(current):
            if current is not None and current.leaf == found.leaf:
                found.checked = generation
            return False
        self.hooks.use(Use(self.cpu, address, access, found, current))
        return True

    def tell_use(self, address: int, access: Access, found: Translation, current: Translation | None) -> None:
        """A translation is used, where the tables say another, or none."""
        if self.hooks.use.heard:
            self.hooks.use(Use(self.cpu, address, access, found, current))

    def peek(self, address: int) -> Translation | None:
        """What the tables say now for linear `address`: no caches, no rights, no side effects."""
        if not is_canonical(address):
            return None
        return look(self._memory, self._root.table, address, self._control)

    def leaf_address(self, address: int) -> int | None:
        """Physical address of the 4 KiB leaf entry for linear `address`, None where no table reaches it."""
        if not self._paging or not is_canonical(address):
            return None
        where, shift = walk(self._memory, self._root, 39, address, None, self._control).path[-1]
        return where if shift == 12 else None

    def resolve(self, address: int, fetch: bool = False) -> int | None:
        """The physical address that a load (or a fetch) would reach now, by cache or tables; no side effects."""
        if not self._paging:
            return address & 0xFFFFFFFF
        if not is_canonical(address):
            return None
        found = (self.code if fetch else self.data).lookup(address, self.pcid) or self.peek(address)
        return None if found is None else found.frame + (address & (1 << found.shift) - 1)

    def still_fetches(self, address: int) -> bool:
        """Whether code at linear `address` can be fetched with nothing to be told: it is cached here as in the softmmu."""
        if not self._paging or not self._survives or self._sets_again:
            return False
        found = self.code.lookup(address, self.pcid)
        return found is not None and self.softmmu.holds(found.leaf, address)

    # --- accesses that the CPU makes by itself (descriptor tables, event frames)

    def access(self, address: int, attempt: Attempt) -> int | None:
        """Translate one access of the CPU's own; its physical address, or None with `fault` set."""
        if not self._paging:
            return address & 0xFFFFFFFF
        if not is_canonical(address):
            self.fault = Refusal(GP, 0, address)
            return None
        found, cached = self._translate(address, attempt)
        if found is None:
            return None
        if cached and self.hooks.use.heard:
            self._report_if_stale(address, Access.STORE if attempt.write else Access.LOAD, found)
        return found.frame + (address & (1 << found.shift) - 1)

    # --- what drops translations

    def forget(self, dropped: list[Translation], cause: Cause) -> None:
        """These have left a TLB."""
        self._tell_drops(dropped, cause)
        self.softmmu.leave(dropped)

    def _tell_drops(self, dropped: list[Translation], cause: Cause) -> None:
        for entry in dropped if self.hooks.drop.heard else ():
            self.hooks.drop(Drop(self.cpu, entry.page << entry.shift & _MASK64, entry.frame, cause))

    def lose(self, dropped: list[Translation], cause: Cause) -> None:
        """Entries that were invalidated, not replaced or evicted."""
        self.lost += len(dropped)
        self.forget(dropped, cause)

    def take_fault(self) -> Refusal | None:
        """Why the last access was refused, to be delivered; a page fault drops what is cached of its page (SDM 4.10.4.1)."""
        fault, self.fault = self.fault, None
        if fault is not None and fault.vector == PF and Rule.FAULT_DROPS_PAGE in self.rules:
            for tlb in (self.data, self.code):
                self.lose(tlb.drop_page(fault.address, self.pcid, True), Cause.FAULT)
            self.structures.drop_path(fault.address, self.pcid)
        return fault

    def invlpg(self, address: int) -> None:
        """INVLPG (SDM 4.10.4.1): the page for this PCID and global ones; all structure caches of this PCID."""
        rules = self.rules
        if (decide := self.decides_invlpg.held) is not None and not decide(address):
            return
        self._invalidate_managed(address, Cause.INVLPG)
        for mmu in [self] if Rule.TLB_PER_CPU in rules else self.peers:
            for tlb in (mmu.data, mmu.code):
                pcid = mmu.pcid if Rule.INVLPG_PAGE in rules else None
                mmu.lose(tlb.drop_page(address, pcid, Rule.INVLPG_GLOBAL in rules), Cause.INVLPG)
            if Rule.INVLPG_STRUCTURE_CACHES in rules:
                mmu.structures.drop_pcid(mmu.pcid)
            mmu._missing.discard(address >> 12)

    def drop_own(self, address: int, pcid: int, cause: Cause) -> None:
        """Drop what is not global of one page of one PCID, and that PCID's structure caches."""
        self._invalidate_managed(address, cause, False)
        for tlb in (self.data, self.code):
            self.lose(tlb.drop_page(address, pcid, False), cause)
        self.structures.drop_pcid(pcid)

    def drop_address(self, address: int, pcid: int | None, globals_too: bool) -> None:
        """Drop one page of one PCID (None: of all), as a broadcast invalidation does."""
        self._invalidate_managed(address, Cause.BROADCAST, globals_too)
        for tlb in (self.data, self.code):
            for which in sorted(tlb.own) if pcid is None else [pcid]:
                self.lose(tlb.drop_page(address, which, False), Cause.BROADCAST)
            self.lose(tlb.drop_page(address, None, globals_too), Cause.BROADCAST)
        self.structures.drop_all()

    def _invalidate_managed(self, address: int, cause: Cause, globals_too: bool = True) -> None:
        """An invalidation of a page that the translator manages, if it does."""
        translator = self.translator
        if translator is not None and translator.manages(address):
            for frame in translator.invalidate(self, address, globals_too, bool(self.hooks.drop.heard)):
                self.hooks.drop(Drop(self.cpu, address & -PAGE, frame, cause))

    def _flush_managed(self, cause: Cause, globals_too: bool) -> None:
        """An invalidation of all managed pages, as long as there are no PCIDs to tell them apart by."""
        translator = self.translator
        if translator is None:
            return
        if not globals_too and self.engine.registers.cr[4] & Cr4.PCIDE:
            translator.refuse("flushes by PCID")
        for address in translator.cached():
            self._invalidate_managed(address, cause, globals_too)

    def drop_pcid(self, pcid: int, cause: Cause) -> None:
        """Drop all that is not global of one PCID."""
        self._flush_managed(cause, False)
        for tlb in (self.data, self.code):
            self.lose(tlb.drop_pcid(pcid), cause)
        if Rule.STRUCTURE_CACHES_NOT_GLOBAL in self.rules:
            self.structures.drop_pcid(pcid)
        self._missing.clear()

    def drop_all(self, globals_too: bool, cause: Cause = Cause.RESET) -> None:
        """Drop everything, or everything that is not global."""
        self._flush_managed(cause, globals_too)
        dropped = self.data.drop_all(globals_too) + self.code.drop_all(globals_too)
        self.lost += len(dropped)
        self._tell_drops(dropped, cause)
        if not globals_too and len(dropped) <= SINGLE_FLUSHES:
            self.softmmu.leave(dropped)
        else:
            self.softmmu.flush()
        if Rule.STRUCTURE_CACHES_NOT_GLOBAL in self.rules or globals_too:
            self.structures.drop_all()
        self._missing.clear()

    # --- snapshot

    def snapshot(self) -> MmuState:
        """The caches, immutable."""
        return MmuState(self.data.state(), self.code.state(), self.structures.state(), MmuCounts(self.walks, self.lost))

    def restore(self, state: MmuState) -> None:
        """Become what `snapshot` returned; the softmmu starts empty."""
        self.walks, self.lost = state.counts
        self.data.restore(state.data)
        self.code.restore(state.code)
        self.structures.restore(state.structures)
        self.fault = None
        self.softmmu.start_empty()
        self.update()
