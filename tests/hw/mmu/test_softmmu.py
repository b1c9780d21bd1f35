"""The engine's softmmu is a cache of the TLB model and never shows.

The same random operations (accesses, changes of entries by this CPU, another or a device,
invalidations, loads of control registers) on machines that differ in how long their softmmu keeps
entries end in the same state: registers, memory with all A and D, TLBs, number of walks.
"""

from __future__ import annotations

from random import Random
from typing import Final

import pytest

from kstack.hw.mmu import tracking
from kstack.hw.mmu.moments import Use
from kstack.hw.modes import Modes
from kstack.x86.access import Access
from kstack.x86.control import Cr0, Cr4
from kstack.x86.entries import NX, RW, A, D, G
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr
from tests.support.long_mode import AREA, PLAIN, USER, LongModeGuest

OPERATIONS: Final = 300
KEEP: Final = 1 << 63
PAGES: Final = (AREA, AREA + 4096, AREA + (1 << 21) + 4096)
ENTRIES: Final = (0, PLAIN, PLAIN, USER, PLAIN & ~RW, PLAIN & ~D, PLAIN & ~A & ~D, USER | NX, PLAIN | G, USER | G & ~D)
CODE: Final = {
    "load": "mov rax, [rbx]",
    "store": "mov [rbx], rcx",
    "add": "lock add [rbx], rcx",
    "fetch": "call rbx",
    "invlpg": "invlpg [rbx]",
    "invpcid": "invpcid rax, [rbx]",
    "cr0": "mov cr0, rax",
    "cr3": "mov cr3, rax",
    "cr4": "mov cr4, rax",
    "straddle": "mov rax, [rbx + 4092]",
}


class Watcher:
    """Wants to know of stale use, and so makes the MMU enter stale translations for one access each."""

    def __init__(self) -> None:
        self.stale: list[tuple[int, int, Access]] = []

    def on_use(self, moment: Use) -> None:
        if moment.access is not Access.FETCH:
            self.stale.append((moment.cpu, moment.address, moment.access))


class Bench:
    """Two CPUs, two address spaces, three pages, four frames."""

    def __init__(self, tlb: str, flush: bool, watch: bool) -> None:
        self.guest = guest = LongModeGuest(cpus=2, cr4=Cr4.PCIDE, modes=Modes(tlb=tlb))
        self.flush = flush
        self.watcher = Watcher()
        if watch:
            guest.machine.instruments.add(self.watcher)
        self.roots = (guest.root, guest.space())
        self.leaves = [guest.entry(page, root=root) for page in PAGES for root in self.roots]
        self.directories = [guest.entry(AREA, 21, root) for root in self.roots]
        self.tables = [guest.memory.read64(where) for where in self.directories]
        self.frames = [guest.frame() for _ in range(4)]
        for number, frame in enumerate(self.frames):
            guest.memory.write(frame, b"\xb8" + number.to_bytes(4, "little") + b"\xc3" + bytes(2))
        self.code = {name: guest.kernel_code(text + "\nhlt") for name, text in CODE.items()}
        self.user_code = {name: guest.user_code(CODE[name] + "\nint 0x80") for name in ("load", "store", "fetch")}
        self.descriptor = guest.frame()
        self.seen: list[tuple[str, int | None, int]] = []

    def _run(self, what: str, cpu: int = 0, user: bool = False, **gprs: int) -> None:
        guest = self.guest
        guest.privilege(cpu, 3 if user else 0)
        code = self.user_code[what] if user else self.code[what]
        guest.start(code, cpu, **({"rax": 0} | gprs))
        guest.until_halt(cpu)
        self.seen.append((what, guest.vector(cpu), guest.gpr(Gpr.RAX, cpu)))
        if self.flush:
            for each in guest.machine.cpus:
                each.mmu.softmmu.flush()
                each.engine.flush()

    def operate(self, random: Random) -> None:
        """One operation."""
        draw = random.randrange(100)
        if draw < 50:
            self._access(random)
        elif draw < 75:
            self._change_an_entry(random)
        elif draw < 87:
            self._invalidate(random)
        else:
            self._load_a_register(random)
        for cpu in self.guest.machine.cpus:
            for tlb in (cpu.mmu.data, cpu.mmu.code):
                kept = tlb.state()
                tlb.changed()
                assert tlb.state() == kept, "a TLB that remembers its state notices each change"

    def _access(self, random: Random) -> None:
        page, cpu = random.choice(PAGES), random.choice((0, 0, 0, 1))
        user = random.random() < 0.3
        what = random.choice(("load", "store", "fetch") if user else ("load", "store", "add", "fetch", "straddle"))
        offset = 0 if what in ("fetch", "straddle") else 8
        self._run(what, cpu, user, rbx=page + offset, rcx=random.getrandbits(16))

    def _change_an_entry(self, random: Random) -> None:
        if random.random() < 0.15:
            where, entry = random.choice(self.directories), random.choice(self.tables)
        else:
            where, entry = random.choice(self.leaves), random.choice(ENTRIES)
            entry |= random.choice(self.frames) if entry else 0
        by = random.randrange(3)
        if by == 2:
            self.guest.memory.write64(where, entry)
        else:
            self._run("store", by, rbx=where, rcx=entry)

    def _invalidate(self, random: Random) -> None:
        cpu, page = random.choice((0, 0, 0, 1)), random.choice(PAGES)
        if random.random() < 0.6:
            self._run("invlpg", cpu, rbx=page)
            return
        self.guest.memory.write64(self.descriptor, random.randrange(3))
        self.guest.memory.write64(self.descriptor + 8, page)
        self._run("invpcid", cpu, rax=random.randrange(4), rbx=self.descriptor)

    def _load_a_register(self, random: Random) -> None:
        cpu = random.choice((0, 0, 1))
        registers = self.guest.machine.cpus[cpu].registers
        which = random.randrange(4)
        if which == 0:
            space = random.randrange(2)
            keep = random.choice((0, KEEP, KEEP))
            self._run("cr3", cpu, rax=self.roots[space] | random.choice((space, space + 1)) | keep)
        elif which == 1:
            self._run("cr4", cpu, rax=registers.cr[4] ^ random.choice((Cr4.PGE, Cr4.SMEP, Cr4.SMAP)))
        elif which == 2:
            self._run("cr0", cpu, rax=registers.cr[0] ^ Cr0.WP)
        else:
            self.guest.set_flags(random.choice((0, Flags.AC)), cpu)


@pytest.mark.parametrize(("tlb", "cleared"), [("retain", 64), ("capacity 4", 64), ("retain", 0), ("capacity 4", 0)])
@pytest.mark.parametrize("seed", range(10))
def test_how_long_the_softmmu_keeps_entries_never_shows(
    tlb: str, cleared: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor which frames are taken for tables: at 0 none is any more as soon as it is stored to."""
    monkeypatch.setattr(tracking, "CLEARED", cleared)
    benches = [Bench(tlb, flush, watch) for flush in (False, True) for watch in (False, True)]
    randoms = [Random(seed) for _ in benches]
    for number in range(OPERATIONS):
        for bench, random in zip(benches, randoms, strict=True):
            bench.operate(random)
        assert [bench.seen[-3:] for bench in benches] == [benches[0].seen[-3:]] * 4, number
        if number % 50 == 49:
            assert len({bench.guest.machine.state_hash() for bench in benches}) == 1, number
    assert benches[1].watcher.stale == benches[3].watcher.stale, "each stale load and store is reported, once"
    assert benches[1].watcher.stale
    assert {vector for _, vector, _ in benches[0].seen} >= {None, 14, 0x80}


def test_a_table_that_is_cleared_is_one_no_more_until_a_walk_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred stores do not come back one by one; what a store to it then changes is seen all the same."""
    guest = LongModeGuest(cpus=2)
    watcher = Watcher()
    guest.machine.instruments.add(watcher)
    leaf = guest.entry(AREA)
    table, window = leaf & ~0xFFF, AREA + (1 << 21)  # of another table
    guest.memory.write64(guest.entry(window), table | PLAIN)
    frames = [guest.frame() for _ in range(2)]
    for number, frame in enumerate(frames):
        guest.memory.write64(frame, number + 7)
    load, store = guest.kernel_code("mov rax, [rbx]\nhlt"), guest.kernel_code("mov [rbx], rcx\nhlt")
    clear = guest.kernel_code(".Lnext: mov qword ptr [rdi], rax\nadd rdi, 8\ndec rcx\njnz .Lnext\nhlt")

    def run(code: int, cpu: int = 0, **gprs: int) -> int:
        guest.start(code, cpu, **({"rax": 0} | gprs))
        guest.until_halt(cpu)
        assert guest.vector(cpu) is None
        return guest.gpr(Gpr.RAX, cpu)

    def through(frame: int, cpu: int = 0) -> int:
        run(store, rbx=window + (leaf & 0xFFF), rcx=frame | PLAIN)
        return run(load, cpu, rbx=AREA)

    tables = guest.machine.tracker.tables
    assert [through(frames[0]), run(load, 1, rbx=AREA)] == [7, 7]
    assert table >> 12 in tables
    told: list[int] = []
    store_told = guest.machine.tracker.store

    def counted(address: int, size: int, storer: int = -1) -> None:
        told.append(address)
        store_told(address, size, storer)

    monkeypatch.setattr(guest.machine.tracker, "store", counted)
    run(clear, rdi=window + (leaf & 0xFFF) + 8, rcx=300)
    assert table >> 12 not in tables
    assert tracking.CLEARED <= len(told) <= tracking.CLEARED + 3
    watcher.stale.clear()
    assert run(load, 1, rbx=AREA) == 7
    assert table >> 12 in tables, "a walk compares what the TLB holds, and has read it"
    assert watcher.stale == []
    assert through(frames[1], 1) == 7, "the other CPU's TLB has the older one"
    assert [(cpu, address) for cpu, address, _ in watcher.stale] == [(1, AREA)]
