"""Debug registers: SDM volume 3, 17.2 and 17.3."""

from __future__ import annotations

import pytest

from kstack.guest.asm import assemble
from kstack.x86.control import Cr4
from kstack.x86.flags import CC_FLAGS, Flags
from kstack.x86.registers import Gpr, Seg
from tests.support.long_mode import AREA, HANDLERS, PLAIN, USER, LongModeGuest

DB, UD = 1, 6
BS, BD = 1 << 14, 1 << 13
WRITES, ACCESSES, PORTS = 1, 3, 2
LENGTHS = {1: 0, 2: 1, 8: 2, 4: 3}


def armed(condition: int, size: int = 1, number: int = 0) -> int:
    """DR7 with one breakpoint."""
    return 0x400 | 2 << 2 * number | condition << 16 + 4 * number | LENGTHS[size] << 18 + 4 * number


@pytest.fixture
def guest() -> LongModeGuest:
    made = LongModeGuest(cr4=int(Cr4.DE))
    made.map(AREA, made.frame(), USER)
    made.map(AREA + 4096, made.frame(), USER)
    return made


def arm(guest: LongModeGuest, address: int, dr7: int, number: int = 0) -> None:
    guest.run(f"mov dr{number}, rbx\nmov dr7, rcx", rbx=address, rcx=dr7)


def rip(guest: LongModeGuest) -> int:
    """RIP in the frame of the event that halted the CPU."""
    return guest.pushed(1)[0]


def test_an_instruction_breakpoint_stops_before_the_instruction(guest: LongModeGuest) -> None:
    code = guest.kernel_code("mov eax, 1\nmov eax, 2\nhlt")
    second = code + len(assemble("mov eax, 1", 0))
    arm(guest, second, armed(0))
    guest.start(code)
    guest.until_halt()
    assert guest.vector() == DB
    assert rip(guest) == second
    assert guest.gpr(Gpr.RAX) == 1
    assert guest.machine.cpus[0].registers.dr[6] & 0xF == 1
    assert guest.pushed(3)[2] & Flags.RF


def test_a_return_with_rf_goes_on_past_it_once(guest: LongModeGuest) -> None:
    guest.memory.write(HANDLERS + 16 * DB, assemble("inc r15\niretq", 0))
    code = guest.kernel_code("mov ecx, 3\nagain: inc rax\nloop again\nhlt")
    at = code + len(assemble("mov ecx, 3", 0))
    arm(guest, at, armed(0))
    guest.start(code, rax=0, r15=0)
    guest.until_halt()
    assert (guest.gpr(Gpr.RAX), guest.gpr(Gpr.R15)) == (3, 3)


@pytest.mark.parametrize("quantum", [1, 2, 7, 1000])
def test_it_stops_as_often_whatever_the_quantum(guest: LongModeGuest, quantum: int) -> None:
    guest.memory.write(HANDLERS + 16 * DB, assemble("inc r15\niretq", 0))
    code = guest.kernel_code("mov ecx, 5\nagain: inc rax\nmov [rbx], rax\nloop again\nhlt")
    arm(guest, code + len(assemble("mov ecx, 5", 0)), armed(0))
    guest.run("mov dr1, rbx\nmov dr7, rcx", rbx=AREA, rcx=armed(0) | armed(WRITES, 8, 1))
    guest.start(code, rax=0, r15=0, rbx=AREA)
    for _ in range(400):
        guest.step(units=quantum)
    assert (guest.gpr(Gpr.RAX), guest.gpr(Gpr.R15)) == (5, 10)


@pytest.mark.parametrize(
    ("text", "condition", "hit"),
    [
        ("mov [rbx], eax", WRITES, True),
        ("mov eax, [rbx]", WRITES, False),
        ("mov eax, [rbx]", ACCESSES, True),
        ("mov byte ptr [rbx + 3], 1", WRITES, True),
        ("mov byte ptr [rbx + 4], 1", WRITES, False),
        ("mov [rbx - 7], rax", WRITES, True),
        ("mov [rbx - 8], rax", WRITES, False),
        ("lock inc dword ptr [rbx]", WRITES, True),
        ("mov rdi, rbx\nstosd", WRITES, True),
        ("mov rsi, rbx\nlodsd", WRITES, False),
        ("mov rsp, rbx\nadd rsp, 8\npush rax\nmov rsp, rdi", WRITES, True),
    ],
)
def test_a_data_breakpoint_traps_behind_the_access(guest: LongModeGuest, text: str, condition: int, hit: bool) -> None:
    arm(guest, AREA + 64, armed(condition, 4))
    guest.run(text, rbx=AREA + 64, rdi=guest.stack())
    assert (guest.vector() == DB) == hit
    if hit:
        assert guest.machine.cpus[0].registers.dr[6] & 0xF == 1


def test_the_trap_is_behind_the_instruction_and_its_effect_is_done(guest: LongModeGuest) -> None:
    arm(guest, AREA, armed(WRITES, 8))
    code = guest.kernel_code("mov [rbx], rax\nnop\nhlt")
    guest.start(code, rbx=AREA, rax=7)
    guest.until_halt()
    assert rip(guest) == code + len(assemble("mov [rbx], rax", 0))
    assert guest.load(AREA + 8) == 0
    guest.run("xor eax, eax\nmov dr7, rax")
    assert guest.load(AREA) == 7


def test_behind_mov_ss_it_comes_one_instruction_later(guest: LongModeGuest) -> None:
    arm(guest, AREA, armed(ACCESSES, 2))
    code = guest.kernel_code("mov ss, [rbx]\nmov eax, 5\nnop\nhlt")
    guest.start(code, rbx=AREA, rax=0)
    guest.until_halt()
    assert guest.vector() == DB
    assert guest.gpr(Gpr.RAX) == 5


def test_a_port_breakpoint_needs_cr4_de(guest: LongModeGuest) -> None:
    arm(guest, 0x80, armed(PORTS))
    guest.run("mov al, 1\nout 0x80, al\nnop")
    assert guest.vector() == DB
    guest.run("mov rax, cr4\nand eax, 0xfffffff7\nmov cr4, rax\nout 0x80, al\nnop")
    assert guest.vector() is None


def test_general_detect_guards_the_registers_once(guest: LongModeGuest) -> None:
    guest.run("mov dr7, rcx", rcx=0x400 | 1 << 13)
    guest.run("mov rax, dr0")
    assert guest.vector() == DB
    registers = guest.machine.cpus[0].registers
    assert registers.dr[6] & BD
    assert not registers.dr[7] & 1 << 13
    guest.run("mov rax, dr0")
    assert guest.vector() is None


def test_reserved_bits_read_as_the_manual_has_them(guest: LongModeGuest) -> None:
    guest.run("mov dr7, rcx\nmov rax, dr7\nmov dr6, rdx\nmov rbx, dr6", rcx=0xFFFF_DFFF & ~0xFF, rdx=0)
    assert guest.gpr(Gpr.RAX) == 0xFFFF0700
    assert guest.gpr(Gpr.RBX) == 0xFFFF0FF0
    guest.run("mov dr6, rdx\nmov rbx, dr6", rdx=0xFFFFFFFF)
    assert guest.gpr(Gpr.RBX) == 0xFFFFEFFF


def test_a_single_step_says_so_beside_a_data_breakpoint(guest: LongModeGuest) -> None:
    arm(guest, AREA, armed(WRITES, 8))
    guest.run("pushfq\nor qword ptr [rsp], 0x100\npopfq\nmov [rbx], rax\nnop", rbx=AREA)
    assert guest.vector() == DB
    assert guest.machine.cpus[0].registers.dr[6] & BS


def test_they_are_restored_with_the_machine_and_gone_after_init(guest: LongModeGuest) -> None:
    arm(guest, AREA, armed(WRITES, 8))
    saved = guest.machine.snapshot()
    guest.run("xor eax, eax\nmov dr7, rax")
    assert guest.store(AREA, 1)
    guest.machine.restore(saved)
    assert not guest.store(AREA, 1)
    guest.machine.cpus[0].reset()
    assert not guest.machine.cpus[0].breakpoints.data


def test_dr4_and_dr5_are_none_with_cr4_de(guest: LongModeGuest) -> None:
    guest.run("mov rax, dr4")
    assert guest.vector() == UD


def test_code_on_a_page_that_a_data_breakpoint_watches_may_fault(guest: LongModeGuest) -> None:
    code = guest.kernel_code("nop\nmov rbx, -8\nmov eax, [rbx]\nhlt")  # -8 is not mapped
    arm(guest, code + 0x800, armed(WRITES))
    guest.start(code)
    guest.until_halt()
    assert guest.vector() == 14
    assert guest.pushed(2)[1] == code + len(assemble("nop\nmov rbx, -8", 0))


@pytest.mark.parametrize("seen", [False, True], ids=["", "returns are seen"])
@pytest.mark.parametrize("blocked", [False, True], ids=["", "in an NMI's handler"])
def test_an_iret_whose_frame_is_watched_returns_and_traps_behind(blocked: bool, seen: bool) -> None:
    guest = LongModeGuest()
    cpu = guest.machine.cpus[0]
    top = guest.stack() - 64
    back = guest.kernel_code("nop\nnop\nhlt")
    for number, word in enumerate((back, cpu.registers.segment(Seg.CS).selector, 2, guest.stack(), 0)):
        guest.memory.write64(top + 8 * number, word)
    cpu.registers.dr[0] = top
    cpu.registers.dr[7] |= 1 | 0b1011 << 16  # loads and stores of eight bytes
    if seen:  # a breakpoint on an instruction that is never reached makes RF matter
        cpu.registers.dr[1] = HANDLERS
        cpu.registers.dr[7] |= 1 << 2
    cpu.arm()
    guest.start(guest.kernel_code("iretq"), rsp=top)
    cpu._block_nmi(blocked)
    guest.until_halt()
    (trap,) = guest.begun
    assert trap.vector == 1 and guest.pushed(1) == [back]
    assert cpu.registers.dr[6] & 1 and not cpu.nmi_blocked


def test_what_is_put_right_behind_an_instruction_is_so_where_its_operand_is_watched() -> None:
    guest = LongModeGuest()
    frame = guest.frame()
    guest.map(AREA, frame, PLAIN)
    guest.memory.write64(frame, 5)
    cpu = guest.machine.cpus[0]
    cpu.registers.dr[0] = AREA
    cpu.registers.dr[7] |= 1 | 0b1011 << 16
    cpu.arm()
    guest.run("lock neg qword ptr [rbx]", rbx=AREA)
    assert guest.memory.read64(frame) == (1 << 64) - 5
    assert guest.begun[-1].vector == 1
    assert guest.pushed(3)[2] & CC_FLAGS == Flags.CF | Flags.SF | Flags.AF
