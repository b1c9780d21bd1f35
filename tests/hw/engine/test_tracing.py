"""An engine that records does what it does without: flags are right wherever it goes back to an instruction."""

from __future__ import annotations

import random
from typing import Final

import pytest

from kstack.hw.engine.tracing import BUFFER_RECORDS, LOAD, STORE
from tests.support.long_mode import AREA, PLAIN, LongModeGuest

SETS_FLAGS: Final = (
    "sub rax, 0x3f8", "cmp rax, rcx", "add rax, rcx", "dec rax", "inc cl", "neg rax", "adc rax, rcx", "sbb eax, ecx",
    "and rax, rcx", "xor eax, eax", "test al, al", "shl rax, 3", "shr ecx, 1", "sar rax, 1", "imul rax, rcx",
    "mul rcx", "rol al, 3", "stc", "cmc", "cmpxchg rcx, rdx", "xadd rax, rcx", "bsf rdx, rax", "popcnt rdx, rax",
)  # fmt: skip
"""But for those that leave flags undefined which QEMU takes from how it happens to keep them: BT and its kin, shifts by CL."""
GOES_BACK: Final = (
    "mov [rbx], rdi", "mov rdi, [rbx]", "add [rbx], rdi", "push qword ptr [rbx]", "ud2", "in al, 0x60", "lock xadd [rbx], rdi",
)  # fmt: skip


def state(text: str, record: bool, map_it: bool) -> list[int]:
    """Registers and flags, as the handler finds them or at the end."""
    guest = LongModeGuest()
    if map_it:
        guest.map(AREA, guest.frame(7), PLAIN)
    if record:
        guest.machine.cpus[0].engine.record()
    guest.run(text + "\npushfq\npop r9", rax=0x1E340, rcx=0x3F9, rdx=77, rbx=AREA, rdi=5)
    registers = guest.machine.cpus[0].registers
    pushed = guest.pushed(4) if guest.vector() is not None else []
    return [*registers.gpr, registers.rflags, registers.rip, *pushed]


@pytest.mark.parametrize("back", GOES_BACK)
def test_flags_are_right_where_the_engine_goes_back(back: str) -> None:
    rng = random.Random(back)
    for first in SETS_FLAGS:
        for text in (
            f"{first}\n{back}",
            f"{first}\n{rng.choice(SETS_FLAGS)}\n{back}",
            f"{first}\nnop\n{back}\nsetc r10b",
        ):
            for map_it in (False, True):
                assert state(text, True, map_it) == state(text, False, map_it), text


def test_records_are_instructions_and_accesses_with_their_instruction() -> None:
    guest = LongModeGuest()
    frame = guest.frame(0x1234)
    guest.map(AREA, frame)
    recorder = guest.machine.cpus[0].engine.record()
    guest.run("mov rax, [rbx]\nadd [rbx+8], eax\npush rax", rbx=AREA)
    found = recorder.read()
    assert [tag & 0xFF for tag in found.tag] == [3, 3, 1, 1]
    assert [rip - found.rip[0] for rip in found.rip] == [0, 3, 6, 7]
    assert [kind & 0xFF for kind in found.kind] == [LOAD, LOAD, STORE, STORE]
    assert [(owner - found.first) // 8 for owner in found.owner] == [1, 2, 2, 3]
    assert (found.physical[0], found.kind[0] >> 8, found.value[0]) == (frame, 8, 0x1234)
    assert (found.physical[2], found.kind[2] >> 8, found.value[2]) == (frame + 8, 4, 0x1234)
    assert found.rsp[3] == found.rsp[0] - 8
    assert (recorder.instructions, recorder.accesses) == (4, 4)
    recorder.clear()
    assert (recorder.instructions, recorder.accesses) == (0, 0)


def test_a_store_into_its_own_block_is_recorded_once() -> None:
    guest = LongModeGuest()
    recorder = guest.machine.cpus[0].engine.record()
    text = "lea rbx, [rip+.Lthere]\nmov ecx, 3\n.Lagain:\nmov byte ptr [rbx], 0x90\n.Lthere:\nnop\ndec ecx\njnz .Lagain"
    guest.run(text)
    found = recorder.read()
    assert len(found.rip) == 2 + 3 * 4 + 1
    assert guest.machine.cpus[0].counts.instructions == len(found.rip)
    assert [kind & 0xFF for kind in found.kind] == [STORE] * 3
    assert [(owner - found.first) // 8 for owner in found.owner] == [3, 7, 11]


@pytest.mark.parametrize("text", ["inc rax", "xadd [rbx], rdx"])
def test_a_buffer_that_nobody_reads_begins_again(text: str) -> None:
    """A run stops where it is full, of instructions or of accesses, and goes on."""
    guest = LongModeGuest()
    guest.map(AREA, guest.frame(7), PLAIN)
    recorder = guest.machine.cpus[0].engine.record()
    count = BUFFER_RECORDS // 8
    guest.start(guest.kernel_code(".Lagain:\n" + f"{text}\n" * 8 + "dec rcx\njnz .Lagain\nhlt"), rbx=AREA, rcx=count)
    guest.until_halt(units=10 * count + 100)
    assert guest.machine.cpus[0].counts.instructions == 10 * count + 1
    assert 0 < recorder.instructions < BUFFER_RECORDS + 100
    assert recorder.accesses < BUFFER_RECORDS + 100
