"""Control transfers that the engine by itself makes otherwise than processors do (kstack.hw.cpu.checked, SDM volume 2)."""

from __future__ import annotations

import pytest

from kstack.x86.entries import A, D
from kstack.x86.flags import Flags
from kstack.x86.msrs import Msr
from kstack.x86.registers import Gpr, Seg
from tests.support.long_mode import AREA, CODE64, DATA, GDT, STACK, SYSTEM_CALL, USER, USER_CODE64, LongModeGuest

GP, SS, PF, UD = 13, 12, 14, 6
NOT_CANONICAL = 1 << 63
BEHIND_66 = {
    "JMP rel8": ".byte 0x66, 0xeb, 0",
    "JMP rel32": ".byte 0x66, 0xe9, 0, 0, 0, 0",
    "JMP r": "lea rax, [rip + on]\n.byte 0x66, 0xff, 0xe0\non: nop",
    "JMP m": "lea rax, [rip + on]\npush rax\n.byte 0x66, 0xff, 0x24, 0x24\non: nop",
    "JMP m, FS": "lea rax, [rip + on]\nmov [rdx], rax\n.byte 0x64, 0x66, 0xff, 0x22\non: nop",
    "CALL rel32": ".byte 0x66, 0xe8, 0, 0, 0, 0",
    "CALL r": "lea rax, [rip + on]\n.byte 0x66, 0xff, 0xd0\non: nop",
    "RET": "lea rax, [rip + on]\npush rax\n.byte 0x66, 0xc3\non: nop",
    "RET n": "lea rax, [rip + on]\npush rax\n.byte 0x66, 0xc2, 0, 0\non: nop",
    "Jcc rel8": "xor eax, eax\n.byte 0x66, 0x74, 0",
    "Jcc rel8, not taken": "xor eax, eax\n.byte 0x66, 0x75, 0",
    "Jcc rel32": "xor eax, eax\n.byte 0x66, 0x0f, 0x84, 0, 0, 0, 0",
    "LOOPNE": "mov ecx, 2\nor ecx, ecx\n.byte 0x66, 0xe0, 0",
    "LOOPE": "cmp ecx, ecx\n.byte 0x66, 0xe1, 0",
    "LOOP": "mov ecx, 2\n.byte 0x66, 0xe2, 0",
    "JRCXZ": "xor ecx, ecx\n.byte 0x66, 0xe3, 0",
    "twice": ".byte 0x66, 0x66, 0xeb, 0",
    "with REX": ".byte 0x66, 0x48, 0xeb, 0",
}


def made() -> LongModeGuest:
    """A guest with a page at AREA that ring 3 may use."""
    guest = LongModeGuest()
    guest.map(AREA, guest.frame(), USER)
    cpu = guest.machine.cpus[0]
    cpu.registers.efer |= 1
    cpu.msrs.write(Msr.STAR, (USER_CODE64 - 16) << 48 | CODE64 << 32)
    cpu.msrs.write(Msr.LSTAR, guest.kernel_code("hlt"))
    return guest


@pytest.mark.parametrize("how", BEHIND_66)
@pytest.mark.parametrize("units", [1, 1000])
def test_a_near_branch_of_64_bit_code_does_not_know_66(how: str, units: int) -> None:
    guest = made()
    guest.privilege(0, 3)
    guest.start(guest.user_code(f"{BEHIND_66[how]}\nint {SYSTEM_CALL:#x}"), rsp=AREA + 2048, rdx=AREA)
    for _ in range(20):
        guest.machine.run(0, units)
    assert guest.vector() == SYSTEM_CALL
    if how.startswith("CALL"):
        rsp = guest.pushed(4)[3]
        assert rsp == AREA + 2048 - 8
        assert guest.memory.read64(guest.memory.read64(guest.entry(AREA)) & ~0xFFF | 2048 - 8) >> 16


@pytest.mark.parametrize("sysret", ["sysretq", "sysret"])
def test_sysret_loads_neither_vm_nor_rf(sysret: str) -> None:
    guest = made()
    user = guest.user_code(f"pushfq\npop rax\nint {SYSTEM_CALL:#x}")
    code = "sysretq" if sysret == "sysretq" else ".byte 0x0f, 0x07"
    guest.start(guest.kernel_code(code), rcx=user, r11=int(Flags.VM | Flags.RF | Flags.FIXED | Flags.CF))
    guest.machine.cpus[0].registers.gpr[Gpr.RSP] = AREA + 2048
    guest.step()
    registers = guest.machine.cpus[0].registers
    assert registers.cpl == 3
    assert not registers.rflags & int(Flags.VM | Flags.RF)
    assert registers.rflags & Flags.CF
    assert registers.gpr[Gpr.R11] & Flags.VM, "it is left as it is"


def _call_gate(guest: LongModeGuest, target: int, dpl: int = 3) -> int:
    """Put a 64-bit call gate at 0x50 and 0x58 of the GDT; its selector."""
    low = target & 0xFFFF | CODE64 << 16 | (0x8C | dpl << 5) << 40 | (target >> 16 & 0xFFFF) << 48
    guest.memory.write64(GDT + 0x50, low)
    guest.memory.write64(GDT + 0x58, target >> 32)
    return 0x50 | 3


def _far_call(guest: LongModeGuest, selector: int, rsp: int) -> None:
    guest.memory.write64(guest.memory.read64(guest.entry(AREA)) & ~0xFFF, 0x1234)
    guest.memory.write64((guest.memory.read64(guest.entry(AREA)) & ~0xFFF) + 4, selector)
    guest.privilege(0, 3)
    guest.start(guest.user_code(".byte 0xff, 0x1a"), rdx=AREA, rsp=rsp)
    guest.until_halt()


@pytest.mark.parametrize("rsp", [AREA + 0x5000, NOT_CANONICAL])
def test_a_call_by_a_gate_to_ring_0_leaves_the_callers_stack_alone(rsp: int) -> None:
    guest = made()
    _far_call(guest, _call_gate(guest, guest.kernel_code("hlt")), rsp)
    assert guest.machine.cpus[0].registers.cpl == 0
    assert not guest.begun
    assert guest.gpr(Gpr.RSP) == STACK - 32


def test_it_sets_neither_accessed_nor_dirty_of_the_callers_stack() -> None:
    guest = made()
    entry = guest.map(AREA + 4096, guest.frame(), USER & ~(A | D))
    _far_call(guest, _call_gate(guest, guest.kernel_code("hlt")), AREA + 8192)
    assert not guest.memory.read64(entry) & (A | D)


@pytest.mark.parametrize("selector", [0x7F0 | 3, DATA | 3, CODE64 | 3])
def test_a_bad_selector_of_a_far_call_comes_before_the_stack(selector: int) -> None:
    guest = made()
    _far_call(guest, selector, AREA + 0x5000)
    assert guest.begun[-1].vector == GP
    assert guest.begun[-1].error == selector & ~3


def test_a_far_call_within_a_ring_looks_at_both_words_first() -> None:
    guest = made()
    guest.map(AREA + 4096, guest.frame(), USER)
    _far_call(guest, USER_CODE64, AREA + 4096 + 4)  # 32 bits each: half of the frame is on the page below
    assert guest.begun[-1].address == 0x1234, "the target, which is not mapped"
    guest = made()
    above = guest.frame()
    guest.map(AREA + 8192, above, USER)
    guest.memory.write64(guest.entry(AREA + 4096), 0)
    _far_call(guest, USER_CODE64, AREA + 8192 + 4)
    assert guest.begun[-1].address is not None
    assert guest.begun[-1].address >> 12 == AREA + 4096 >> 12
    assert guest.memory.read64(above) == 0


def test_iret_to_virtual_8086_mode_from_ia_32e_mode_is_an_end_that_says_so() -> None:
    guest = made()
    text = f"sub rsp, 64\nmov dword ptr [rsp], 0x100\nmov dword ptr [rsp + 4], {CODE64}\n"
    text += f"mov dword ptr [rsp + 8], {int(Flags.VM | Flags.FIXED):#x}\n.byte 0xcf"
    guest.start(guest.kernel_code(text))
    guest.step(units=10)
    assert guest.machine.cpus[0].unsupported is not None
    assert "virtual-8086" in guest.machine.cpus[0].unsupported


@pytest.mark.parametrize(
    "text",
    [
        "lgdt [rbp]",
        "lidt [rbp]",
        "lmsw [rbp]",
        "ltr [rbp]",
        "lldt [rbp]",
        "ldmxcsr [rbp]",
        "fxrstor [rbp]",
        "clflush [rbp]",
        "lock neg qword ptr [rbp]",
        "invpcid rax, [rbp]",
    ],
)
def test_an_operand_by_rbp_that_is_not_canonical_is_ss(text: str) -> None:
    guest = made()
    guest.run(text, rbp=NOT_CANONICAL)
    assert (guest.begun[-1].vector, guest.begun[-1].error) == (SS, 0)
    guest.run(text.replace("rbp", "rbx"), rbx=NOT_CANONICAL)
    assert (guest.begun[-1].vector, guest.begun[-1].error) == (GP, 0)


def test_clflushopt_is_refused_before_it_loads() -> None:
    guest = made()
    entry = guest.map(AREA + 4096, guest.frame(), USER & ~(A | D))
    guest.run(".byte 0x66, 0x0f, 0xae, 0x3b", rbx=AREA + 4096)  # CPUID does not announce it
    assert guest.vector() == UD
    assert not guest.memory.read64(entry) & A


@pytest.mark.parametrize(
    ("msr", "value", "faults"),
    [
        (Msr.PAT, 0x0007040600070406, False),
        (Msr.PAT, 0x0007040600070402, True),
        (Msr.PAT, 0x0807040600070406, True),
        (Msr.FMASK, 0xFFFFFFFF, False),
        (Msr.FMASK, 1 << 32, True),
        (Msr.TSC_AUX, 1 << 63, True),
    ],
)
def test_values_that_an_msr_does_not_take(msr: Msr, value: int, faults: bool) -> None:
    guest = made()
    guest.run("wrmsr", rcx=int(msr), rax=value & 0xFFFFFFFF, rdx=value >> 32)
    assert guest.vector() == (GP if faults else None)


def test_syscall_adds_8_to_the_whole_field_of_star() -> None:
    guest = made()
    guest.machine.cpus[0].msrs.write(Msr.STAR, (CODE64 | 3) << 32)
    guest.privilege(0, 3)
    guest.start(guest.user_code("syscall"))
    guest.until_halt()
    registers = guest.machine.cpus[0].registers
    assert (registers.segment(Seg.CS).selector, registers.segment(Seg.SS).selector) == (CODE64, CODE64 + 8 | 3)
