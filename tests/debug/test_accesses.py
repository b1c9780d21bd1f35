"""What an instruction accesses is known before it runs, and is what it does."""

from __future__ import annotations

import pytest

from kstack.debug.accesses import AccessedRange, accesses
from kstack.x86.registers import Gpr, Seg
from tests.support.long_mode import FRAMES, LongModeGuest

DATA = FRAMES  # 1:1
STACK = FRAMES + 0x800
READ, WRITE, BOTH = (True, False), (False, True), (True, True)
CASES = [
    ("mov rax, [rbx]", [(DATA, 8, READ)]),
    ("mov [rbx+rcx*8+4], eax", [(DATA + 3 * 8 + 4, 4, WRITE)]),
    ("mov al, gs:[rbx]", [(DATA + 0x40, 1, READ)]),
    ("add word ptr [rbx], 1", [(DATA, 2, BOTH)]),
    ("cmp byte ptr [rbx], 1", [(DATA, 1, READ)]),
    ("lock cmpxchg [rbx], rcx", [(DATA, 8, BOTH)]),
    ("xchg [rbx], eax", [(DATA, 4, BOTH)]),
    ("bts qword ptr [rbx], rdx", [(DATA - 8, 8, BOTH)]),  # RDX = -1
    ("movnti [rbx], rax", [(DATA, 8, WRITE)]),
    ("fstp qword ptr [rbx]", [(DATA, 8, WRITE)]),
    ("movaps [rbx], xmm0", [(DATA, 16, WRITE)]),
    ("fxsave [rbx]", [(DATA, 512, WRITE)]),
    ("push rax", [(STACK - 8, 8, WRITE)]),
    ("push qword ptr [rbx]", [(DATA, 8, READ), (STACK - 8, 8, WRITE)]),
    ("push ax", [(STACK - 2, 2, WRITE)]),
    ("pop rax", [(STACK, 8, READ)]),
    ("pop qword ptr [rsp+16]", [(STACK + 24, 8, WRITE), (STACK, 8, READ)]),
    ("pushfq", [(STACK - 8, 8, WRITE)]),
    ("popfq", [(STACK, 8, READ)]),
    ("call qword ptr [rbx]", [(DATA, 8, READ), (STACK - 8, 8, WRITE)]),
    ("ret", [(STACK, 8, READ)]),
    ("iretq", [(STACK, 40, READ)]),
    ("leave", [(DATA + 0x100, 8, READ)]),
    ("movsb", [(DATA + 0x200, 1, WRITE), (DATA + 0x300, 1, READ)]),
    ("rep movsq", [(DATA + 0x200, 8, WRITE), (DATA + 0x300, 8, READ)]),
    ("stosd", [(DATA + 0x200, 4, WRITE)]),
    ("lodsw", [(DATA + 0x300, 2, READ)]),
    ("scasb", [(DATA + 0x200, 1, READ)]),
    ("cmpsb", [(DATA + 0x300, 1, READ), (DATA + 0x200, 1, READ)]),
    ("outsb", [(DATA + 0x300, 1, READ)]),
    ("insb", [(DATA + 0x200, 1, WRITE)]),
    ("lea rax, [rbx]", []),
    (".byte 0x0f, 0x1f, 0x03", []),  # nop dword ptr [rbx]
    ("invlpg [rbx]", []),
    ("mov rax, rbx", []),
]


@pytest.fixture(scope="module")
def guest() -> LongModeGuest:
    made = LongModeGuest()
    for _ in range(4):
        made.frame()
    return made


def prepared(guest: LongModeGuest, text: str, **gprs: int) -> None:
    values = {"rbx": DATA, "rcx": 3, "rdx": (1 << 64) - 1, "rsp": STACK, "rbp": DATA + 0x100}
    guest._next_code = 0x6000
    guest.start(guest.kernel_code(text), **{**values, "rdi": DATA + 0x200, "rsi": DATA + 0x300, **gprs})
    registers = guest.machine.cpus[0].registers
    registers.set_segment(Seg.GS, registers.segment(Seg.GS)._replace(base=0x40))


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_operands_and_implied_ones_are_found(
    guest: LongModeGuest, text: str, expected: list[tuple[int, int, tuple[bool, bool]]]
) -> None:
    prepared(guest, text)
    found = accesses(guest.machine.cpus[0])
    assert found == [AccessedRange(address, size, *how) for address, size, how in expected]


@pytest.mark.parametrize(("text", "expected"), [case for case in CASES if any(how == WRITE for *_, how in case[1])])
def test_what_is_written_is_what_was_announced(
    guest: LongModeGuest, text: str, expected: list[tuple[int, int, tuple[bool, bool]]]
) -> None:
    memory = guest.machine.memory
    memory.write(DATA - 4096, bytes(at * 37 + (at >> 8) & 0xFF for at in range(3 * 4096)))
    prepared(guest, text, rax=0x0102030405060708)
    guest.memory.write64(DATA, guest.kernel_code("hlt"))
    before = memory.read(DATA - 4096, 3 * 4096)
    if text == "insb":
        guest.machine.cpus[0].registers.gpr[Gpr.RDX] = 0x21
    guest.step()
    after = memory.read(DATA - 4096, 3 * 4096)
    changed = [DATA - 4096 + at for at in range(len(after)) if before[at] != after[at]]
    announced = {at for address, size, (_, writes) in expected if writes for at in range(address, address + size)}
    assert changed and set(changed) <= announced


def test_rep_without_iterations_accesses_nothing(guest: LongModeGuest) -> None:
    prepared(guest, "rep movsq", rcx=0)
    assert accesses(guest.machine.cpus[0]) == []


def test_ranges_overlap_by_bytes() -> None:
    access = AccessedRange(0x1000, 8, True, False)
    assert access.overlaps(0x1007, 1) and access.overlaps(0xFFF, 2)
    assert not access.overlaps(0x1008, 8) and not access.overlaps(0xFF8, 8)
