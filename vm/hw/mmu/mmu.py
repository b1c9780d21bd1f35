"""One CPU's memory management unit: SDM volume 3, chapter 4.

It answers the engine's softmmu misses from the TLB model, and else by a walk of the guest's tables,
and carries out what drops translations: INVLPG, INVPCID, loads of CR0, CR3 and CR4, page faults.
The softmmu is a cache of the model and never holds what the model does not.

Three kinds of page are entered so that accesses come back here: a stale translation and MMIO (each
access), a frame of page tables or of other CPUs' code (each store).

Not modelled: memory types, 32-bit and PAE paging (CR0.PG without long mode stops the machine).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kstack.hw.engine import Access, Engine, MmuIndex
from kstack.hw.gate import Gate
from kstack.hw.lazy import How, Option
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.moments import Cause, Drop, Fill, MmuHooks, Use
from kstack.hw.mmu.tlb import StructureCaches, Tlb
from kstack.hw.mmu.tracking import FrameTracker
from kstack.hw.mmu.walk import (
    FRAME_MASK,
    NX,
    RW,
    US,
    A,
    Attempt,
    Control,
    D,
    G,
    P,
    TableEntry,
    Translation,
    Walk,
    WalkRules,
    denied,
    error_code,
    is_canonical,
    look,
    walk,
)
from kstack.hw.modes import Modes
from kstack.hw.rules import ALL, Rule

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4
WRITES_RETURN: Final = 0x40
_MASK64: Final = (1 << 64) - 1
_ALL_RIGHTS: Final = RW | US
STORES_KEPT: Final = 256  # stores to executed code remembered one by one
SINGLE_FLUSHES: Final = 64  # pages up to which dropping one by one beats refilling everything


class Cr0(enum.IntFlag):
    """CR0 (SDM 2.5)."""

    PE = 1 << 0
    MP = 1 << 1
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4
    NE = 1 << 5
    WP = 1 << 16
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31


class Cr4(enum.IntFlag):
    """CR4 (SDM 2.5)."""

    DE = 1 << 3
    PSE = 1 << 4
    PAE = 1 << 5
    PGE = 1 << 7
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10
    FSGSBASE = 1 << 16
    PCIDE = 1 << 17
    SMEP = 1 << 20
    SMAP = 1 << 21
    FRED = 1 << 32


class Efer(enum.IntFlag):
    """IA32_EFER (SDM 2.2.1)."""

    SCE = 1 << 0
    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11


PAGE_FAULT: Final = 14


class Fault(NamedTuple):
    """Why a translation was refused: the exception to deliver."""

    vector: int
    error: int
    address: int


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
        self._hooks = hooks or MmuHooks()
        self._memory = memory
        self._tracker = tracker
        self.modes = modes
        self.rules = rules
        self._walk_rules = WalkRules(
            Rule.COMBINED_RIGHTS in rules, Rule.CACHE_NEEDS_ACCESSED in rules, Rule.LOCKED_AD_UPDATE in rules
        )
        self._any_pcid = Rule.PCID_TAGS not in rules
        self._survives = {Rule.CACHED_ENTRY_SURVIVES, Rule.NOT_PRESENT_SURVIVES} <= rules
        self._sets_again = not {Rule.ACCESSED_NOT_SET_AGAIN, Rule.DIRTY_NOT_SET_AGAIN} <= rules
        self.data = Tlb(modes.capacity)
        self.code = Tlb(modes.capacity)
        self.structures = StructureCaches()
        self._missing: set[int] = set()  # pages cached as not present: only a broken model has any
        self.on_invlpg: Callable[[int], bool] | None = None  # asked whether an INVLPG is carried out
        self.fault: Fault | None = None
        self.walks = 0
        self._in_vain = 0  # walks of the last access that the engine was refused
        self.lost = 0
        self._taken_over: tuple[int, int, int, int] | None = None
        self.pcid = 0
        self.smap = False
        self._paging = False
        self._control = Control(False, False, False)
        self._root = TableEntry(0, _ALL_RIGHTS)
        self._entered: dict[int, set[int]] = {}  # leaf address -> pages in the softmmu
        self._watched: frozenset[int] = frozenset()  # pages of which each access is to come back
        self.stored_code: set[tuple[int, int]] = set()
        self.gate: Gate | None = None  # stops at visible operations, while exploring
        self.engine: Engine
        tracker.mmus.append(self)

    def attach(self, engine: Engine) -> None:
        """Serve this engine."""
        self.engine = engine
        self.update()

    def update(self) -> None:
        """Take over CR0, CR3, CR4 and EFER after any of them changed."""
        registers = self.engine.registers
        cr0, cr3, cr4 = registers.cr[0], registers.cr[3], registers.cr[4]
        if self._taken_over == (cr0, cr3, cr4, registers.efer):
            return
        self._taken_over = (cr0, cr3, cr4, registers.efer)
        self._paging = bool(cr0 & Cr0.PG)
        self._control = Control(bool(cr0 & Cr0.WP), bool(registers.efer & Efer.NXE), bool(cr4 & Cr4.SMEP))
        self.smap = bool(cr4 & Cr4.SMAP)
        self.pcid = cr3 & 0xFFF if cr4 & Cr4.PCIDE else 0
        root = TableEntry(cr3 & FRAME_MASK, _ALL_RIGHTS)
        if root != self._root:
            self._root = root
            self._tracker.generation += 1

    @property
    def table(self) -> int | None:
        """Physical address of the table that CR3 points to; None while paging is off."""
        return self._root.table if self._paging else None

    @property
    def memory(self) -> PhysicalMemory:
        """The machine's RAM."""
        return self._memory

    @property
    def control(self) -> Control:
        """The control-register bits that rights depend on."""
        return self._control

    # --- the engine's misses

    def fill(self, address: int, access: Access, mmu: MmuIndex, probe: bool, location: int) -> bool:
        """Answer a softmmu miss; on a refusal `fault` says why."""
        self._in_vain = 0
        if not self._paging:
            return self._enter_unpaged(address, access, mmu, location)
        if not is_canonical(address):
            self.fault = Fault(13, 0, address)
            return False
        gate = self.gate
        if gate is not None and gate.stops_access(address, access):
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
        if cached and self._hooks.use:
            stale = self._report_if_stale(address, access, found)
        if gate is not None:
            physical = found.frame + (address & (1 << found.shift) - 1)
            if self._memory.is_ram(physical) and not gate.accesses(address, physical, access):
                return False
            stale = stale or (access is not Access.FETCH and gate.is_visible(address))  # so that each comes back
        return self._enter(address, access, mmu, found, stale, location)

    def untried(self) -> None:
        """The access that was refused last was a fetch for an instruction that is not to run yet: it will come again."""
        self.walks -= self._in_vain
        self._in_vain, self.fault = 0, None

    def _translate(self, address: int, attempt: Attempt) -> tuple[Translation | None, bool]:
        """The translation to use (and whether caches had a part in it), or None with `fault` set."""
        gate = self.gate
        if gate is not None and not attempt.fetch and gate.lazy.manages(address):
            return self._translate_lazily(gate, address, attempt), False
        tlb = self.code if attempt.fetch else self.data
        found = self._lookup(tlb, address)
        if found is not None:
            refused = denied(found, attempt, self._control)
            if refused and Rule.SPURIOUS_FAULT in self.rules:
                self._page_fault(address, error_code(True, attempt, self._control))
                return None, False
            if not refused and (not attempt.write or found.dirty):
                if not found.accessed:
                    self._set_accessed(found)
                if self._sets_again:
                    self._set_again(found, attempt.write)
                return found, True
            if not refused and (Rule.DIRTY_REWALK not in self.rules or self.modes.dirty_rewalk == "no"):
                self._set_dirty(found)
                return found, True
        if address >> 12 in self._missing:
            self._page_fault(address, error_code(False, attempt, self._control))
            return None, False
        result = self._walk(address, attempt)
        if result.error is not None:
            if Rule.NOT_PRESENT_NOT_CACHED not in self.rules and result.translation is None:
                self._missing.add(address >> 12)
            self._page_fault(address, result.error)
            return None, False
        assert result.translation is not None
        self._insert(tlb, address, result.translation)
        return result.translation, result.path[0][1] != 39

    def _translate_lazily(self, gate: Gate, address: int, attempt: Attempt) -> Translation | None:
        """As the explorer has chosen: by the tables, or by an entry that may be cached (kstack.hw.lazy)."""
        page, option = address >> 12, gate.option or Option(How.WALK)
        if gate.writes:
            attempt = attempt._replace(write=True)
        if gate.option is not None and gate.option_page not in (page, -1):
            option = Option(How.WALK)
            if len(gate.lazy.options(self.cpu, page, self._entry_of(address), attempt.write, self.denies(attempt))) > 1:
                gate.refuse(f"reaches several managed pages in one instruction, {address:#x} the last")
                return None
        if option.how is How.REFUSED or (option.how is How.CACHED and self.denies(attempt)(option.value)):
            gate.lazy.invalidate(self.cpu, page, self._entry_of(address))
            self._page_fault(address, error_code(True, attempt, self._control))
            return None
        if option.how is How.CACHED and (option.value & D or not attempt.write):
            return self._translate_by(gate, address, attempt, option)
        result = self._walk(address, attempt)
        where = result.path[-1][0]
        entry = self._memory.read64(where) if result.path[-1][1] == 12 else 0
        if result.error is not None:
            gate.lazy.invalidate(self.cpu, page, entry)
            self._page_fault(address, result.error)
            return None
        gate.lazy.entry_is(page, entry)
        gate.lazy.took(self.cpu, page, Option(How.WALK), entry)
        if result.translation is not None:
            self._tell_fill(address, result.translation)
        return result.translation

    def _translate_by(self, gate: Gate, address: int, attempt: Attempt, option: Option) -> Translation:
        """By an entry of a managed page that is cached."""
        page, value, current = address >> 12, option.value, self.peek(address)
        path = walk(self._memory, self._root, 39, address, None, self._control).path
        leaf, rights = path[-1][0], value & (RW | US | NX)
        for where, _ in path[:-1]:
            upper = self._memory.read64(where)
            rights = rights & upper & (RW | US) | (rights | upper) & NX
        found = Translation(12, page, value & FRAME_MASK, rights, bool(value & D), bool(value & G), leaf)
        if not value & A:
            self._set_accessed(found)
            gate.lazy.entry_is(page, self._memory.read64(leaf))
        gate.lazy.took(self.cpu, page, option, self._memory.read64(leaf))
        if self._hooks.use and not found.same_target(current):
            access = Access.STORE if attempt.write else Access.LOAD
            self._hooks.use(Use(self.cpu, address, access, found, current))
        return found

    def _entry_of(self, address: int) -> int:
        """The leaf entry of a linear address as it is in memory, 0 where no table reaches it."""
        leaf = self.leaf_address(address)
        return 0 if leaf is None else self._memory.read64(leaf)

    def denies(self, attempt: Attempt) -> Callable[[int], bool]:
        """Whether the rights of a leaf entry forbid an access, whatever the upper levels say."""
        control = self._control

        def denied_by(entry: int) -> bool:
            leaf = Translation(12, 0, 0, entry & (RW | US | NX), bool(entry & D), False, 0)
            return denied(leaf, attempt, control)

        return denied_by

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

    def _set_accessed(self, found: Translation) -> None:
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

    def _walk(self, address: int, attempt: Attempt, rules: WalkRules | None = None) -> Walk:
        self.walks += 1
        start, shift = self._root, 39
        if Rule.STRUCTURE_CACHES in self.rules:
            cached = self.structures.lookup(address, self.pcid)
            if cached is not None:
                shift, start = cached[0] - 9, cached[1]
        result = walk(self._memory, start, shift, address, attempt, self._control, rules or self._walk_rules)
        for where, level in result.path:
            self._tracker.add_table(where, level)
        for level, page, entry in result.tables:
            self.structures.insert(level, page, entry, self.pcid)
        return result

    def _insert(self, tlb: Tlb, address: int, found: Translation) -> None:
        self._cache(tlb, found)
        self._tell_fill(address, found)

    def _tell_fill(self, address: int, found: Translation, speculative: bool = False) -> None:
        if self._hooks.fill:
            self._hooks.fill(Fill(self.cpu, address, found, speculative))

    def _cache(self, tlb: Tlb, found: Translation) -> None:
        as_global = (
            found.is_global
            and bool(self.engine.registers.cr[4] & Cr4.PGE)
            and Rule.GLOBAL_SERVES_ANY_PCID in self.rules
        )
        self._forget(tlb.insert(found, self.pcid, as_global), Cause.REPLACED)

    def _report_if_stale(self, address: int, access: Access, found: Translation) -> bool:
        generation = self._tracker.generation
        if found.checked == generation or not is_canonical(address):
            return False
        current, _, _, path = walk(self._memory, self._root, 39, address, None, self._control)
        for where, level in path:  # a later store to one of these can make the translation stale
            self._tracker.add_table(where, level)
        self._entered.setdefault(path[-1][0], set()).add(address & ~0xFFF)
        if found.same_target(current):
            if current is not None and current.leaf == found.leaf:
                found.checked = generation
            return False
        self._hooks.use(Use(self.cpu, address, access, found, current))
        return True

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
        return found is not None and address & ~0xFFF in self._entered.get(found.leaf, ())

    # --- accesses that the CPU makes by itself (descriptor tables, event frames)

    def access(self, address: int, attempt: Attempt) -> int | None:
        """Translate one access of the CPU's own; its physical address, or None with `fault` set."""
        if not self._paging:
            return address & 0xFFFFFFFF
        if not is_canonical(address):
            self.fault = Fault(13, 0, address)
            return None
        found, cached = self._translate(address, attempt)
        if found is None:
            return None
        if cached and self._hooks.use:
            self._report_if_stale(address, Access.STORE if attempt.write else Access.LOAD, found)
        return found.frame + (address & (1 << found.shift) - 1)

    def prefetch(self, address: int) -> bool:
        """A speculative fill that no instruction asked for (SDM 4.10.2.3); whether it cached anything."""
        if Rule.SPECULATIVE_FILL not in self.rules or not self._paging or not is_canonical(address):
            return False
        if self.modes.speculation == "none" or self.data.lookup(address, self.pcid) is not None:
            return False
        keeps = self.modes.speculation == "keeps-accessed-clear"
        result = self._walk(address, Attempt(False, False, False), self._walk_rules._replace(set_accessed=not keeps))
        found = result.translation
        if result.error is not None or found is None:
            return False
        found.accessed = bool(self._memory.read64(found.leaf) & A)
        self._cache(self.data, found)
        self._tell_fill(address, found, speculative=True)
        return True

    def evict(self, address: int) -> None:
        """Drop one page from the data TLB, as a CPU may at any time (SDM 4.10.2.2)."""
        self._forget(self.data.drop_page(address, self.pcid, True), Cause.EVICTION)

    # --- entering the softmmu

    def _enter_unpaged(self, address: int, access: Access, mmu: MmuIndex, location: int) -> bool:
        frame = address & 0xFFFFF000
        identity = Translation(12, address >> 12, frame, _ALL_RIGHTS, True, True, -1)
        return self._enter(address, access, mmu, identity, False, location, unpaged=True)

    def _enter(
        self,
        address: int,
        access: Access,
        mmu: MmuIndex,
        found: Translation,
        stale: bool,
        location: int,
        unpaged: bool = False,
    ) -> bool:
        page = address & ~0xFFF
        physical = found.frame + (page & (1 << found.shift) - 1)
        if not self._memory.is_ram(physical):
            if access == Access.FETCH:
                self.fault = Fault(6, 0, address)  # a bus without an answer reads as 0xff 0xff: #UD
                return False
            if self._hooks.enter:
                self._hooks.enter(self.cpu, page, physical)
            self.engine.enter(page, physical, READ | WRITE, mmu, 1)
            return True
        frame = physical >> 12
        if access == Access.STORE:
            self._memory.dirty.add(frame)
        elif access == Access.FETCH:
            self._tracker.add_code(frame, self.cpu)
        protection = self._protection(address, access, mmu, found, frame, unpaged)
        if access == Access.STORE:
            self._note_store(frame, physical | address & 0xFFF, bool(protection & EXECUTE))
        if stale and access == Access.FETCH:
            protection &= EXECUTE  # loads and stores through it come back
        size = 1 if (stale and access != Access.FETCH) or page in self._watched else 4096
        if self.gate is not None and self.gate.on_enter is not None:
            self.gate.on_enter(physical | address & 0xFFF, size == 1)
        if self._hooks.enter:
            self._hooks.enter(self.cpu, page, physical)
        self.engine.enter(page, physical, protection, mmu, size)
        self._entered.setdefault(found.leaf, set()).add(page)
        return True

    def _note_store(self, frame: int, physical: int, engine_sees_it: bool) -> None:
        """Tell the caches of tables and code of a store of at most 64 bytes that is about to happen.

        `engine_sees_it`: this CPU's engine itself drops the blocks that the store changes, which it
        does through an entry that is also executable.
        """
        tracker = self._tracker
        if frame not in tracker.tables and frame not in tracker.code:
            return
        tracker.store(physical, min(64, 4096 - (physical & 0xFFF)), self.cpu if engine_sees_it else -1)
        if self.stored_code:
            self.engine.ask_to_stop()

    def _protection(
        self, address: int, access: Access, mmu: MmuIndex, found: Translation, frame: int, unpaged: bool
    ) -> int:
        user, smap = mmu == MmuIndex.USER, mmu == MmuIndex.KERNEL_SMAP
        if unpaged:
            data: Translation | None = found
            code = found if self._tracker.executes(frame, self.cpu) or access == Access.FETCH else None
        else:
            data = found if access != Access.FETCH else self.data.lookup(address, self.pcid)
            code = found if access == Access.FETCH else self.code.lookup(address, self.pcid)
        protection = 0
        if code is not None and code.same_target(found) and not denied(code, Attempt(False, True, user), self._control):
            protection |= EXECUTE
        if (
            data is None
            or not data.same_target(found)
            or denied(data, Attempt(False, False, user, smap), self._control)
        ):
            return protection
        protection |= READ
        writable = data.dirty and frame in self._memory.dirty
        if writable and not denied(data, Attempt(True, False, user, smap), self._control):
            protection |= WRITE
            tracker = self._tracker
            aliased = tracker.executes(frame, self.cpu) and not protection & EXECUTE
            if frame in tracker.tables or aliased or tracker.others_execute(frame, self.cpu):
                protection |= WRITES_RETURN
        return protection

    # --- TrackedMmu

    def watch(self, pages: frozenset[int]) -> None:
        """Let each access to these pages come back here, by linear address."""
        self._watched = pages
        self.flush_softmmu()

    def flush_softmmu(self) -> None:
        """Empty the softmmu; the model keeps everything."""
        if self._entered:
            self.engine.flush()
            self._entered.clear()

    def forget_leaf(self, leaf: int) -> None:
        """The leaf entry at physical `leaf` is about to change: its pages must come back here."""
        for page in self._entered.pop(leaf, ()):
            self.engine.flush_page(page)

    def forget_table(self, frame: int) -> None:
        """The leaf entries in a frame (number) are others now."""
        for leaf in [leaf for leaf in self._entered if leaf >> 12 == frame]:
            self.forget_leaf(leaf)

    def code_stored(self, address: int, size: int) -> None:
        """Code that this CPU has executed is about to change."""
        if len(self.stored_code) < STORES_KEPT:
            self.stored_code.add((address, size))
        else:  # whole frames, of which there are only so many
            frames = {(start & ~0xFFF, 4096) for start, _ in self.stored_code}
            self.stored_code = {*frames, (address & ~0xFFF, 4096)}

    def _forget(self, dropped: list[Translation], cause: Cause) -> None:
        self._tell_drops(dropped, cause)
        self._leave(dropped)

    def _tell_drops(self, dropped: list[Translation], cause: Cause) -> None:
        for entry in dropped if self._hooks.drop else ():
            self._hooks.drop(Drop(self.cpu, entry.page << entry.shift & _MASK64, entry.frame, cause))

    def _leave(self, dropped: list[Translation]) -> None:
        """These have left the model, so they leave the softmmu."""
        for entry in dropped:
            if entry.shift == 12:
                self._flush_page(entry.leaf, entry.page << 12 & _MASK64)
            else:
                self.flush_softmmu()

    def _flush_page(self, leaf: int, page: int) -> None:
        pages = self._entered.get(leaf)
        if pages is not None:
            pages.discard(page)
        self.engine.flush_page(page)  # also where it was entered by another leaf with the same target

    # --- what drops translations

    def _each(self) -> list[Mmu]:
        """This MMU; every MMU where a broken model keeps the TLBs coherent."""
        if Rule.TLB_PER_CPU in self.rules:
            return [self]
        return [mmu for mmu in self._tracker.mmus if isinstance(mmu, Mmu)]

    def _lose(self, dropped: list[Translation], cause: Cause) -> None:
        """Entries that were invalidated, not replaced or evicted."""
        self.lost += len(dropped)
        self._forget(dropped, cause)

    def _page_fault(self, address: int, error: int) -> None:
        self.fault = Fault(PAGE_FAULT, error, address)

    def take_fault(self) -> Fault | None:
        """Why the last access was refused, to be delivered; a page fault drops what is cached of its page (SDM 4.10.4.1)."""
        fault, self.fault = self.fault, None
        if fault is not None and fault.vector == PAGE_FAULT and Rule.FAULT_DROPS_PAGE in self.rules:
            for tlb in (self.data, self.code):
                self._lose(tlb.drop_page(fault.address, self.pcid, True), Cause.FAULT)
            self.structures.drop_path(fault.address, self.pcid)
        return fault

    def invlpg(self, address: int) -> None:
        """INVLPG (SDM 4.10.4.1): the page for this PCID and global ones; all structure caches of this PCID."""
        rules = self.rules
        if self.on_invlpg is not None and not self.on_invlpg(address):
            return
        if self.gate is not None:
            self._invalidate_lazily(self.gate, address, Cause.INVLPG)
        for mmu in self._each():
            for tlb in (mmu.data, mmu.code):
                pcid = mmu.pcid if Rule.INVLPG_PAGE in rules else None
                mmu._lose(tlb.drop_page(address, pcid, Rule.INVLPG_GLOBAL in rules), Cause.INVLPG)
            if Rule.INVLPG_STRUCTURE_CACHES in rules:
                mmu.structures.drop_pcid(mmu.pcid)
            mmu._missing.discard(address >> 12)

    def invpcid(self, kind: int, pcid: int, address: int) -> None:
        """INVPCID types 0 to 3 (SDM 4.10.4.1)."""
        rules = self.rules
        if kind == 0 and Rule.INVPCID_ADDRESS in rules:
            if self.gate is not None:
                self._invalidate_lazily(self.gate, address, Cause.INVPCID, False)
            for tlb in (self.data, self.code):
                self._lose(tlb.drop_page(address, pcid, False), Cause.INVPCID)
            self.structures.drop_pcid(pcid)
        elif kind == 1 and Rule.INVPCID_CONTEXT in rules:
            self.drop_pcid(pcid, Cause.INVPCID)
        elif kind == 2 and Rule.INVPCID_ALL_GLOBAL in rules:
            self.drop_all(True, Cause.INVPCID)
        elif kind == 3 and Rule.INVPCID_ALL in rules:
            self.drop_all(False, Cause.INVPCID)

    def drop_address(self, address: int, pcid: int | None, globals_too: bool) -> None:
        """Drop one page of one PCID (None: of all), as a broadcast invalidation does."""
        if self.gate is not None:
            self._invalidate_lazily(self.gate, address, Cause.BROADCAST, globals_too)
        for tlb in (self.data, self.code):
            for which in sorted(tlb.own) if pcid is None else [pcid]:
                self._lose(tlb.drop_page(address, which, False), Cause.BROADCAST)
            self._lose(tlb.drop_page(address, None, globals_too), Cause.BROADCAST)
        self.structures.drop_all()

    def _invalidate_lazily(self, gate: Gate, address: int, cause: Cause, globals_too: bool = True) -> None:
        """An invalidation of a managed page on this CPU."""
        lazy = gate.lazy
        if lazy.manages(address):
            page = address >> 12
            for value in sorted(lazy.may.get((self.cpu, page), ())) if self._hooks.drop else ():
                if globals_too or not value & G:
                    self._hooks.drop(Drop(self.cpu, page << 12, value & FRAME_MASK, cause))
            invalidate = lazy.invalidate if globals_too else lazy.invalidate_own
            invalidate(self.cpu, page, self._entry_of(address))

    def _flush_lazily(self, gate: Gate, cause: Cause, globals_too: bool) -> None:
        """An invalidation of all managed pages on this CPU, as long as there are no PCIDs to tell them apart by."""
        if not globals_too and self.engine.registers.cr[4] & Cr4.PCIDE:
            gate.refuse("flushes by PCID")
        for cpu, page in sorted(gate.lazy.may):
            if cpu == self.cpu:
                self._invalidate_lazily(gate, page << 12, cause, globals_too)

    def drop_pcid(self, pcid: int, cause: Cause) -> None:
        """Drop all that is not global of one PCID."""
        if self.gate is not None:
            self._flush_lazily(self.gate, cause, False)
        for tlb in (self.data, self.code):
            self._lose(tlb.drop_pcid(pcid), cause)
        if Rule.STRUCTURE_CACHES_NOT_GLOBAL in self.rules:
            self.structures.drop_pcid(pcid)
        self._missing.clear()

    def drop_all(self, globals_too: bool, cause: Cause = Cause.RESET) -> None:
        """Drop everything, or everything that is not global."""
        if self.gate is not None:
            self._flush_lazily(self.gate, cause, globals_too)
        dropped = self.data.drop_all(globals_too) + self.code.drop_all(globals_too)
        self.lost += len(dropped)
        self._tell_drops(dropped, cause)
        if not globals_too and len(dropped) <= SINGLE_FLUSHES:
            self._leave(dropped)
        else:
            self.flush_softmmu()
        if Rule.STRUCTURE_CACHES_NOT_GLOBAL in self.rules or globals_too:
            self.structures.drop_all()
        self._missing.clear()

    def load_cr3(self, value: int) -> None:
        """MOV to CR3 (SDM 4.10.4.1); reserved bits have been checked."""
        registers, rules = self.engine.registers, self.rules
        with_pcid = bool(registers.cr[4] & Cr4.PCIDE)
        keep = with_pcid and bool(value >> 63)
        registers.cr[3] = value & (1 << 63) - 1
        old, old_root = self.pcid, self._root
        self.update()
        if keep:
            if Rule.CR3_NOFLUSH not in rules:
                self.drop_pcid(self.pcid, Cause.CR3)
        elif with_pcid:
            if Rule.CR3_FLUSH_PCID in rules:
                self.drop_pcid(self.pcid, Cause.CR3)
        elif Rule.CR3_FLUSH in rules:
            self.drop_all(False, Cause.CR3)
        watched = bool(self._hooks.use) and old_root != self._root  # what is kept may have become stale
        if old != self.pcid or watched:
            self.flush_softmmu()

    def load_cr0(self, value: int) -> None:
        """The translation half of MOV to CR0."""
        registers = self.engine.registers
        changed = registers.cr[0] ^ value
        registers.cr[0] = value
        registers.sync()
        self.update()
        if changed & (Cr0.PG | Cr0.WP | Cr0.PE):
            self.flush_softmmu()
            self.engine.flush()
        if changed & Cr0.PG and not value & Cr0.PG and Rule.CR0_PG_FLUSH in self.rules:
            self.drop_all(True, Cause.CONTROL)

    def load_cr4(self, value: int) -> None:
        """The translation half of MOV to CR4."""
        registers, rules = self.engine.registers, self.rules
        old = registers.cr[4]
        changed, cleared, turned_on = old ^ value, old & ~value, value & ~old
        registers.cr[4] = value
        registers.sync()
        self.update()
        if (changed & Cr4.PGE and Rule.CR4_PGE_FLUSH in rules) or (
            cleared & Cr4.PCIDE and Rule.CR4_PCIDE_FLUSH in rules
        ):
            self.drop_all(True, Cause.CONTROL)
        elif turned_on & Cr4.SMEP and Rule.CR4_SMEP_FLUSH in rules:
            self.drop_pcid(self.pcid, Cause.CONTROL)
        if changed & (Cr4.SMEP | Cr4.SMAP | Cr4.PGE | Cr4.PCIDE):
            self.flush_softmmu()

    # --- snapshot

    def snapshot(self) -> Any:
        """The caches, immutable."""
        return self.data.state(), self.code.state(), self.structures.state(), (self.walks, self.lost)

    def restore(self, state: Any) -> None:
        """Become what `snapshot` returned; the softmmu starts empty."""
        data, code, structures, (self.walks, self.lost) = state
        self.data.restore(data)
        self.code.restore(code)
        self.structures.restore(structures)
        self.fault = None
        self._entered.clear()
        self.engine.flush()
        self.update()
