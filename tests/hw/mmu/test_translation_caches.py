"""The translation caches obey SDM volume 3A, 4.8 and 4.10; each rule has a check that fails without it.

A page is moved from a frame that holds OLD to one that holds NEW by a store to its entry; which of
the two a load then gives says whether a cached translation was used.
"""

from __future__ import annotations

from typing import Final

from kstack.hw.mmu.broadcast import InvlpgbRax
from kstack.hw.mmu.mmu import Cr0, Cr4
from kstack.hw.mmu.speculation import evict, prefetch
from kstack.hw.mmu.walk import NX, PS, RW, US, A, Attempt, D, G, P, PagingControl, TableEntry, walk
from kstack.hw.modes import Modes
from kstack.hw.rules import Rule
from kstack.x86.registers import Gpr
from tests.support.long_mode import AREA, PLAIN, USER, LongModeGuest
from tests.support.rules import each_rule_of

OLD: Final = 0x01D
NEW: Final = 0x2E3
NEXT: Final = AREA + 4096
THIRD: Final = AREA + 8192
KEEP: Final = 1 << 63  # of MOV to CR3: drop nothing
RESERVED: Final = 1 << 51

INVLPG: Final = "invlpg [rbx]"
INVLPGB: Final = ".byte 0x0f, 0x01, 0xfe"
TLBSYNC: Final = ".byte 0x0f, 0x01, 0xff"


class MovablePage:
    """A page that can be moved from OLD to NEW under the nose of the caches."""

    def __init__(self, guest: LongModeGuest, address: int = AREA, flags: int = PLAIN, root: int | None = None) -> None:
        self.guest = guest
        self.address = address
        self.flags = flags
        self.old, self.new = guest.frame(OLD), guest.frame(NEW)
        self.leaf = guest.map(address, self.old, flags, root)

    def move(self, cpu: int = 0) -> None:
        """Let the entry point to NEW, by a store and nothing else."""
        assert self.guest.store(self.leaf, self.new | self.flags, cpu)

    def load(self, cpu: int = 0) -> int | None:
        """What a load gives: OLD, NEW, or None for a fault."""
        return self.guest.load(self.address, cpu)

    def entry(self) -> int:
        """The leaf entry in memory."""
        return self.guest.memory.read64(self.leaf)


def moved_page(guest: LongModeGuest, flags: int = PLAIN) -> MovablePage:
    """A page that is cached at OLD, but whose entry now says NEW."""
    page = MovablePage(guest, flags=flags)
    guest.run(INVLPG, rbx=AREA)
    assert page.load() == OLD
    page.move()
    return page


def second_table(guest: LongModeGuest, address: int, shift: int) -> None:
    """Let the entry for `address` at a level above 12 point to another path of tables, which maps it at NEW."""
    where = guest.entry(address, shift)
    kept = guest.memory.read64(where)
    guest.memory.write64(where, 0)
    guest.map(address, guest.frame(NEW))
    changed = guest.memory.read64(where)
    guest.memory.write64(where, kept)
    assert guest.store(where, changed)


def load_cr3(guest: LongModeGuest, root: int, pcid: int = 0, keep: bool = True) -> None:
    """MOV to CR3 on CPU 0."""
    guest.run("mov cr3, rax", rax=root | pcid | (KEEP if keep else 0))
    assert guest.vector() is None


def change_cr4(guest: LongModeGuest, turn_on: int = 0, turn_off: int = 0) -> None:
    """MOV to CR4 on CPU 0."""
    value = guest.machine.cpus[0].registers.cr[4]
    guest.run("mov cr4, rax", rax=value & ~turn_off | turn_on)
    assert guest.vector() is None


class FourPages:
    """Four translations, cached and then moved: two pages of PCID 1, one of PCID 2, a global one."""

    def __init__(self, rules: frozenset[Rule]) -> None:
        self.guest = guest = LongModeGuest(rules, cr4=Cr4.PCIDE)
        self.roots = {1: guest.root, 2: guest.space()}
        self.pages = {
            "first of 1": (1, MovablePage(guest, AREA, root=self.roots[1])),
            "next of 1": (1, MovablePage(guest, NEXT, root=self.roots[1])),
            "first of 2": (2, MovablePage(guest, AREA, root=self.roots[2])),
            "global": (1, MovablePage(guest, THIRD, PLAIN | G, root=self.roots[1])),
        }
        for pcid, page in self.pages.values():
            load_cr3(guest, self.roots[pcid], pcid)
            assert page.load() == OLD
        for _, page in self.pages.values():
            page.move()
        load_cr3(guest, self.roots[1], 1)

    def survivors(self) -> set[str]:
        """Whose cached translation is still in use."""
        alive = set()
        for name, (pcid, page) in self.pages.items():
            load_cr3(self.guest, self.roots[pcid], pcid)
            if page.load() == OLD:
                alive.add(name)
        return alive

    def invpcid(self, kind: int, pcid: int = 0, address: int = 0) -> set[str]:
        """INVPCID, and who survives it."""
        descriptor = self.guest.frame(pcid)
        self.guest.memory.write64(descriptor + 8, address)
        self.guest.run("invpcid rax, [rbx]", rax=kind, rbx=descriptor)
        assert self.guest.vector() is None
        return self.survivors()


# --- what may be cached (4.10.2)


def check_cache_needs_accessed(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.map(AREA, guest.frame(OLD), P | RW)
    entries = [guest.entry(AREA, shift) for shift in (39, 30, 21, 12)]
    for where in entries:
        guest.memory.write64(where, guest.memory.read64(where) & ~A)
    assert guest.load(AREA) == OLD
    assert all(guest.memory.read64(where) & A for where in entries)


def check_speculative_fill(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = MovablePage(guest, flags=P | RW)
    prefetch(guest.machine.cpus[0].mmu, AREA)
    assert page.entry() & A, "set for an access that never happens"
    page.move()
    assert page.load() == OLD


def check_cached_entry_survives(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = moved_page(guest)
    assert [page.load() for _ in range(3)] == [OLD] * 3
    assert guest.store(page.leaf, 0)
    page.move()
    assert page.load() == OLD, "P 1 to 0 to 1: the first change was not invalidated (4.10.4.3, footnote 1)"


def check_not_present_survives(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = MovablePage(guest)
    assert page.load() == OLD
    assert guest.store(page.leaf, 0)
    guest.run("mov rcx, 300\n.Lwait: dec rcx\njnz .Lwait")
    assert page.load() == OLD
    assert guest.store(AREA, 5), "a write, too: D was set"
    assert guest.memory.read64(page.old) == 5


def check_combined_rights(rules: frozenset[Rule]) -> None:
    for shift in (39, 30, 21):
        guest = LongModeGuest(rules)
        page = MovablePage(guest, flags=USER)
        where = guest.entry(AREA, shift)
        whole = guest.memory.read64(where)
        for entry, attempt in (
            (whole & ~RW, "mov [rbx], rcx"),
            (whole & ~US, "mov rax, [rbx]"),
            (whole | NX, "jmp rbx"),
        ):
            guest.memory.write64(where, entry)
            guest.run(INVLPG, rbx=AREA)
            guest.run_user(attempt, rbx=AREA)
            assert guest.vector() == 14, (shift, attempt)
            guest.memory.write64(where, whole)
            guest.run(INVLPG, rbx=AREA)
        assert page.load() == OLD


# --- paging-structure caches (4.10.3)


def check_structure_caches(rules: frozenset[Rule]) -> None:
    for shift in (21, 30, 39):
        guest = LongModeGuest(rules)
        MovablePage(guest, AREA)
        sibling = AREA + (1 << shift - 9)
        MovablePage(guest, sibling)
        assert guest.load(AREA) == OLD
        second_table(guest, sibling, shift)
        assert guest.load(sibling) == OLD, f"through the cached entry of level {shift}"
    guest = LongModeGuest(rules)
    guest.entry(AREA)
    assert not prefetch(guest.machine.cpus[0].mmu, AREA), "no leaf, so no translation"
    second_table(guest, AREA, 21)
    assert guest.load(AREA) is None, "filled even where no leaf exists"
    pages = FourPages(rules)
    second_table(pages.guest, NEXT, 21)
    load_cr3(pages.guest, pages.roots[2], 2)
    pages.guest.map(NEXT, pages.guest.frame(7), root=pages.roots[2])
    assert pages.guest.load(NEXT) == 7, "PCID 1's entries do not serve PCID 2"


def check_structure_caches_not_global(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    MovablePage(guest, AREA, PLAIN | G)
    MovablePage(guest, NEXT, PLAIN | G)
    assert guest.load(AREA) == OLD
    second_table(guest, NEXT, 21)
    load_cr3(guest, guest.root, keep=False)
    assert guest.load(NEXT) == NEW, "they went with MOV CR3, though the pages are global"
    assert guest.load(AREA) == OLD


# --- global pages and PCIDs (4.10.1, 4.10.2.4)


def check_global_serves_any_pcid(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules, cr4=Cr4.PCIDE)
    page = moved_page(guest, PLAIN | G)
    load_cr3(guest, guest.root, 5)
    assert page.load() == OLD


def check_pcid_tags(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules, cr4=Cr4.PCIDE)
    other = guest.space()
    guest.map(AREA, guest.frame(OLD))
    guest.map(AREA, guest.frame(NEW), root=other)
    for _ in range(2):
        load_cr3(guest, guest.root, 1)
        assert guest.load(AREA) == OLD
        load_cr3(guest, other, 2)
        assert guest.load(AREA) == NEW


# --- invalidation (4.10.4.1)


def check_invlpg_page(rules: frozenset[Rule]) -> None:
    pages = FourPages(rules)
    pages.guest.run(INVLPG, rbx=AREA + 0xABC)
    assert pages.survivors() == {"next of 1", "first of 2", "global"}


def check_invlpg_global(rules: frozenset[Rule]) -> None:
    pages = FourPages(rules)
    load_cr3(pages.guest, pages.roots[1], 9)
    pages.guest.run(INVLPG, rbx=THIRD)
    assert pages.survivors() == {"first of 1", "next of 1", "first of 2"}


def check_invlpg_structure_caches(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    MovablePage(guest, AREA)
    MovablePage(guest, NEXT)
    assert guest.load(AREA) == OLD
    second_table(guest, NEXT, 21)
    guest.run(INVLPG, rbx=AREA + (5 << 30))
    assert guest.load(NEXT) == NEW, "whatever the address of the INVLPG"
    assert guest.load(AREA) == OLD


def check_invpcid_address(rules: frozenset[Rule]) -> None:
    assert FourPages(rules).invpcid(0, 1, AREA) == {"next of 1", "first of 2", "global"}
    assert FourPages(rules).invpcid(0, 2, AREA) == {"first of 1", "next of 1", "global"}
    assert "global" in FourPages(rules).invpcid(0, 1, THIRD)


def check_invpcid_context(rules: frozenset[Rule]) -> None:
    assert FourPages(rules).invpcid(1, 1) == {"first of 2", "global"}
    assert FourPages(rules).invpcid(1, 2) == {"first of 1", "next of 1", "global"}


def check_invpcid_all_global(rules: frozenset[Rule]) -> None:
    assert FourPages(rules).invpcid(2) == set()


def check_invpcid_all(rules: frozenset[Rule]) -> None:
    assert FourPages(rules).invpcid(3) == {"global"}


def check_cr3_flush(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    own, shared = MovablePage(guest, AREA), MovablePage(guest, NEXT, PLAIN | G)
    assert (own.load(), shared.load()) == (OLD, OLD)
    own.move()
    shared.move()
    load_cr3(guest, guest.root, keep=False)
    assert (own.load(), shared.load()) == (NEW, OLD)


def check_cr3_flush_pcid(rules: frozenset[Rule]) -> None:
    pages = FourPages(rules)
    load_cr3(pages.guest, pages.roots[1], 1, keep=False)
    assert pages.survivors() == {"first of 2", "global"}
    pages = FourPages(rules)
    load_cr3(pages.guest, pages.roots[2], 2, keep=False)
    assert pages.survivors() == {"first of 1", "next of 1", "global"}


def check_cr3_noflush(rules: frozenset[Rule]) -> None:
    pages = FourPages(rules)
    load_cr3(pages.guest, pages.roots[1], 1)
    assert pages.survivors() == set(pages.pages)


def check_cr4_pge_flush(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    own, shared = MovablePage(guest, AREA), MovablePage(guest, NEXT, PLAIN | G)
    assert (own.load(), shared.load()) == (OLD, OLD)
    own.move()
    shared.move()
    change_cr4(guest, turn_off=Cr4.PGE)
    assert (own.load(), shared.load()) == (NEW, NEW)
    assert guest.store(own.leaf, own.old | PLAIN)
    change_cr4(guest, turn_on=Cr4.PGE)
    assert own.load() == OLD


def check_cr4_pcide_flush(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules, cr4=Cr4.PCIDE)
    own = moved_page(guest)
    change_cr4(guest, turn_off=Cr4.PCIDE)
    assert own.load() == NEW
    own = moved_page(guest)
    change_cr4(guest, turn_on=Cr4.PCIDE)
    assert own.load() == OLD, "0 to 1 drops nothing"


def check_cr4_smep_flush(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = moved_page(guest)
    change_cr4(guest, turn_on=Cr4.SMEP)
    assert page.load() == NEW
    page = moved_page(guest)
    change_cr4(guest, turn_off=Cr4.SMEP)
    assert page.load() == OLD, "1 to 0 drops nothing"


def check_cr0_pg_flush(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = moved_page(guest, PLAIN | G)
    back = guest.kernel_code("hlt")
    compatibility = guest.kernel_code(
        f"""
        mov eax, cr0
        and eax, {~int(Cr0.PG) & 0xFFFFFFFF:#x}
        mov cr0, eax
        or eax, {int(Cr0.PG):#x}
        mov cr0, eax
        push 8
        push {back:#x}
        .byte 0xcb # retf: to 64-bit code
        """,
        bits=32,
    )
    guest.run(f"push 0x10\npush {compatibility:#x}\nretfq")
    assert guest.vector() is None
    assert page.load() == NEW


def check_fault_drops_page(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = MovablePage(guest, flags=PLAIN & ~RW)
    assert page.load() == OLD
    assert guest.store(page.leaf, page.old | PLAIN)
    assert [guest.store(AREA, NEW) for _ in range(3)] == [False, True, True]
    directory = guest.entry(AREA, 21)
    whole = guest.memory.read64(directory)
    MovablePage(guest, NEXT)
    assert guest.store(directory, whole | NX)
    guest.run(INVLPG, rbx=AREA)
    assert guest.load(AREA) == NEW
    assert guest.store(directory, whole)
    guest.memory.write(page.old + 8, b"\xf4")
    faults = []
    for _ in range(3):
        guest.run("jmp rbx", rbx=AREA + 8)
        faults.append(guest.vector())
    assert faults == [14, None, None], "the structure-cache entries used went, too"


# --- delayed invalidation (4.10.4.3, 4.10.4.4)


def check_spurious_fault(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    again = guest.kernel_code("add rsp, 8\niretq")
    guest.gate(14, again)
    page = MovablePage(guest, flags=PLAIN & ~RW)
    assert page.load() == OLD
    assert guest.store(page.leaf, page.old | USER & ~RW)
    assert guest.run_user("mov rax, [rbx]", rbx=AREA) == OLD
    assert guest.faults() == 1, "U/S 0 to 1"
    assert guest.store(page.leaf, page.old | PLAIN)
    guest.run("mov [rbx], rcx\nmov [rbx + 8], rcx", rbx=AREA, rcx=NEW)
    assert guest.faults() == 1, "R/W 0 to 1"
    assert page.load() == NEW


def check_not_present_not_cached(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = MovablePage(guest)
    for entry in (0, page.old | PLAIN | RESERVED):
        guest.memory.write64(page.leaf, entry)
        guest.run(INVLPG, rbx=AREA)
        assert page.load() is None
        assert guest.store(page.leaf, page.old | PLAIN)
        assert page.load() == OLD
    directory = guest.entry(AREA + (1 << 21), 21)
    assert guest.load(AREA + (1 << 21)) is None
    assert guest.store(directory, guest.frame(6) | PLAIN & ~D)
    assert guest.load(AREA + (1 << 21)) is None, "the frame is no table: its first word is not present"
    assert guest.store(directory, 0 | PLAIN | PS)
    assert guest.load(AREA + (1 << 21)) == 0, "a large page at 0"


def check_accessed_not_set_again(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = MovablePage(guest)
    assert page.load() == OLD
    assert guest.store(page.leaf, page.old | PLAIN & ~A)
    assert page.load() == OLD
    assert not page.entry() & A
    guest.run(INVLPG, rbx=AREA)
    assert page.load() == OLD
    assert page.entry() & A


def check_dirty_not_set_again(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = MovablePage(guest)
    assert guest.store(AREA, 1)
    assert guest.store(page.leaf, page.old | PLAIN & ~D)
    assert guest.store(AREA, 2)
    assert not page.entry() & D
    guest.run(INVLPG, rbx=AREA)
    assert guest.store(AREA, 3)
    assert page.entry() & D


# --- A and D (4.8)


def check_d_set_through_cache(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules, modes=Modes(dirty_rewalk="no"))
    page = MovablePage(guest, flags=PLAIN & ~D)
    assert page.load() == OLD
    assert not page.entry() & D
    assert guest.store(AREA, NEW)
    assert page.entry() & D


def check_dirty_rewalk(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    page = MovablePage(guest, flags=PLAIN & ~D)
    assert page.load() == OLD
    assert guest.store(page.leaf, 0)
    assert page.load() == OLD
    assert not guest.store(AREA, 5), "the write walks again, and finds nothing"
    guest.memory.write64(page.leaf, page.old | PLAIN & ~D)
    assert page.load() == OLD
    page.move()
    assert guest.store(AREA, 5)
    assert (guest.memory.read64(page.old), guest.memory.read64(page.new)) == (OLD, 5)


class Contended:
    """Memory in which another CPU's LOCK CMPXCHG on a word comes between a walker's read and its update."""

    def __init__(self, where: int, entry: int, then: int) -> None:
        self.words = {where: entry}
        self._where = where
        self._then: int | None = then

    def _interfere(self) -> None:
        if self._then is not None:
            self.words[self._where], self._then = self._then, None

    def read64(self, address: int) -> int:
        return self.words[address]

    def exchange_quietly(self, address: int, expected: int, value: int) -> bool:
        self._interfere()
        if self.words[address] != expected:
            return False
        self.words[address] = value
        return True

    def write64_quietly(self, address: int, value: int) -> None:
        self._interfere()
        self.words[address] = value


def check_locked_ad_update(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)  # its MMU says how a model with these rules walks
    how = guest.machine.cpus[0].mmu.walk_rules
    entry = 0x5000 | P | RW
    for attempt in (Attempt(False, False, False), Attempt(True, False, False)):
        memory = Contended(0x3000, entry, then=0)
        found = walk(memory, TableEntry(0x3000, RW | US), 12, 0, attempt, PagingControl(True, True, False), how)
        assert memory.words == {0x3000: 0}, "the entry that was taken away stays away"
        assert found.translation is None
    page = MovablePage(guest, flags=P | RW)
    seen = page.entry()
    assert page.load() == OLD
    guest.run("lock cmpxchg [rbx], rcx", rax=seen, rbx=page.leaf, rcx=0)
    assert page.entry() == seen | A, "a compare-and-exchange cannot miss that A was set"
    assert guest.store(page.leaf, seen)
    assert page.entry() == seen, "a plain store overwrites it"


# --- several CPUs (4.10.5, AMD)


def two_cpus(rules: frozenset[Rule], flags: int = PLAIN) -> tuple[LongModeGuest, MovablePage]:
    """A page that both CPUs have cached at OLD, and that is at NEW now."""
    guest = LongModeGuest(rules, cpus=2)
    page = MovablePage(guest, flags=flags)
    assert (page.load(0), page.load(1)) == (OLD, OLD)
    page.move()
    return guest, page


def check_tlb_per_cpu(rules: frozenset[Rule]) -> None:
    guest, page = two_cpus(rules)
    guest.run(INVLPG, rbx=AREA)
    assert (page.load(0), page.load(1)) == (NEW, OLD), "neither page nor frame is free yet"
    guest.run(INVLPG, 1, rbx=AREA)
    assert page.load(1) == NEW


def check_broadcast_invlpgb(rules: frozenset[Rule]) -> None:
    guest, page = two_cpus(rules)
    guest.run(f"{INVLPGB}\n{TLBSYNC}", rax=AREA | InvlpgbRax.VA_VALID, rcx=0, rdx=0)
    assert guest.vector() is None
    assert (page.load(0), page.load(1)) == (NEW, NEW)


def check_invlpgb_global_flag(rules: frozenset[Rule]) -> None:
    guest, page = two_cpus(rules, PLAIN | G)
    guest.run(f"{INVLPGB}\n{TLBSYNC}", rax=AREA | InvlpgbRax.VA_VALID, rcx=0, rdx=0)
    assert (page.load(0), page.load(1)) == (OLD, OLD)
    guest.run(f"{INVLPGB}\n{TLBSYNC}", rax=AREA | InvlpgbRax.VA_VALID | InvlpgbRax.INCLUDE_GLOBAL, rcx=0, rdx=0)
    assert (page.load(0), page.load(1)) == (NEW, NEW)


def check_tlbsync_waits(rules: frozenset[Rule]) -> None:
    guest, page = two_cpus(rules)
    guest.run(INVLPGB, rax=AREA | InvlpgbRax.VA_VALID, rcx=0, rdx=0)
    assert page.load(1) == OLD
    guest.run(TLBSYNC, 1)
    assert page.load(1) == OLD, "TLBSYNC waits for the broadcasts of its own CPU"
    guest.run(TLBSYNC, 0)
    assert page.load(1) == NEW


test_rule_holds, test_the_rules_check_fails_without_the_rule = each_rule_of(globals())


def test_with_dirty_rewalk_no_a_write_goes_to_the_stale_frame() -> None:
    guest = LongModeGuest(modes=Modes(dirty_rewalk="no"))
    page = moved_page(guest, PLAIN & ~D)
    assert guest.store(AREA, 5)
    assert (guest.memory.read64(page.old), guest.memory.read64(page.new)) == (5, NEW)
    assert page.entry() & D, "D is set in the entry as it is now"


def test_the_guest_reads_an_entry_whose_accessed_bit_its_own_walk_set() -> None:
    guest = LongModeGuest()
    page = MovablePage(guest, flags=P | RW)
    guest.run("mov rax, [rbx]\nmov rdx, [rcx]", rbx=AREA, rcx=page.leaf)
    assert guest.gpr(Gpr.RDX) == page.old | P | RW | A


def test_an_invalidated_entry_is_counted_as_lost_and_an_evicted_or_missing_one_is_not() -> None:
    guest = LongModeGuest()
    page, mmu = MovablePage(guest), guest.machine.cpus[0].mmu
    losses = []
    for prepare in (page.load, lambda: None, lambda: (page.load(), evict(mmu, AREA))):
        prepare()
        before = mmu.lost
        guest.run(INVLPG, rbx=AREA)
        losses.append(mmu.lost - before)
    assert losses == [1, 0, 0]
    page.load()
    before, cached = mmu.lost, len(mmu.data.entries()) + len(mmu.code.entries())
    mmu.drop_all(True)
    assert mmu.lost - before == cached >= 1
