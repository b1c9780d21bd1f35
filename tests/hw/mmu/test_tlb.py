"""The TLB model and the engine's own caches under it: what no single rule of the architecture says.

Rules have their checks in test_translation_caches.py.
"""

from __future__ import annotations

from typing import Final

import pytest

from kstack.hw.cpu.state import ActivityState
from kstack.hw.mmu.moments import Use
from kstack.hw.mmu.tlb import Tlb
from kstack.hw.mmu.walk import Translation
from kstack.hw.modes import Modes
from kstack.x86.entries import NX, PS, RW
from kstack.x86.registers import Gpr
from tests.support.long_mode import AREA, FRAMES, PLAIN, RAM, USER, LongModeGuest

OLD: Final = 0x01D
NEW: Final = 0x2E3
INVLPG: Final = "invlpg [rbx]"


def page(number: int) -> int:
    return AREA + 4096 * number


def entry(number: int, shift: int = 12) -> Translation:
    return Translation(shift, number, number << shift, RW, False, False, 8 * number)


def flush_engine(guest: LongModeGuest) -> None:
    """Empty the softmmu of CPU 0, as a resize of its own would."""
    guest.machine.cpus[0].mmu.softmmu.flush()
    guest.machine.cpus[0].engine.flush()


# --- capacity


def test_a_full_tlb_drops_the_entry_that_was_filled_first() -> None:
    tlb = Tlb(capacity=2)
    assert tlb.insert(entry(1), 0, False) == []
    assert tlb.insert(entry(2), 0, True) == []
    dropped = tlb.insert(entry(3, 21), 5, False)
    assert [gone.page for gone in dropped] == [1]
    assert tlb.lookup(1 << 12, 0) is None
    assert tlb.lookup(2 << 12, 5) is not None
    assert tlb.lookup((3 << 21) + 4096, 5) is not None


def test_filling_again_makes_an_entry_the_newest_and_takes_no_room() -> None:
    tlb = Tlb(capacity=2)
    for number in (1, 2, 1):
        assert tlb.insert(entry(number), 0, False) == []
    assert [gone.page for gone in tlb.insert(entry(3), 0, False)] == [2]


def test_what_was_dropped_by_invalidation_makes_room() -> None:
    tlb = Tlb(capacity=2)
    tlb.insert(entry(1), 0, False)
    tlb.insert(entry(2), 0, False)
    tlb.drop_page(1 << 12, 0, True)
    assert tlb.insert(entry(3), 0, False) == []
    tlb.drop_all(True)
    assert tlb.insert(entry(4), 0, False) == tlb.insert(entry(5), 0, True) == []


def hits_of(flush: bool, units: int) -> list[int | None]:
    """Four pages through a TLB of three entries, all moved behind its back: what loads then give."""
    guest = LongModeGuest(modes=Modes(tlb="capacity 3"))
    leaves = [guest.map(page(number), guest.frame(OLD)) for number in range(4)]

    def load(number: int) -> int | None:
        guest.start(guest.kernel_code("mov rax, [rbx]\nmov rax, [rbx]\nhlt"), rbx=page(number))
        while guest.machine.cpus[0].state is ActivityState.RUNNING:
            guest.step(units=units)
            if flush:
                flush_engine(guest)
        return guest.gpr(Gpr.RAX)

    for number in (0, 1, 2, 0, 3):
        assert load(number) == OLD
    for leaf in leaves:
        guest.memory.write64(leaf, guest.frame(NEW) | PLAIN)
    return [load(number) for number in (3, 2, 1, 0, 3, 2, 1)]


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("units", [1, 100])
def test_eviction_does_not_depend_on_when_the_engine_asks(flush: bool, units: int) -> None:
    assert hits_of(flush, units) == [OLD, OLD, OLD, NEW, OLD, OLD, NEW]


# --- two TLBs, large pages


def code_page(guest: LongModeGuest, value: int) -> int:
    """A frame with `mov eax, value; ret`."""
    frame = guest.frame()
    guest.memory.write(frame, b"\xb8" + value.to_bytes(4, "little") + b"\xc3")
    return frame


def test_instructions_and_data_are_cached_apart() -> None:
    guest = LongModeGuest()
    old, new = code_page(guest, OLD), code_page(guest, NEW)
    leaf = guest.map(AREA, old)
    assert guest.run("call rbx", rbx=AREA) == OLD
    assert guest.store(leaf, new | PLAIN)
    assert guest.load(AREA) == guest.memory.read64(new), "no load had cached it"
    assert guest.run("call rbx", rbx=AREA) == OLD, "a fetch had"
    assert guest.store(leaf, old | PLAIN)
    assert guest.load(AREA) == guest.memory.read64(new)
    assert guest.store(leaf, new | PLAIN)
    guest.run(INVLPG, rbx=AREA)
    assert guest.run("call rbx", rbx=AREA) == NEW, "INVLPG drops both"
    assert guest.load(AREA) == guest.memory.read64(new)


@pytest.mark.parametrize("shift", [21, 30])
def test_invlpg_of_any_address_in_a_large_page_drops_all_of_it(shift: int) -> None:
    guest = LongModeGuest()
    offsets = [FRAMES, FRAMES + 4096 * 17]
    for offset in offsets:
        guest.memory.write64(offset, OLD)
    size = 1 << shift
    leaf = guest.map(AREA, 0, shift=shift)
    assert [guest.load(AREA + offset) for offset in offsets] == [OLD, OLD]
    assert guest.store(leaf, size | PLAIN | PS)
    guest.run(INVLPG, rbx=AREA + size)
    assert [guest.load(AREA + offset) for offset in offsets] == [OLD, OLD], "that was the neighbour"
    guest.run(INVLPG, rbx=AREA + size - 1)
    beyond = (1 << 64) - 1 if size >= RAM else 0
    assert [guest.load(AREA + offset) for offset in offsets] == [beyond, beyond]


def test_one_large_entry_serves_the_whole_page() -> None:
    guest = LongModeGuest()
    leaf = guest.map(AREA, 0, shift=21)
    guest.memory.write64(FRAMES, OLD)
    assert guest.load(AREA) is not None
    assert guest.store(leaf, 0)
    assert guest.load(AREA + FRAMES) == OLD, "a page of the engine's that was never touched"


# --- snapshots


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_restored_mmu_hits_and_misses_as_the_first_did(elsewhere: bool) -> None:
    guest = LongModeGuest(modes=Modes(tlb="capacity 3"))
    leaves = [guest.map(page(number), guest.frame(OLD)) for number in range(4)]
    code = guest.map(page(9), code_page(guest, OLD))
    for number in (2, 1, 0):
        assert guest.load(page(number)) == OLD
    assert guest.run("mov rcx, cr3\ncall rbx", rbx=page(9)) == OLD
    for leaf in leaves:
        guest.memory.write64(leaf, guest.frame(NEW) | PLAIN)
    guest.memory.write64(code, code_page(guest, NEW) | PLAIN)

    def hits() -> list[int | None]:
        return [guest.run("call rbx", rbx=page(9)), *(guest.load(page(number)) for number in (0, 1, 3, 0, 1, 2))]

    saved = guest.machine.snapshot()
    first = hits()
    assert OLD in first
    assert NEW in first
    if elsewhere:
        guest.adopt(LongModeGuest(modes=Modes(tlb="capacity 3")).machine)
    guest.machine.restore(saved)
    assert guest.machine.cpus[0].mmu.snapshot() == saved.cpus[0][1]
    assert hits() == first


def test_a_cpu_that_a_restore_leaves_alone_forgets_what_rests_on_a_changed_table() -> None:
    guest = LongModeGuest(cpus=2)
    machine, leaf, other = guest.machine, guest.map(page(0), guest.frame(OLD)), guest.frame(NEW)
    stale: list[int] = []
    machine.instruments.add(Stale(stale))
    assert guest.load(page(0), 1) == OLD
    machine.memory.patch(leaf, (other | PLAIN).to_bytes(8, "little"))  # as a restore replaces frames: no store event
    assert guest.load(page(0), 1) == OLD
    assert not stale, "it was entered when it was right, and runs at full speed"
    machine.tracker.replaced([leaf >> 12], all_start_empty=False)
    assert guest.load(page(0), 1) == OLD, "through what it has cached"
    assert stale == [page(0)]


class Stale:
    """Notes stale uses."""

    def __init__(self, found: list[int]) -> None:
        self.found = found

    def on_use(self, moment: Use) -> None:
        """Note it."""
        self.found.append(moment.address)


def test_structure_caches_are_restored() -> None:
    guest = LongModeGuest()
    guest.map(page(0), guest.frame())
    guest.map(page(1), guest.frame(OLD))
    assert guest.load(page(0)) == 0
    guest.memory.write64(guest.entry(AREA, 21), 0)
    saved = guest.machine.snapshot()
    guest.run("mov rax, cr3\nmov cr3, rax")
    assert guest.load(page(1)) is None
    guest.machine.restore(saved)
    assert guest.load(page(1)) == OLD, "by the cached PDE"


def test_restoring_drops_what_was_translated_from_other_code() -> None:
    guest = LongModeGuest()
    routine = guest.kernel_code("mov eax, 1\nret")
    caller = guest.kernel_code("call rbx\nhlt")

    def call() -> int:
        guest.start(caller, rbx=routine)
        guest.until_halt()
        return guest.gpr(Gpr.RAX)

    assert call() == 1
    saved = guest.machine.snapshot()
    guest.memory.write(routine + 1, b"\x02")
    assert call() == 2
    guest.machine.restore(saved)
    assert call() == 1


# --- code that is stored


def routine(guest: LongModeGuest) -> int:
    """`mov al, 1; ret`; the value is the byte at + 1."""
    return guest.kernel_code("mov al, 1\nret")


def test_a_cpu_sees_what_it_stores_over_its_own_next_instruction() -> None:
    guest = LongModeGuest()
    assert guest.run("mov byte ptr [rip + 1], 2\nmov al, 1\nmov ah, 3") & 0xFFFF == 0x0302


def alias(guest: LongModeGuest, address: int, flags: int = PLAIN | NX) -> int:
    """Another linear address, not executable, for kernel code."""
    guest.map(AREA, address & ~0xFFF, flags)
    return AREA + (address & 0xFFF)


@pytest.mark.parametrize("flags", [PLAIN | NX, PLAIN])
def test_each_store_through_another_mapping_is_seen_by_the_next_block(flags: int) -> None:
    guest = LongModeGuest()
    target = routine(guest)
    text = """
        mov esi, 0
        mov edx, 5
    .Lagain:
        mov [rcx], dl
        call rbx
        shl rsi, 4
        or sil, al
        dec edx
        jnz .Lagain
        mov rax, rsi
    """
    assert guest.run(text, rbx=target, rcx=alias(guest, target, flags) + 1) == 0x54321


@pytest.mark.parametrize("aliased", [False, True])
def test_another_cpu_sees_stored_code_at_its_next_slice(aliased: bool) -> None:
    guest = LongModeGuest(cpus=2)
    target = routine(guest)
    where = alias(guest, target) if aliased else target
    for value in (2, 3, 4):
        before = guest.run("call rbx", 1, rbx=target) & 0xFF
        assert before == value - 1
        guest.run("mov byte ptr [rbx], cl", 0, rbx=where + 1, rcx=value)
        assert guest.run("call rbx", 0, rbx=target) & 0xFF == value, "and the storing CPU"
    assert guest.run("call rbx", 1, rbx=target) & 0xFF == 4


def test_another_cpu_in_the_middle_of_a_loop_sees_it_too() -> None:
    guest = LongModeGuest(cpus=2)
    target = routine(guest)
    guest.start(guest.kernel_code(".Lagain: call rbx\ncmp al, 1\nje .Lagain\nhlt"), 1, rbx=target)
    guest.step(1, 100)
    assert guest.machine.cpus[1].state is ActivityState.RUNNING
    guest.run("mov byte ptr [rbx], 2", 0, rbx=target + 1)
    guest.until_halt(1, 100)


def test_an_event_frame_that_lands_on_code_is_seen_in_the_same_slice() -> None:
    """The saved RSP is 0xc362b0, whose bytes are `mov al, 0x62; ret`, on a mapping of the routine's page."""
    guest = LongModeGuest()
    target, rsp = 0x62A0, 0xC362B0
    guest.memory.write(target, b"\xb0\x01\xc3")
    guest.map(rsp & ~0xFFF, target & ~0xFFF)
    guest.gate(6, guest.kernel_code("mov rsp, rdi\ncall rbx\nmov ah, cl\nhlt"))
    text = "call rbx\nmov cl, al\nmov rsp, rsi\nud2"
    assert guest.run(text, rbx=target, rsi=rsp, rdi=guest.stack(), rax=0) == 0x0162


def test_user_code_that_the_kernel_patches_is_seen() -> None:
    guest = LongModeGuest()
    guest.map(AREA, code_page(guest, OLD), USER)
    assert guest.run_user("mov rsp, rdi\ncall rbx", rbx=AREA, rdi=AREA + 4096) == OLD
    guest.run("mov dword ptr [rbx], ecx", rbx=AREA + 1, rcx=NEW)
    assert guest.run_user("mov rsp, rdi\ncall rbx", rbx=AREA, rdi=AREA + 4096) == NEW


# --- physical addresses


@pytest.mark.parametrize("frame", [RAM, 0xFF_FFEF_F000, 0xFF_FFF0_0000, 0xFF_FFF0_1000, 0xFF_FFFF_F000])
def test_no_mapping_reaches_anything_beyond_ram(frame: int) -> None:
    guest = LongModeGuest()
    guest.map(AREA, frame)
    assert guest.store(AREA, 0)
    assert guest.load(AREA) == (1 << 64) - 1, "not the engine's own pages either"
    assert guest.run("mov ecx, 0x1b\nrdmsr") == 0xFEE00900, "which hold its MSR intercepts"
