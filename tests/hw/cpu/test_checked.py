"""Instructions that the engine by itself executes otherwise than processors do: each is right, here (kstack.hw.cpu.checked)."""

from __future__ import annotations

from itertools import product

import pytest

from kstack.guest.asm import assemble
from kstack.hw.cpu.checked import RULES, look_at, rule_of, tables
from kstack.hw.cpu.encoding import Encoding, encoding_of, taken_as
from kstack.hw.engine.checks import BANK
from kstack.x86.control import Cr0, Cr4
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from tests.support.long_mode import AREA, KERNEL_CODE, PLAIN, USER, LongModeGuest

NOT_CANONICAL = 1 << 63
HIGH = 0x1111_1111_0000_0000
SS, GP, PF, UD, DB, NM = 12, 13, 14, 6, 1, 7


def made(cr4: int = int(Cr4.FSGSBASE)) -> LongModeGuest:
    """A guest with two pages at AREA, and nothing behind them."""
    guest = LongModeGuest(cr4=cr4)
    for number in range(2):
        guest.map(AREA + 4096 * number, guest.frame(), USER)
    return guest


FAULTS = {
    "movaps xmm0, [rbx + 8]": GP,
    "movaps [rbx + 8], xmm0": GP,
    "paddd xmm0, [rbx + 8]": GP,
    "movntdq [rbx + 8], xmm0": GP,
    "movshdup xmm1, [rbx + 4]": GP,
    "pshufb xmm1, [rbx + 1]": GP,
    "addss xmm0, [rbx + 4]": None,
    "movups xmm0, [rbx + 8]": None,
    "pmovsxbw xmm0, qword ptr [rbx + 8]": None,
    "mov rbp, rcx\nmov rax, [rbp]": SS,
    "mov rbp, rcx\nleave": SS,
    "mov rax, [rcx]": GP,
    "mov rbp, rcx\nmov rax, fs:[rbp]": GP,
    "mov dword ptr [rbx], 0x80001f80\nldmxcsr [rbx]": GP,
    "mov dword ptr [rbx], 0x1f80\nldmxcsr [rbx]": None,
    "fxsave [rbx]\nmov dword ptr [rbx + 24], 0x10000\nfxrstor [rbx]": GP,
    "wrgsbase rcx": GP,
    "wrfsbase rcx": GP,
    "wrgsbase ecx": None,
    "mov word ptr [rbx], 0xff\nmov [rbx + 2], rcx\nlgdt [rbx]": GP,
    "mov word ptr [rbx], 0xff\nmov [rbx + 2], rcx\nlidt [rbx]": GP,
    "clflush [rbx + 0x3000]": PF,
    "clflush [rbx]": None,
    "mov eax, 3\nmov ss, ax": GP,
    "xor eax, eax\nmov ss, ax": None,
    "xor eax, eax\nltr ax": GP,
    "xor eax, eax\nlldt ax": None,
    "sysenter": UD,
    ".byte 0x0f, 0x35": UD,  # SYSEXIT
    ".byte 0x0f, 0x38, 0xf0, 0xc1": UD,  # MOVBE of registers
    ".byte 0xc5, 0xf8, 0x58, 0xc1": UD,  # VADDPS
    ".byte 0xc4, 0xe2, 0x70, 0xf2, 0xc0": UD,  # ANDN
    ".byte 0xf0, 0x48, 0x89, 0x03": UD,  # LOCK MOV
    ".byte 0xf0, 0x01, 0xc0": UD,  # LOCK ADD of registers
    ".byte 0xf0, 0x0f, 0xa3, 0xc1": UD,  # LOCK BT
    "lock add [rbx], eax": None,
    "lock cmpxchg [rbx], edx": None,
    ".byte 0x8f, 0xc8": UD,  # POP's /1
    ".byte 0x0f, 0x50, 0x03": UD,  # MOVMSKPS of memory
    ".byte 0xf2, 0x0f, 0xc3, 0x03": UD,
    ".byte 0x66, 0xf2, 0x0f, 0x28, 0xc1": UD,  # F2 selects, and there is no such MOVAPS
    ".byte 0x0f, 0xc2, 0xc1, 0x1f": None,  # CMPPS with an immediate beyond 7
    ".byte 0xf6, 0xc8, 0x01": None,  # TEST as /1
    ".byte 0x0f, 0x18, 0xc1": None,  # a hint with a register
    "jmp rcx": GP,
    "call rcx": GP,
    "push rcx\nret": GP,
    "enter 0x3000, 0": None,
}


@pytest.mark.parametrize("text", FAULTS)
def test_it_faults_where_processors_do(text: str) -> None:
    guest = made()
    guest.run(text, rbx=AREA, rcx=NOT_CANONICAL, rsp=guest.stack() - 64)
    assert guest.vector() == FAULTS[text]
    if FAULTS[text] in (GP, SS):
        assert guest.begun[-1].error == 0


def test_a_fault_is_at_its_instruction() -> None:
    guest = made()
    before = len(assemble("nop", 0))
    for text, words in (("jmp rcx", 1), ("push rcx\nret", 1), ("sysenter", 0), ("movaps xmm0, [rbx + 8]", 1)):
        start = KERNEL_CODE if not guest.begun else guest._next_code
        guest.run("nop\n" + text, rbx=AREA, rcx=NOT_CANONICAL)
        rip = guest.pushed(2)[words]
        pushes = len(assemble("push rcx", 0)) if "push" in text else 0
        assert rip == start + before + pushes, text


def test_cmpxchg_writes_what_has_changed_alone() -> None:
    guest = made()
    guest.run("mov dword ptr [rbx], 0x44\nmov eax, 0x44\nor rax, r8\nlock cmpxchg [rbx], edx", rbx=AREA, r8=HIGH, rdx=1)
    assert guest.gpr(Gpr.RAX) == HIGH | 0x44
    guest.run("mov eax, 1\ncmpxchg ecx, edx", rcx=HIGH | 0x33, rdx=1)
    assert guest.gpr(Gpr.RCX) == HIGH | 0x33
    assert guest.gpr(Gpr.RAX) == 0x33


@pytest.mark.parametrize(
    "text", ["movups [rbx], xmm0", "fstp tbyte ptr [rbx]", "fnsave [rbx]", "sgdt [rbx]", "fxsave [rbx]"]
)
def test_a_store_over_the_end_of_a_page_is_done_whole_or_not_at_all(text: str) -> None:
    guest = LongModeGuest()
    frame = guest.frame()
    guest.map(AREA, frame, PLAIN)
    guest.memory.write(frame, b"\x5a" * 4096)
    near = 16 if text.startswith("fx") else 8
    guest.run("fninit\nfld1\n" + text, rbx=AREA + 4096 - near)
    assert guest.vector() == PF
    assert guest.memory.read(frame, 4096) == b"\x5a" * 4096


def test_a_return_takes_the_selector_of_gs_and_leaves_its_base() -> None:
    guest = made()
    registers = guest.machine.cpus[0].registers
    registers.set_segment(Seg.GS, registers.segment(Seg.DS)._replace(base=0x123000))
    user = guest.user_code("int 0x80")
    guest.run("push 0x23\npush rcx\npush 2\npush 0x2b\npush rdx\niretq", rcx=guest.stack() - 512, rdx=user)
    assert registers.segment(Seg.GS).selector == 0
    assert registers.segment(Seg.GS).base == 0x123000


def test_ring_3_cannot_read_the_kernels_memory_by_a_far_return() -> None:
    guest = made()
    for text in ("iretq", "retfq"):
        guest.run_user(text, rsp=0x8000)
        assert guest.begun[-1].vector == PF, text


def test_a_trap_flag_wakes_a_halted_cpu() -> None:
    guest = made()
    guest.run("pushfq\nor qword ptr [rsp], 0x100\npopfq\nhlt\nnop")
    assert guest.vector() == DB


def test_syscall_with_the_trap_flag_traps_behind_itself() -> None:
    guest = made()
    cpu = guest.machine.cpus[0]
    cpu.registers.efer |= 1
    cpu.msrs.write(0xC0000081, 0x08 << 32)
    cpu.msrs.write(0xC0000082, guest.kernel_code("hlt"))
    guest.privilege(0, 3)
    guest.start(guest.user_code("syscall"))
    cpu.registers.rflags = int(Flags.TF | Flags.FIXED)
    guest.until_halt()
    assert guest.begun[-1].vector == DB


def test_horizontal_sums_of_a_register_with_itself() -> None:
    guest = made()
    guest.run("mov rax, 0x0004000300020001\nmovq xmm0, rax\npunpcklqdq xmm0, xmm0\nphaddw xmm0, xmm0\nmovq rax, xmm0")
    assert guest.gpr(Gpr.RAX) == 0x0007000300070003


def test_lock_neg_has_the_flags_of_the_new_value() -> None:
    guest = made()
    guest.run("mov qword ptr [rbx], 5\nlock neg qword ptr [rbx]\npushfq\npop rax", rbx=AREA)
    assert guest.gpr(Gpr.RAX) & 0x8D5 == 0x95 & ~4 | 4 * (0xFB.bit_count() % 2 == 0)


@pytest.mark.parametrize(
    "text", ["pcmpestri xmm0, xmm1, 0", "pcmpestrm xmm0, xmm1, 0", "rex.w\npcmpestri xmm0, xmm1, 0"]
)
def test_string_lengths_without_an_absolute_value_do_not_end_the_process(text: str) -> None:
    guest = made()
    text = text.replace("rex.w\n", ".byte 0x66, 0x48, 0x0f, 0x3a, 0x61, 0xc1, 0\n#")
    guest.run(text, rax=0x80000000, rdx=NOT_CANONICAL)
    assert guest.vector() is None


def test_512_instructions_of_the_x87_in_a_row_do_not_end_the_process() -> None:
    guest = made()
    code = guest.kernel_code("nop")
    guest.memory.write(code, assemble("fld1", 0) * 1200 + b"\xf4")
    guest.start(code)
    guest.until_halt(units=5000)
    assert guest.vector() is None


def test_the_code_of_a_refused_instruction_is_not_changed() -> None:
    guest = made()
    code = guest.kernel_code(".byte 0xf0, 0x0f, 0xa3, 0xc1")
    before = guest.memory.read(code, 16)
    guest.start(code)
    guest.until_halt()
    assert guest.vector() == UD
    assert guest.memory.read(code, 16) == before


def test_a_refused_instruction_that_is_stored_over_runs_as_what_it_has_become() -> None:
    guest = made()
    code = guest.kernel_code("mov byte ptr [rip + 5], 0x90\nnop\n.byte 0xf0, 0x0f, 0xa3, 0xc1\nhlt")
    at = guest.memory.read(code, 32).index(b"\xf0\x0f\xa3")
    for _ in range(2):
        guest.start(code + at)
        guest.until_halt()
        assert guest.vector() == UD
    guest.memory.write(code + at + 2, b"\x1f")
    guest.memory.write(code + at, b"\x90")
    guest.machine.cpus[0].engine.drop_code(code, 64)
    guest.start(code + at)
    guest.until_halt()
    assert guest.vector() is None


def test_the_tables_ask_about_everything_that_a_rule_is_for() -> None:
    asked = tables()
    for number, name in enumerate(("", "0f", "0f38", "0f3a")):
        for opcode in range(256):
            for prefixes, bits in product((b"", b"\x66", b"\xf2", b"\xf3"), (16, 32, 64)):
                if asked[256 * (number + BANK * (b"\x66" in prefixes)) + opcode]:
                    continue
                for modrm in range(0, 256, 8):
                    found = Encoding(bits, prefixes, 0x48 if bits == 64 else 0, name, opcode, modrm)
                    assert rule_of(found) is None, f"{name} {opcode:#x}"
                    code = prefixes + bytes.fromhex(name) + bytes((opcode, modrm)) + bytes(8)
                    assert taken_as(code, bits) == code


def test_each_rule_is_for_something() -> None:
    """No rule stands in another's shadow, and each is one that the tables ask about."""
    texts = [text.split("\n")[-1] for text in FAULTS]
    extra = [
        "lock neg dword ptr [rbx]",
        "phaddw xmm0, xmm0",
        "pabsb mm0, mm1",
        "iretq",
        "sysretq",
        "outsb",
        "cmpxchg [rbx], edx",
        "repne scasb",
    ]
    extra += [
        "movups [rbx], xmm0",
        "fld tbyte ptr [rbx]",
        ".byte 0xff, 0x1b",
        ".byte 0x0f, 0xb2, 0x03",
        "pcmpestri xmm0, xmm1, 0",
        "lldt ax",
    ]
    extra += ["enter 1, 0", "fxrstor [rbx]", "popfq", ".byte 0xcf"]
    found = set()
    for text, bits in [(text, 64) for text in texts + extra] + [
        (".byte 0x9a, 0, 0, 0, 0, 8, 0", 32),
        ("mov ds, eax", 32),
    ]:
        code = assemble(text, 0, bits).ljust(15, b"\0")
        encoding = encoding_of(taken_as(code, bits), bits)
        rule = None if encoding is None else rule_of(encoding)
        if rule is not None:
            found.add(RULES.index(rule))
            assert look_at(code, bits, 0) is not None, text
    assert found == set(range(len(RULES)))


STEPS = {
    "movups xmm1, [rbx]": 16,
    "movupd xmm1, [rbx]": 16,
    "movdqu xmm1, [rbx]": 16,
    "lddqu xmm1, [rbx]": 16,
    "movups [rbx], xmm1": 16,
    "fxrstor [rbx]": 512,
    "fxsave [rbx]": 512,
    "fldenv [rbx]": 28,
    "frstor [rbx]": 108,
    ".byte 0x66, 0xdd, 0x23 # frstor of 16 bits": 94,
    "fnstenv [rbx]": 28,
    ".byte 0x66, 0xd9, 0x33 # fnstenv of 16 bits": 14,
    "fnsave [rbx]": 108,
    "fld tbyte ptr [rbx]": 10,
    "fstp tbyte ptr [rbx]": 10,
}


@pytest.mark.parametrize("text", STEPS)
def test_nothing_is_left_of_what_reaches_into_a_page_that_faults(text: str) -> None:
    size = STEPS[text]
    guest = made()
    cpu = guest.machine.cpus[0]
    for number in range(8):
        cpu.registers.set_mm(number, bytes([number]) * 8)
    cpu.registers.set_xmm(1, b"\x77" * 16)
    step = 16 if "fx" in text else 1
    last = AREA + 8192 - size & -step
    before = cpu.registers.xmm(1), cpu.registers.mm(0), cpu.registers.mm(5)
    guest.run(text, rbx=last + step)
    assert guest.vector() == PF
    assert (cpu.registers.xmm(1), cpu.registers.mm(0), cpu.registers.mm(5)) == before
    assert guest.machine.cpus[0].registers.cr[2] == AREA + 8192
    guest.run(text, rbx=last)
    assert guest.vector() is None


@pytest.mark.parametrize("text", list(STEPS))
def test_a_switched_off_fpu_is_found_out_before_the_page_that_faults(text: str) -> None:
    guest = made()
    guest.machine.cpus[0].registers.cr[0] |= Cr0.TS
    guest.run(text, rbx=AREA + 8192 - 16 & -16 if "fx" in text else AREA + 8191)
    assert guest.vector() == NM
