"""FRED delivers events, and ERETS and ERETU return from them: one test or more for each thing it does."""

from __future__ import annotations

import random

import pytest

from kstack.hw.cpu.state import ActivityState
from kstack.hw.modes import Modes
from kstack.machine import Machine, MachineConfig
from kstack.x86.control import Cr4
from kstack.x86.flags import Flags
from kstack.x86.msrs import Msr
from kstack.x86.registers import Gpr, Seg
from kstack.x86.vectors import DB, DF, GP, NMI, NP, PF, SS, UD
from tests.support.fred_guest import ERETS, ERETU, KERNEL_CS, KERNEL_SS, RING0, RING3, FredGuest
from tests.support.long_mode import AREA, CODE64, DATA, EXTERNAL, USER, USER_CODE64, USER_DATA, LongModeGuest

NOT_MAPPED = AREA + (1 << 21)
NOT_CANONICAL = 1 << 47
INTERRUPT, EXCEPTION, INT_N, INT1, INT3, OTHER = 0, 3, 4, 5, 6, 7


def returning(guest: FredGuest, text: str, **values: int) -> int:
    """Run code behind a frame for ERETS or ERETU that is pushed first; the address of the return.

    `values` are the words of the frame by name; those not named are for a return to HLT in ring 0.
    """
    registers = guest.machine.cpus[0].registers
    words = {
        "ss": registers.segment(Seg.SS).selector,
        "rsp": guest.stack(),
        "rflags": 2,
        "cs": registers.segment(Seg.CS).selector | guest.level << 16,
        "rip": guest.kernel_code("hlt"),
        "error": 0x1234,
    } | values
    base = guest.stack() - 512
    for number, name in enumerate(("error", "rip", "cs", "rflags", "rsp", "ss")):
        guest.memory.write64(base + 8 * number, words[name])
    at = guest.kernel_code(text)
    guest.start(at, rsp=base)
    return at


# --- 1, 2: switching it on, MSRs


def test_it_is_announced_and_cr4_bit_32_switches_it_on() -> None:
    guest = LongModeGuest()
    guest.run("mov eax, 7\nmov ecx, 1\ncpuid", rax=0)
    assert guest.gpr(Gpr.RAX) == 1 << 17, "FRED, and no LKGS"
    guest.run("ud2")
    assert guest.vector() == UD, "off: by the IDT"
    on = FredGuest()
    cpu = on.machine.cpus[0]
    on.run("mov rbx, cr4\nmov rax, rbx\nbtr rax, 32\nmov cr4, rax\nmov rcx, cr4\nmov cr4, rbx\nmov rdx, cr4\nud2")
    assert on.gpr(Gpr.RDX) >> 32 == 1 and on.gpr(Gpr.RCX) >> 32 == 0
    assert on.entered == RING0 and cpu.fred.enabled
    on.run("mov rax, cr4\nbtr rax, 32\nmov cr4, rax\nud2")
    assert on.vector() == UD, "and off again"


@pytest.mark.parametrize("msr", range(0x1CC, 0x1D5))
def test_its_msrs_hold_what_is_written_and_refuse_what_they_cannot_be(msr: int) -> None:
    guest = FredGuest()
    write = "mov edx, ebx\nshr rbx, 32\nmov eax, edx\nmov edx, ebx\nwrmsr\nrdmsr\nshl rdx, 32\nor rax, rdx"
    good = 0x0000_7FFF_1234_5000 if msr != Msr.FRED_CONFIG else 0x0000_7FFF_1234_5000 | 0x7CB
    assert guest.run(write, rcx=msr, rbx=good) == good
    guest.msr(Msr.FRED_CONFIG, guest.page)
    guest.msr(Msr.FRED_RSP0, guest.tops[0])
    bad = {Msr.FRED_CONFIG: [0x4, 0x10, 0x20, 0x800, NOT_CANONICAL], Msr.FRED_STKLVLS: []}
    stack = [NOT_CANONICAL, 0x4] + ([0x8, 0x20] if msr <= Msr.FRED_RSP3 else [])
    for value in bad.get(Msr(msr), stack):
        guest.run(write, rcx=msr, rbx=value)
        assert guest.got().vector == GP, hex(value)


def test_its_msrs_are_in_snapshot_and_state_hash() -> None:
    guest = FredGuest()
    before = guest.machine.state_hash()
    snapshot = guest.machine.snapshot()
    guest.level = 2
    assert guest.machine.state_hash() != before
    guest.machine.restore(snapshot)
    assert (guest.level, guest.machine.state_hash()) == (0, before)
    other = Machine(MachineConfig(cpus=1, ram=guest.memory.size))
    other.restore(snapshot)
    guest.adopt(other)
    assert other.state_hash() == before
    guest.run(f"push rax\n{ERETS}", rsp=NOT_CANONICAL - 4)
    at = returning(guest, ERETS)
    guest.until_halt()
    assert guest.entered is None and guest.gpr(Gpr.RSP) == guest.stack(), f"ERETS at {at:#x} works there, too"


# --- 3: entry


def test_ring_3_enters_at_the_page_with_segments_of_star_and_gs_swapped() -> None:
    guest = FredGuest()
    guest.msr(Msr.KERNEL_GS_BASE, 0x1111_0000)
    guest.msr(Msr.GS_BASE, 0x2222_0000)
    guest.set_flags(Flags.IF | Flags.DF | Flags.CF | Flags.AC)
    guest.run_user("ud2", rsp=0x1238)
    assert guest.entered == RING3
    assert (guest.selector(Seg.CS), guest.selector(Seg.SS)) == (KERNEL_CS, KERNEL_SS)
    registers = guest.machine.cpus[0].registers
    assert (registers.cpl, registers.bits, registers.rflags) == (0, 64, 2)
    assert (guest.msr(Msr.GS_BASE), guest.msr(Msr.KERNEL_GS_BASE)) == (0x1111_0000, 0x2222_0000)
    assert guest.got().selectors == (USER_CODE64, USER_DATA)
    assert guest.got().rsp == 0x1238


def test_ring_0_enters_256_bytes_on_with_its_own_segments_and_gs() -> None:
    guest = FredGuest()
    guest.msr(Msr.KERNEL_GS_BASE, 0x1111_0000)
    guest.msr(Msr.GS_BASE, 0x2222_0000)
    guest.set_flags(Flags.IF | Flags.DF | Flags.CF)
    guest.run("ud2")
    assert guest.entered == RING0
    assert guest.got().selectors == (CODE64, DATA)
    assert (guest.selector(Seg.CS), guest.selector(Seg.SS)) == (CODE64, DATA)
    assert guest.machine.cpus[0].registers.rflags == 2, "IF too is clear, for every event"
    assert (guest.msr(Msr.GS_BASE), guest.msr(Msr.KERNEL_GS_BASE)) == (0x2222_0000, 0x1111_0000)


# --- 4: levels


def test_the_level_of_an_exception_in_ring_0_is_by_stklvls() -> None:
    guest = FredGuest(levels={UD: 2, PF: 1, 3: 3, DB: 1})
    for text, level in (("ud2", 2), ("mov rax, [rbx]", 1), ("int3", 3), ("div rcx", 0), (".byte 0xf1", 1)):
        guest.level = 0
        guest.run(text, rbx=NOT_MAPPED, rcx=0)
        assert (guest.level, guest.top()) == (level, guest.tops[level] if level else guest.stack()), text


def test_the_level_of_an_nmi_is_by_stklvls_and_that_of_interrupts_by_config() -> None:
    guest = FredGuest(levels={NMI: 3}, interrupts=2)
    guest.machine.cpus[0].nmi()
    guest.run("nop")
    assert (guest.level, guest.got().vector) == (3, NMI)
    guest.level = 0
    guest.set_flags(Flags.IF)
    guest.pend()
    guest.run("nop")
    assert (guest.level, guest.got().vector) == (2, EXTERNAL)


def test_int_n_and_syscall_are_of_level_0() -> None:
    guest = FredGuest(levels=dict.fromkeys(range(32), 3), interrupts=3)
    for text in ("int 14", "int 0x40", "syscall"):
        guest.level = 0
        guest.run(text)
        assert (guest.level, guest.top()) == (0, guest.stack()), text


def test_from_ring_3_the_level_is_0_but_for_a_double_fault_and_a_nested_one() -> None:
    guest = FredGuest(levels=dict.fromkeys(range(32), 2) | {DF: 3, PF: 1}, interrupts=2)
    guest.level = 2  # what ring 3 leaves behind counts as 0
    for text in ("ud2", "int3", "mov rax, [rbx]"):
        guest.run_user(text, rbx=NOT_MAPPED)
        assert (guest.level, guest.top()) == (0, guest.tops[0]), text
        assert guest.got().level == 0, text
    guest.msr(Msr.FRED_RSP0, NOT_MAPPED)
    guest.run_user("ud2")
    assert (guest.got().vector, guest.level, guest.top()) == (PF, 1, guest.tops[1]), "nested"
    guest.run_user("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert (guest.got().vector, guest.level, guest.top()) == (DF, 3, guest.tops[3])
    assert guest.entered == RING3


def test_the_level_never_falls_on_entry() -> None:
    guest = FredGuest(levels={UD: 1})
    guest.level = 2
    guest.run("ud2")
    assert (guest.level, guest.got().level, guest.top()) == (2, 2, guest.stack())


# --- 5: RSP


@pytest.mark.parametrize("red_zone", [0, 64, 0x1C0])
def test_at_the_same_level_the_frame_is_below_the_red_zone_and_aligned(red_zone: int) -> None:
    guest = FredGuest(red_zone=red_zone)
    for off in (0, 1, 8, 63):
        guest.run("ud2", rsp=guest.stack() - off)
        assert guest.top() == (guest.stack() - off - red_zone) & ~63
        assert guest.got().rsp == guest.stack() - off


def test_a_stack_is_not_rewound_by_an_event_of_its_own_level() -> None:
    guest = FredGuest(levels={UD: 1}, red_zone=64)
    guest.run("ud2")
    assert guest.top() == guest.tops[1]
    first = guest.gpr(Gpr.RSP)
    guest.start(guest.kernel_code("ud2"), rsp=first - 8)
    guest.until_halt()
    assert guest.top() == (first - 8 - 64) & ~63, "below, where an IST stack would be overwritten"
    assert guest.got().level == 1


# --- 6, 7, 8: the frame


def test_the_frame_tells_error_code_rip_rflags_rsp_and_ends_with_zero() -> None:
    guest = FredGuest()
    at = guest.kernel_code("stc\nmov [rbx], rax")
    guest.memory.write64(guest.stack() - 8, 0xDEAD)
    guest.start(at, rbx=NOT_MAPPED + 0x123)
    guest.until_halt()
    frame = guest.got()
    flags = int(Flags.FIXED | Flags.CF | Flags.RF)
    assert frame[:5] == (2, at + 1, CODE64, flags, guest.stack())
    assert frame.zero == 0
    guest.run("ud2")
    assert guest.got().error == 0


def test_event_data_is_the_address_of_a_page_fault_and_dr6_of_a_debug_exception() -> None:
    guest = FredGuest()
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED + 0x777)
    assert guest.got().data == NOT_MAPPED + 0x777
    assert guest.machine.cpus[0].registers.cr[2] == NOT_MAPPED + 0x777
    guest.run("ud2")
    assert guest.got().data == 0
    guest.set_flags(Flags.TF)
    guest.run("nop\nnop")
    assert (guest.got().vector, guest.got().data) == (DB, 1 << 14)


@pytest.mark.parametrize(
    ("text", "kind", "vector", "length"),
    [
        ("ud2", EXCEPTION, UD, 0),
        ("int 0x41", INT_N, 0x41, 2),
        ("int 0xcc", INT_N, 0xCC, 2),
        (".byte 0xcd, 3", INT_N, 3, 2),
        (".byte 0xf1", INT1, 1, 1),
        ("int3", INT3, 3, 1),
        ("syscall", OTHER, 1, 2),
    ],
)
def test_the_ss_word_tells_type_vector_and_length(text: str, kind: int, vector: int, length: int) -> None:
    for cpl, entry in ((0, RING0), (3, RING3)):
        guest = FredGuest()
        at = guest.user_code(text) if cpl else guest.kernel_code(text)
        guest.privilege(0, cpl)
        guest.start(at)
        guest.until_halt()
        frame = guest.got()
        assert (frame.type, frame.vector, frame.length, guest.entered) == (kind, vector, length, entry)
        assert bool(frame.ss & 1 << 17) == (kind in (INT_N, OTHER))
        assert frame.ss >> 57 & 1, "64-bit mode"
        assert not frame.ss & 1 << 18 and not frame.nested
        assert frame.rip == at + length


def test_the_ss_word_tells_interrupt_and_nmi() -> None:
    guest = FredGuest()
    guest.set_flags(Flags.IF)
    guest.pend()
    guest.run("nop")
    frame = guest.got()
    assert (frame.type, frame.vector, frame.ss >> 16 & 7) == (INTERRUPT, EXTERNAL, 0)
    guest.machine.cpus[0].nmi()
    guest.run("nop")
    frame = guest.got()
    assert (frame.type, frame.vector, frame.ss >> 16 & 7) == (2, NMI, 0b100)


def test_the_ss_word_tells_an_sti_before_a_fault_and_no_mov_ss() -> None:
    guest = FredGuest()
    for text, bit in (("sti\nmov rax, [rbx]", 1), ("sti\nnop\nmov rax, [rbx]", 0), ("mov ss, edx\nmov rax, [rbx]", 0)):
        guest.set_flags(0)
        guest.run(text, rbx=NOT_MAPPED, rdx=DATA)
        assert guest.got().ss >> 16 & 1 == bit, text
    for text in ("sti\nint3", "sti\nint 0xfb"):
        guest.set_flags(0)
        guest.run(text)
        assert guest.got().ss >> 16 & 1 == 0, "an instruction that is done has used the shadow up"


def test_syscall_keeps_rcx_and_r11() -> None:
    guest = FredGuest()
    at = guest.user_code("syscall")
    guest.privilege(0, 3)
    guest.set_flags(Flags.IF)
    guest.start(at, rcx=1, r11=2, rsp=0x1000)
    guest.until_halt()
    assert (guest.gpr(Gpr.RCX), guest.gpr(Gpr.R11)) == (1, 2)
    assert (guest.got().rip, guest.got().rflags) == (at + 2, int(Flags.FIXED | Flags.IF))


# --- 9, 10: faults during delivery


def test_a_page_fault_in_a_page_fault_is_a_double_fault_on_its_own_level() -> None:
    guest = FredGuest(levels={DF: 3}, modes=Modes(df_restart="exact"))
    guest.map(AREA, guest.frame())
    at = guest.kernel_code("push rax")
    guest.start(at, rsp=AREA)
    guest.until_halt()
    frame = guest.got()
    assert (frame.vector, frame.error, frame.nested, guest.level) == (DF, 0, False, 3)
    assert (frame.rip, frame.rsp, frame.data, guest.top()) == (at, AREA, 0, guest.tops[3])
    assert guest.machine.cpus[0].registers.cr[2] == AREA - 8, "the frame is pushed downwards"


def test_growth_on_a_stack_fault_works_at_level_1() -> None:
    guest = FredGuest(levels={PF: 1, DF: 3})
    guest.map(AREA, guest.frame())
    guest.run("push rax", rsp=AREA)
    frame = guest.got()
    assert (frame.vector, frame.nested, guest.level, frame.data) == (PF, False, 1, AREA - 8)


def test_a_page_fault_in_the_delivery_of_an_interrupt_is_nested_and_tells_the_state_before() -> None:
    guest = FredGuest(levels={PF: 1})
    guest.map(AREA, guest.frame())
    guest.set_flags(Flags.IF | Flags.CF)
    guest.pend()
    at = guest.kernel_code("nop\nhlt")
    guest.start(at, rsp=AREA)
    guest.until_halt()
    frame = guest.got()
    assert (frame.vector, frame.type, frame.nested, frame.error) == (PF, EXCEPTION, True, 2)
    assert (frame.rip, frame.rsp, frame.selectors) == (at, AREA, (CODE64, DATA))
    assert frame.rflags & (Flags.IF | Flags.CF) == Flags.IF | Flags.CF
    assert frame.data == AREA - 8


def test_a_fault_in_the_delivery_of_int_n_or_syscall_is_at_the_instruction() -> None:
    guest = FredGuest(levels={PF: 1})
    guest.map(AREA, guest.frame())
    for text in ("int 0x41", "syscall"):
        at = guest.kernel_code(text)
        guest.level = 0
        guest.start(at, rsp=AREA)
        guest.until_halt()
        assert (guest.got().vector, guest.got().nested, guest.got().rip) == (PF, True, at), text


def test_a_fault_in_the_delivery_of_a_double_fault_is_shutdown() -> None:
    guest = FredGuest(levels={DF: 3})
    guest.msr(Msr.FRED_RSP3, NOT_MAPPED)
    guest.run("push rax", rsp=AREA)
    assert guest.machine.cpus[0].state is ActivityState.SHUTDOWN


def test_a_double_fault_is_an_abort_here_too() -> None:
    guest = FredGuest(levels={DF: 3})
    guest.run("push rax", rsp=AREA)
    assert guest.got().vector == DF and guest.got().rip == 0x0BAD0BAD0BAD0BAD


@pytest.mark.parametrize(("mode", "again"), [("restarted", True), ("lost", False)])
def test_an_interrupt_whose_delivery_faulted_comes_again_or_is_lost(mode: str, again: bool) -> None:
    guest = FredGuest(modes=Modes(interrupted_delivery=mode), levels={PF: 1})
    guest.set_flags(Flags.IF)
    guest.pend()
    guest.run("nop", rsp=AREA)
    assert guest.got().vector == PF
    guest.level = 0
    guest.set_flags(Flags.IF)
    guest.run("nop\nnop")
    assert (guest.entered is not None) == again
    assert not again or guest.got().vector == EXTERNAL


def test_a_stack_that_is_not_canonical_is_a_stack_fault_and_a_user_page_one_of_smap() -> None:
    guest = FredGuest(levels={SS: 1})
    guest.run("ud2", rsp=NOT_CANONICAL + 96)
    assert (guest.got().vector, guest.got().error, guest.got().nested) == (SS, 0, True)
    guest = FredGuest(levels={PF: 1}, cr4=int(Cr4.SMAP))
    guest.map(AREA, guest.frame(), USER)
    guest.run("ud2", rsp=AREA + 4096)
    assert (guest.got().vector, guest.got().error) == (PF, 3)


# --- 11: ERETS


def test_erets_returns_to_ring_0_and_lowers_the_level() -> None:
    guest = FredGuest()
    guest.level = 3
    flags = int(Flags.FIXED | Flags.CF | Flags.DF | Flags.IF)
    target = guest.kernel_code("pushfq\nhlt")
    returning(guest, ERETS, rip=target, rsp=guest.stack() - 64, rflags=flags, cs=CODE64 | 1 << 16)
    guest.until_halt()
    assert (guest.level, guest.gpr(Gpr.RSP)) == (1, guest.stack() - 72)
    assert guest.pushed(1) == [flags]
    returning(guest, ERETS, cs=CODE64 | 3 << 16)
    guest.until_halt()
    assert guest.level == 1, "never up"


def test_erets_undoes_a_delivery() -> None:
    guest = FredGuest(levels={UD: 2}, red_zone=64)
    guest.entry_code(RING0, b"\x48\x83\x44\x24\x08\x02\xf2\x0f\x01\xca")  # add qword ptr [rsp+8], 2; erets
    assert guest.run("ud2\nmov eax, 5") == 5
    assert (guest.level, guest.gpr(Gpr.RSP)) == (0, guest.stack())


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("rip", NOT_CANONICAL),
        ("cs", CODE64 | 1 << 19),
        ("cs", KERNEL_SS),
        ("cs", USER_CODE64),
        ("ss", USER_DATA),
        ("ss", DATA | 1 << 19),
        ("rflags", 0),
        ("rflags", 2 | Flags.VM),
        ("rflags", 2 | 1 << 15),
        ("rflags", 2 | 1 << 22),
    ],
)
def test_erets_refuses_a_frame_that_is_none(word: str, value: int) -> None:
    guest = FredGuest()
    at = returning(guest, ERETS, **{word: int(value)})
    guest.until_halt()
    assert (guest.got().vector, guest.got().error, guest.got().rip) == (GP, 0, at)


def test_the_returns_do_not_exist_without_fred_nor_outside_ring_0() -> None:
    for text in (ERETS, ERETU):
        off = LongModeGuest()
        off.run("nop\nnop")
        guest = FredGuest()
        guest.run_user(text)
        assert guest.got().vector == UD, text
        guest.run(f"mov rax, cr4\nbtr rax, 32\nmov cr4, rax\n{text}")
        assert guest.entered is None and guest.vector() is None, "an F2 or F3 before CLAC is ignored, as before"


def test_clac_and_stac_are_still_what_they_were() -> None:
    guest = FredGuest()
    guest.run("stac\npushfq\nclac\npushfq")
    first, second = guest.pushed(2)[1], guest.pushed(2)[0]
    assert (first & Flags.AC, second & Flags.AC) == (Flags.AC, 0)
    for text in ("stac", "clac"):
        guest.run_user(text)
        assert guest.got().vector == UD


def test_a_return_whose_frame_is_not_mapped_faults_at_the_return() -> None:
    guest = FredGuest()
    guest.levels({PF: 1, SS: 1})
    at = guest.kernel_code(ERETS)
    guest.start(at, rsp=AREA)
    guest.until_halt()
    assert (guest.got().vector, guest.got().data, guest.got().rip) == (PF, AREA + 8, at)
    guest.level = 0
    guest.start(at, rsp=NOT_CANONICAL - 16)
    guest.until_halt()
    assert (guest.got().vector, guest.got().rip) == (SS, at)


def test_erets_brings_an_sti_shadow_back() -> None:
    for ss, before, rax in ((DATA | 1 << 16, 0, 1), (DATA, 0, 0), (DATA | 1 << 16, Flags.IF, 0)):
        guest = FredGuest()
        target = guest.kernel_code("mov al, 1\nmov al, 2\nhlt")
        guest.set_flags(int(before))
        returning(guest, ERETS, rip=target, ss=ss, rflags=int(Flags.FIXED | Flags.IF))
        guest.machine.cpus[0].registers.gpr[Gpr.RAX] = 0
        guest.step()
        guest.pend()
        guest.until_halt()
        assert (guest.got().vector, guest.gpr(Gpr.RAX)) == (EXTERNAL, rax), (ss, before)


# --- 12: ERETU


def to_user(guest: FredGuest, **values: int) -> int:
    """ERETU to a UD2 in ring 3, but for what is named; the address of the ERETU."""
    words = {"rip": guest.user_code("ud2"), "cs": USER_CODE64, "ss": USER_DATA, "rsp": 0x5000} | values
    return returning(guest, ERETU, **words)


def test_eretu_returns_to_ring_3_and_swaps_gs() -> None:
    guest = FredGuest()
    guest.msr(Msr.KERNEL_GS_BASE, 0x1111_0000)
    guest.msr(Msr.GS_BASE, 0x2222_0000)
    to_user(guest, rflags=int(Flags.FIXED | Flags.IF | Flags.CF))
    guest.step()
    registers = guest.machine.cpus[0].registers
    assert (registers.cpl, guest.gpr(Gpr.RSP), registers.interrupt_flag) == (3, 0x5000, True)
    assert (guest.msr(Msr.GS_BASE), guest.msr(Msr.KERNEL_GS_BASE)) == (0x1111_0000, 0x2222_0000)
    guest.until_halt()
    assert (guest.entered, guest.got().vector, guest.got().selectors) == (RING3, UD, (USER_CODE64, USER_DATA))
    assert guest.top() == guest.tops[0]


def test_eretu_does_not_read_the_descriptors_that_star_names() -> None:
    guest = FredGuest()
    guest.memory.write64(0x1000 + 0x28, 0)
    to_user(guest)
    guest.until_halt()
    assert guest.got().vector == UD


def test_eretu_loads_other_selectors_from_the_descriptor_table() -> None:
    guest = FredGuest()
    guest.memory.write64(0x1000 + 0x60, 0x00AFFB000000FFFF)  # user code, 64 bits
    guest.memory.write64(0x1000 + 0x68, 0x00AF7B000000FFFF)  # the same, not present
    guest.memory.write64(0x1000 + 0x70, 0x00CF73000000FFFF)  # user data, not present
    guest.memory.write64(0x1000 + 0x78, 0x00EFFB000000FFFF)  # user code, both L and D
    to_user(guest, cs=0x60 | 3)
    guest.until_halt()
    assert (guest.got().vector, guest.got().selectors) == (UD, (0x60 | 3, USER_DATA))
    for values, vector, error in (
        ({"cs": 0x68 | 3}, NP, 0x68),
        ({"cs": USER_DATA}, GP, USER_DATA & ~3),
        ({"cs": CODE64 | 3}, GP, CODE64),
        ({"cs": 0x78 | 3}, GP, 0x78),
        ({"cs": 0x60 | 3, "ss": USER_CODE64}, GP, USER_CODE64 & ~3),
        ({"cs": 0x60 | 3, "ss": 0x70 | 3}, SS, 0x70),
        ({"cs": 3}, GP, 0),
        ({"cs": 0xFFF8 | 3}, GP, 0xFFF8),
    ):
        at = to_user(guest, **values)
        guest.privilege(0, 0)
        guest.until_halt()
        assert (guest.got().vector, guest.got().error, guest.got().rip) == (vector, error, at), values


@pytest.mark.parametrize(
    ("word", "value"),
    [("rip", NOT_CANONICAL), ("cs", USER_CODE64 & ~3), ("ss", USER_DATA & ~3), ("cs", CODE64), ("rflags", 0)],
)
def test_eretu_refuses_a_frame_that_is_none(word: str, value: int) -> None:
    guest = FredGuest()
    at = to_user(guest, **{word: value})
    guest.until_halt()
    assert (guest.got().vector, guest.got().error, guest.got().rip) == (GP, 0, at)


def test_eretu_needs_level_0() -> None:
    guest = FredGuest()
    guest.level = 1
    at = to_user(guest)
    guest.until_halt()
    assert (guest.got().vector, guest.got().rip) == (GP, at)


# --- 13: NMI


@pytest.mark.parametrize(("bit", "unblocks"), [(1 << 18, True), (0, False)])
def test_a_return_unblocks_nmis_only_if_its_frame_says_so(bit: int, unblocks: bool) -> None:
    for to in ("ring 0", "ring 3"):
        guest = FredGuest()
        cpu = guest.machine.cpus[0]
        cpu.nmi()
        guest.run("nop")
        assert cpu.nmi_blocked
        if to == "ring 0":
            returning(guest, ERETS, ss=guest.selector(Seg.SS) | bit)
        else:
            to_user(guest, ss=USER_DATA | bit)
        guest.step()
        assert cpu.nmi_blocked != unblocks, to


def test_a_fault_inside_an_nmi_handler_returns_with_nmis_still_blocked() -> None:
    guest = FredGuest(levels={NMI: 2})
    cpu = guest.machine.cpus[0]
    # A #BP inside the handler returns at once; the NMI's own return comes after two NOPs.
    entry = guest.kernel_code(
        f"""
    mov rax, [rsp+40]
    shr rax, 32
    cmp al, 2
    jne .Lback
    inc rcx
    cmp rcx, 2
    je .Lback
    int3
    nop
    nop
.Lback:
    {ERETS}"""
    )
    guest.entry_code(RING0, b"\xe9" + (entry - guest.page - RING0 - 5 & 0xFFFFFFFF).to_bytes(4, "little"))
    guest.start(guest.kernel_code("nop\nnop\nhlt"), rcx=0)
    cpu.nmi()
    guest.step(units=3)
    cpu.nmi()
    guest.step(units=15)
    assert cpu.counts.nmis == 1 and [event.vector for event in guest.begun] == [NMI, 3], (
        "the second waits although the #BP has returned"
    )
    guest.until_halt()
    assert (cpu.counts.nmis, cpu.nmi_blocked, guest.gpr(Gpr.RCX)) == (2, False, 2)


# --- 15: the old ways


def test_iret_cannot_change_ring_and_works_within_one() -> None:
    guest = FredGuest()
    stack = guest.stack() - 256
    for cs, expected in ((USER_CODE64, GP), (CODE64, None)):
        ss = USER_DATA if cs == USER_CODE64 else DATA
        rip = guest.user_code("nop") if cs == USER_CODE64 else guest.kernel_code("hlt")
        for number, word in enumerate((rip, cs, 2, stack, ss)):
            guest.memory.write64(stack + 8 * number, word)
        at = guest.kernel_code("iretq")
        guest.start(at, rsp=stack)
        guest.until_halt()
        if expected is None:
            assert guest.entered is None and guest.machine.cpus[0].registers.rip == rip + 1
        else:
            frame = guest.got()
            assert (frame.vector, frame.error, frame.rip) == (GP, USER_CODE64 & ~3, at)
    guest.run("mov rax, cr4\nbtr rax, 32\nmov cr4, rax")
    guest.memory.write64(stack + 8, USER_CODE64)
    guest.memory.write64(stack + 32, USER_DATA)
    guest.memory.write64(stack, guest.user_code("ud2"))
    guest.start(guest.kernel_code("iretq"), rsp=stack)
    guest.until_halt()
    assert guest.vector() == UD and [event.vector for event in guest.begun] == [UD], "without FRED it can again"


def test_an_iret_whose_frame_is_not_mapped_faults_as_ever() -> None:
    guest = FredGuest(levels={PF: 1})
    at = guest.kernel_code("iretq")
    guest.start(at, rsp=AREA)
    guest.until_halt()
    assert (guest.got().vector, guest.got().rip) == (PF, at)


def test_the_idt_and_the_stacks_of_the_tss_are_not_used() -> None:
    guest = FredGuest()
    for vector in (UD, PF, GP):
        guest.no_gate(vector)
    guest.tss_stack(4, NOT_MAPPED)
    guest.run_user("ud2")
    assert (guest.entered, guest.got().vector) == (RING3, UD)
    guest.run("mov rax, [rbx]", rbx=NOT_CANONICAL)
    assert guest.got().vector == GP


# --- hostile guests

STACKS = (
    NOT_MAPPED,
    NOT_CANONICAL - 64,
    NOT_CANONICAL - 4096,
    0,
    64,
    0xFFFF_FFFF_FFFF_FFC0,
    0x3F0000,
    0x7FFF_FFFF_F000,
)
TEXTS = ("ud2", "int3", "int 0x80", "syscall", "push rax", ERETS, ERETU, "iretq", "swapgs", "sysretq", ".byte 0xf1")


def hostile(seed: int) -> str:
    """A guest with wild MSRs, stacks and entries; the hash of what became of it."""
    rng = random.Random(seed)
    guest = FredGuest(red_zone=rng.randrange(8) * 64, interrupts=rng.randrange(4))
    guest.msr(Msr.FRED_STKLVLS, rng.getrandbits(64))
    for level in range(4):
        if rng.random() < 0.7:
            guest.msr(Msr.FRED_RSP0 + level, rng.choice(STACKS))
    guest.msr(Msr.STAR, rng.getrandbits(64))
    if rng.random() < 0.5:
        guest.msr(Msr.FRED_CONFIG, rng.choice((guest.page, NOT_MAPPED, 0x7FFF_FFFF_F000)) | rng.randrange(4))
    guest.entry_code(RING3, rng.randbytes(16))
    guest.entry_code(RING0, rng.randbytes(16))
    guest.machine.cpus[0].nmi_pending = rng.randrange(2)
    guest.pend()
    guest.set_flags(rng.choice((0, int(Flags.IF), int(Flags.TF))))
    text = "\n".join(rng.choice(TEXTS) for _ in range(4))
    cpl = rng.choice((0, 3))
    guest.privilege(0, cpl)
    guest.start(guest.user_code(text) if cpl else guest.kernel_code(text), rsp=rng.choice(STACKS))
    for _ in range(40):
        guest.machine.run(0, rng.randrange(1, 50))
    return guest.machine.state_hash()


@pytest.mark.parametrize("seed", range(60))
def test_whatever_a_guest_does_with_it_the_host_goes_on_and_does_the_same_again(seed: int) -> None:
    assert hostile(seed) == hostile(seed)
