"""Event delivery obeys SDM volume 3A, chapter 6; each rule has a check that fails without it.

Handlers halt where they begin, unless a test gives its own: the frame they were given lies at RSP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from kstack.hw.cpu.events import UNDEFINED_RIP
from kstack.hw.cpu.state import ActivityState
from kstack.hw.modes import Modes
from kstack.hw.rules import Rule
from kstack.x86.control import Cr4
from kstack.x86.entries import NX, RW
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment
from kstack.x86.vectors import DF, GP, NMI, NP, PF, UD
from tests.support.long_mode import (
    AREA,
    CODE32,
    CODE64,
    DATA,
    EXTERNAL,
    USER,
    USER_CODE64,
    USER_DATA,
    LongModeGuest,
)
from tests.support.rules import each_rule_of

IST1, IST2, IST3 = 0x24, 0x2C, 0x34
NOT_MAPPED: Final = AREA + (1 << 21)
RESERVED: Final = 1 << 51
BAD_POINTER: Final = 1 << 63  # not canonical: a load through it raises #GP(0)


def spare_stack(guest: LongModeGuest) -> int:
    """A stack of one page, mapped one to one; its top."""
    return guest.frame() + 4096


def frame_top(guest: LongModeGuest, words: int = 5) -> int:
    """Where RSP was before the frame of the event that halted the CPU was pushed."""
    return guest.gpr(Gpr.RSP) + 8 * words


# --- page faults (4.7, 6.15)


def check_pf_error_code(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    system, user, read_only, data, reserved = (AREA + 4096 * number for number in range(5))
    guest.map(system, guest.frame())
    guest.map(user, guest.frame(), USER)
    guest.map(read_only, guest.frame(), USER & ~RW)
    guest.map(data, guest.frame(), USER | NX)
    guest.map(reserved, guest.frame(), USER | RESERVED)
    kernel, at_user = guest.run, guest.run_user
    read, write, fetch = "mov rax, [rbx]", "mov [rbx], rax", "jmp rbx"
    cases: tuple[tuple[Callable[..., int], str, int, int], ...] = (
        (kernel, read, NOT_MAPPED, 0b00000),
        (kernel, write, NOT_MAPPED, 0b00010),
        (at_user, read, NOT_MAPPED, 0b00100),
        (at_user, write, NOT_MAPPED, 0b00110),
        (kernel, fetch, NOT_MAPPED, 0b10000),
        (kernel, write, read_only, 0b00011),
        (at_user, read, system, 0b00101),
        (at_user, write, read_only, 0b00111),
        (kernel, fetch, data, 0b10001),
        (at_user, fetch, data, 0b10101),
        (kernel, read, reserved, 0b01001),
        (at_user, write, reserved, 0b01111),
    )
    for run, text, address, error in cases:
        run(text, rbx=address)
        assert (guest.vector(), guest.pushed(1)) == (PF, [error]), (text, hex(address))


def check_pf_cr2(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    read_cr2 = guest.kernel_code("mov rax, cr2\nhlt")
    guest.gate(PF, read_cr2)
    assert guest.run("mov rax, [rbx]", rbx=NOT_MAPPED + 0x123) == NOT_MAPPED + 0x123
    nested = guest.kernel_code("mov rdx, cr2\ncmp rdx, rsi\nje .Ldone\nmov rax, [rsi]\n.Ldone: hlt")
    guest.gate(PF, nested)
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED, rsi=NOT_MAPPED + 0x888)
    assert guest.gpr(Gpr.RDX) == NOT_MAPPED + 0x888, "a fault in the handler overwrites it"
    guest.gate(PF, ist=1)
    guest.gate(DF, read_cr2)
    guest.tss_stack(IST1, NOT_MAPPED + 4096)
    assert guest.run("mov rax, [rbx]", rbx=AREA) == NOT_MAPPED + 4096 - 8, "and so does one that becomes #DF"


# --- stacks and frames (6.14)


def check_ist_switch(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    top = spare_stack(guest)
    guest.tss_stack(IST3, top)
    guest.gate(UD, ist=3)
    guest.run("ud2")
    assert frame_top(guest) == top
    guest.run_user("ud2")
    assert frame_top(guest) == top, "from CPL 3, too"
    guest.run("ud2", rsp=top - 512)
    assert frame_top(guest) == top, "even from that stack itself"


def check_ist_rewinds(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    top = spare_stack(guest)
    guest.tss_stack(IST1, top)
    guest.gate(UD, guest.kernel_code("inc rcx\ncmp rcx, 2\nje .Lagain\nud2\n.Lagain: hlt"), ist=1)
    guest.run("ud2", rcx=0)
    assert guest.gpr(Gpr.RCX) == 2
    assert frame_top(guest) == top
    assert guest.pushed(5)[3] == top - 40, "the frame of the first is overwritten"


def check_frame_aligned(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    for off in range(1, 16, 3):
        guest.run("ud2", rsp=guest.stack() - off)
        assert frame_top(guest) == guest.stack() - 16
        assert guest.pushed(5)[3] == guest.stack() - off
    guest.tss_stack(IST1, spare_stack(guest) - 8)
    guest.gate(UD, ist=1)
    guest.run("ud2")
    assert frame_top(guest) % 16 == 0, "with IST, too"


def check_frame_words(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    flags = int(Flags.FIXED | Flags.CF)
    at = guest.kernel_code("stc\nud2")
    guest.start(at)
    guest.until_halt()
    assert guest.pushed(5) == [at + 1, CODE64, flags | Flags.RF, guest.stack(), DATA]
    at = guest.kernel_code("stc\nmov rax, [rbx]")
    guest.start(at, rbx=NOT_MAPPED)
    guest.until_halt()
    assert guest.pushed(6) == [0, at + 1, CODE64, flags | Flags.RF, guest.stack(), DATA]
    at = guest.user_code("stc\nint3")
    guest.gate(3, dpl=3)
    guest.privilege(0, 3)
    guest.start(at, rsp=0x1234)
    guest.until_halt()
    assert guest.pushed(5) == [at + 2, USER_CODE64, flags, 0x1234, USER_DATA], "a trap: after it, and without RF"


def check_no_switch_at_equal_cpl(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.tss_stack(4, spare_stack(guest))
    guest.run("ud2", rsp=guest.stack() - 1024)
    assert frame_top(guest) == guest.stack() - 1024
    guest.tss_stack(IST1, spare_stack(guest))
    guest.gate(DF, ist=1)
    guest.map(AREA, guest.frame())
    guest.run("push rax", rsp=AREA)
    assert guest.vector() == DF, "a fault for want of stack faults again, where no IST saves it"


# --- faults during delivery (table 6-5)


def check_double_fault_contributory(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.no_gate(GP)
    guest.run("mov rax, [rbx]", rbx=BAD_POINTER)
    assert [event.vector for event in guest.begun] == [GP, DF]
    assert guest.vector() == DF
    guest.gate(GP)
    guest.no_gate(0)
    guest.run("xor ecx, ecx\ndiv rcx")
    assert guest.vector() == DF, "#DE, too"


def check_double_fault_page_fault(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.no_gate(PF)
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert guest.vector() == DF, "#PF, then #NP"
    guest.gate(PF, ist=1)
    guest.tss_stack(IST1, NOT_MAPPED)
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert [event.vector for event in guest.begun] == [PF, DF], "#PF, then #PF"
    assert guest.vector() == DF


def check_serial_faults(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.tss_stack(IST1, NOT_MAPPED)
    guest.gate(GP, ist=1)
    at = guest.kernel_code("mov rax, [rbx]")
    guest.start(at, rbx=BAD_POINTER)
    guest.until_halt()
    assert guest.vector() == PF, "#GP, then #PF: the page fault is handled, then the first again"
    assert guest.pushed(2) == [2, at]
    guest.gate(UD, ist=1)
    guest.run("ud2")
    assert guest.vector() == PF, "benign, then #PF"
    guest.no_gate(UD)
    guest.run("ud2")
    assert guest.vector() == NP, "benign, then contributory"
    assert guest.pushed(1) == [UD * 8 | 0b11]


def check_triple_fault(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.no_gate(PF)
    guest.no_gate(DF)
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert guest.machine.cpus[0].state is ActivityState.SHUTDOWN, "contributory"
    guest = LongModeGuest(rules)
    guest.tss_stack(IST1, NOT_MAPPED)
    guest.gate(PF, ist=1)
    guest.gate(DF, ist=1)
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert guest.machine.cpus[0].state is ActivityState.SHUTDOWN, "page fault"


def check_df_error_zero(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.bad_gate(PF)
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert guest.vector() == DF
    assert guest.pushed(1) == [0]


def check_df_state_undefined(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    guest.no_gate(PF)
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert guest.vector() == DF
    assert guest.pushed(2)[1] == UNDEFINED_RIP
    guest.gate(DF, guest.kernel_code("add rsp, 8\niretq"))
    guest.run("mov rax, [rbx]", rbx=NOT_MAPPED)
    assert guest.vector() == GP, "nobody can return to it"


# --- interrupts and NMI (6.7, 6.8)


def fault_in_delivery(guest: LongModeGuest) -> None:
    """Let the delivery of an interrupt fault, and mend the stack afterwards."""
    guest.tss_stack(IST1, NOT_MAPPED)
    guest.gate(EXTERNAL, ist=1)
    guest.set_flags(Flags.IF)
    guest.pend()
    guest.run("nop")
    assert guest.vector() == PF
    guest.tss_stack(IST1, spare_stack(guest))
    guest.set_flags(Flags.IF)
    guest.run("nop\nnop")


def check_interrupt_lost(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules, modes=Modes(interrupted_delivery="lost"))
    fault_in_delivery(guest)
    assert guest.vector() is None
    assert guest.machine.cpus[0].counts.interrupts == 1


def check_nmi_blocked(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    cpu = guest.machine.cpus[0]
    guest.gate(NMI, guest.kernel_code("inc rcx\nnop\nnop\nnop\niretq"))
    guest.start(guest.kernel_code("nop\nnop\nhlt"), rcx=0)
    cpu.nmi()
    guest.step()
    cpu.nmi()
    for _ in range(4):
        guest.step()
        assert cpu.counts.nmis == 1
    guest.step(units=2)
    assert cpu.counts.nmis == 2, "after IRET the one that was latched comes"
    guest.until_halt()
    assert (guest.gpr(Gpr.RCX), cpu.counts.nmis) == (2, 2)


def check_nmi_unblocked_by_faulting_iret(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    cpu = guest.machine.cpus[0]
    guest.gate(NMI, guest.kernel_code(f"inc rcx\nmov qword ptr [rsp + 8], {DATA}\niretq"))
    guest.start(guest.kernel_code("nop\nhlt"), rcx=0)
    cpu.nmi()
    guest.step(units=2)
    cpu.nmi()
    guest.until_halt()
    assert guest.vector() == GP, "the IRET faulted"
    assert guest.gpr(Gpr.RCX) == 2, "and the second NMI came all the same"


def stepped(guest: LongModeGuest, at: int, steps: int, **gprs: int) -> None:
    """Run `steps` instructions one slice each; an interrupt arrives after the first; then run on."""
    guest.start(at, **gprs)
    guest.step()
    guest.pend()
    for _ in range(steps - 1):
        guest.step()


def check_sti_shadow(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    at = guest.kernel_code("sti\nmov al, 1\nmov al, 2\nhlt")
    guest.set_flags(0)
    stepped(guest, at, 2, rax=0)
    assert guest.gpr(Gpr.RAX) == 1, "the instruction after STI runs first"
    guest.until_halt()
    assert (guest.vector(), guest.gpr(Gpr.RAX), guest.pushed(1)) == (EXTERNAL, 1, [at + 3])
    guest = LongModeGuest(rules)
    guest.set_flags(0)
    guest.pend()
    at = guest.kernel_code("sti\nmov al, 1\nmov al, 2\nhlt")
    guest.start(at, rax=0)
    guest.until_halt()
    assert (guest.vector(), guest.gpr(Gpr.RAX)) == (EXTERNAL, 1), "and in one slice"


def check_mov_ss_shadow(rules: frozenset[Rule]) -> None:
    guest = LongModeGuest(rules)
    at = guest.kernel_code("mov ss, edx\nmov al, 1\nmov al, 2\nhlt")
    guest.set_flags(Flags.IF)
    stepped(guest, at, 2, rax=0, rdx=DATA)
    assert guest.gpr(Gpr.RAX) == 1
    guest.until_halt()
    assert (guest.vector(), guest.gpr(Gpr.RAX)) == (EXTERNAL, 1)
    guest = LongModeGuest(rules)
    at = guest.kernel_code(".byte 0x17 # pop ss\nmov al, 1\nmov al, 2\nhlt", bits=32)
    guest.machine.cpus[0].registers.set_segment(Seg.CS, Segment(CODE32, 0, 0xFFFFFFFF, 0x00CF9B00))
    guest.set_flags(Flags.IF)
    guest.memory.write64(guest.stack() - 8, DATA)
    stepped(guest, at, 2, rax=0, rsp=guest.stack() - 8)
    assert guest.gpr(Gpr.RAX) == 1, "POP SS, which only code that is not 64-bit has"
    guest.until_halt()
    assert (guest.vector(), guest.gpr(Gpr.RAX)) == (EXTERNAL, 1)


def check_shadow_not_for_faults(rules: frozenset[Rule]) -> None:
    for first in ("mov ss, edx", "sti"):
        guest = LongModeGuest(rules)
        guest.set_flags(0)
        at = guest.kernel_code(f"{first}\nmov rax, [rbx]\nhlt")
        guest.start(at, rbx=NOT_MAPPED, rdx=DATA)
        guest.until_halt()
        assert guest.vector() == PF, first
        assert guest.pushed(2)[1] == at + (2 if first.startswith("mov") else 1)


test_rule_holds, test_the_rules_check_fails_without_the_rule = each_rule_of(globals())


def test_an_interrupt_whose_delivery_faulted_comes_again_in_mode_restarted() -> None:
    guest = LongModeGuest(modes=Modes(interrupted_delivery="restarted"))
    fault_in_delivery(guest)
    assert guest.vector() == EXTERNAL


def test_an_interrupt_of_the_8259_comes_again_too() -> None:
    guest = LongModeGuest()
    machine = guest.machine
    machine.apics[0].virtual_wire()
    for port, value in ((0x20, 0x11), (0x21, EXTERNAL), (0x21, 4), (0x21, 1), (0x21, 0)):
        machine.ports.write(port, 1, value)
    guest.tss_stack(IST1, NOT_MAPPED)
    guest.gate(EXTERNAL, ist=1)
    guest.set_flags(Flags.IF)
    machine.pics.pulse_irq(0)
    guest.run("nop")
    assert guest.vector() == PF
    assert not machine.apics[0].withdraw(EXTERNAL), "it is none of the APIC's"
    guest.tss_stack(IST1, spare_stack(guest))
    guest.set_flags(Flags.IF)
    guest.run("nop\nnop")
    assert guest.vector() == EXTERNAL


def test_with_df_restart_exact_the_saved_state_is_the_faults() -> None:
    guest = LongModeGuest(modes=Modes(df_restart="exact"))
    guest.tss_stack(IST1, spare_stack(guest))
    guest.gate(DF, ist=1)
    guest.map(AREA, guest.frame())
    at = guest.kernel_code("push rax")
    guest.start(at, rsp=AREA)
    guest.until_halt()
    assert guest.vector() == DF
    assert guest.pushed(6)[:2] == [0, at]
    assert guest.pushed(6)[4] == AREA


def test_lss_has_no_shadow() -> None:
    guest = LongModeGuest()
    pointer = guest.frame(guest.stack() | DATA << 32)
    guest.set_flags(Flags.IF)
    stepped(guest, guest.kernel_code("lss esp, [rbx]\nmov al, 1\nhlt"), 2, rax=0, rbx=pointer)
    assert guest.gpr(Gpr.RAX) == 0
    guest.until_halt()
    assert guest.vector() == EXTERNAL


def test_sti_then_hlt_cannot_miss_an_interrupt() -> None:
    guest = LongModeGuest()
    guest.set_flags(0)
    guest.pend()
    at = guest.kernel_code("sti\nhlt\nmov al, 1\nhlt")
    guest.gate(EXTERNAL, guest.kernel_code("iretq"))
    guest.start(at, rax=0)
    guest.until_halt()
    assert guest.gpr(Gpr.RAX) == 1


@pytest.mark.parametrize("smap", [False, True])
def test_a_frame_on_a_user_page_faults_with_smap_alone(smap: bool) -> None:
    guest = LongModeGuest(cr4=Cr4.SMAP if smap else 0)
    guest.map(AREA, guest.frame(), USER)
    guest.tss_stack(IST1, spare_stack(guest))
    guest.gate(DF, ist=1)
    guest.run("ud2", rsp=AREA + 4096)
    assert [event.vector for event in guest.begun] == ([UD, PF, DF] if smap else [UD])
