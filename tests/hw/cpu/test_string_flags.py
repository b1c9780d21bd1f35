"""Flags where a repeated CMPS or SCAS is cut: those of before it began (SDM volume 2, REP)."""

from __future__ import annotations

import pytest

from kstack.hw.engine.checks import NOWHERE
from kstack.x86.flags import CC_FLAGS, Flags
from kstack.x86.registers import Gpr
from tests.support.long_mode import AREA, PLAIN, LongModeGuest

EQUAL = 8
"""Bytes that are the same on both sides."""
FIRST, SECOND = AREA, AREA + 0x2000
SETS = {
    "eflags": ("stc", Flags.CF),
    "add": ("mov eax, 0x7fffffff\nadd eax, 1", Flags.OF | Flags.SF | Flags.AF | Flags.PF),
    "inc of a carry": ("stc\nmov eax, 0xf\ninc eax", Flags.CF | Flags.AF),
    "two checked ones": (
        "mov eax, 0x7f\nadd al, 1\nmov rcx, 0\nrepe scasb\nadd al, 0x80",
        Flags.CF | Flags.OF | Flags.ZF | Flags.PF,
    ),
    "logic": ("xor edx, edx", Flags.ZF | Flags.PF),
}
"""Instructions, and the flags they leave."""


def _guest(source: str, length: int = EQUAL, fault: bool = False) -> LongModeGuest:
    guest = LongModeGuest()
    for page in (FIRST, SECOND):
        frame = guest.frame()
        guest.map(page, frame, PLAIN)
        guest.memory.write(frame + (4096 - length if fault else 0), b"a" * length)
    at = 4096 - length if fault else 0
    guest.start(guest.kernel_code(source), rsi=FIRST + at, rdi=SECOND + at)
    return guest


def _flags(guest: LongModeGuest) -> int:
    return guest.machine.cpus[0].registers.rflags & CC_FLAGS


STRINGS = {"cmps": "repe cmpsb", "scas": "mov al, 0x61\nrepe scasb", "not equal": "mov al, 0x62\nrepne scasb"}


@pytest.mark.parametrize("string", STRINGS)
@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_budget_that_ends_in_the_middle_shows_flags_of_before(string: str, sets: str, recorded: bool) -> None:
    source, before = SETS[sets]
    loads, _, repeated = STRINGS[string].rpartition("\n")
    guest = _guest(f"{source}\nmov rcx, 6\n{loads}\n{repeated}\nhlt")
    cpu = guest.machine.cpus[0]
    if recorded:
        cpu.engine.record()
    cut = False
    for _ in range(40):
        guest.machine.run(0, 1)
        if 0 < cpu.registers.gpr[Gpr.RCX] < 6:
            assert _flags(guest) == before
            cut = True
    assert cut and cpu.registers.gpr[Gpr.RCX] == 0
    assert _flags(guest) == (Flags.ZF | Flags.PF if "not" not in string else 0)


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("quantum", [1, 2, 1000])
def test_a_fault_in_the_middle_pushes_flags_of_before(sets: str, quantum: int) -> None:
    source, before = SETS[sets]
    guest = _guest(f"{source}\nmov rcx, 20\nrepe cmpsb\nhlt", length=5, fault=True)
    for _ in range(40):
        if guest.begun:
            break
        guest.machine.run(0, quantum)
    (fault,) = guest.begun
    assert fault.address in (FIRST + 4096, SECOND + 4096)
    assert guest.pushed(4)[3] & CC_FLAGS == before
    assert guest.machine.cpus[0].registers.gpr[Gpr.RCX] == 15


def test_a_loop_over_a_string_instruction_begins_it_anew() -> None:
    """Flags of before are those of the iteration of the loop, not those of when it was begun first."""
    source = (
        "mov rbx, 3\nagain: mov rcx, 2\nstc\ncmp rbx, 3\nrepe cmpsb\ndec rbx\njnz again\nmov rcx, 100\nrepe cmpsb\nhlt"
    )
    guest = _guest(source, length=20, fault=True)
    while not guest.begun:
        guest.machine.run(0, 1000)
    assert guest.pushed(4)[3] & CC_FLAGS == Flags.ZF | Flags.PF  # of DEC


def test_what_jumps_back_to_itself_is_not_the_middle() -> None:
    """It ended by a difference; the fault at its second beginning has flags of that difference."""
    source = "jmp start\nagain: jmp string\nstart: mov rcx, 9\nstc\nstring: repne cmpsb\njmp again"
    guest = _guest(source, length=1, fault=True)
    while not guest.begun:
        guest.machine.run(0, 1000)
    assert guest.pushed(4)[3] & CC_FLAGS == Flags.ZF | Flags.PF
    assert guest.machine.cpus[0].registers.gpr[Gpr.RCX] == 8


def test_the_last_address_of_all_is_no_sign_that_nothing_is_repeated() -> None:
    guest = _guest("mov rcx, 3\nrepe cmpsb\nstc\nmov rax, -1\njmp rax")
    guest.machine.run(0, 2)
    guest.machine.run(0, 2)
    guest.machine.run(0, 3)
    cpu = guest.machine.cpus[0]
    while cpu.registers.rip != (1 << 64) - 1:
        guest.machine.run(0, 1)
    assert _flags(guest) & Flags.CF and not guest.begun


@pytest.mark.parametrize("watch", ["instruction", "data"])
def test_breakpoints_in_the_middle_see_flags_of_before(watch: str) -> None:
    guest = _guest("stc\nmov rcx, 6\nstring: repe cmpsb\nhlt")
    cpu = guest.machine.cpus[0]
    cpu.registers.dr[0] = cpu.registers.rip + 1 + 7 if watch == "instruction" else FIRST + 3
    cpu.registers.dr[7] |= 1 if watch == "instruction" else 1 | 3 << 16
    cpu.arm()
    while not guest.begun:
        guest.machine.run(0, 1)
    assert guest.pushed(3)[2] & CC_FLAGS == Flags.CF


def test_the_trap_flag_sees_flags_of_before() -> None:
    guest = _guest("stc\nmov rcx, 6\nrepe cmpsb\nhlt")
    cpu = guest.machine.cpus[0]
    guest.machine.run(0, 3)
    assert cpu.registers.gpr[Gpr.RCX] == 5
    cpu.registers.rflags |= Flags.TF
    guest.machine.run(0, 2)
    assert guest.begun and guest.pushed(3)[2] & CC_FLAGS == Flags.CF


APIC = AREA + 0x10000
EOI = 0xB0
EQUAL_SO_FAR = Flags.ZF | Flags.PF


@pytest.mark.parametrize("quantum", [1, 2, 3, 1000])
def test_a_stop_that_was_asked_for_earlier_in_the_block_changes_nothing(quantum: int) -> None:
    """A store to the APIC takes the rest of the budget away, and the block runs on to its end."""
    guest = _guest(f"mov rcx, 20\nxor eax, eax\nstc\nmov [rbx + {EOI}], eax\nrepe cmpsb\nhlt", length=5, fault=True)
    guest.map(APIC, 0xFEE00000, PLAIN)
    guest.machine.cpus[0].registers.gpr[Gpr.RBX] = APIC
    while not guest.begun:
        guest.machine.run(0, quantum)
    assert guest.pushed(4)[3] & CC_FLAGS == EQUAL_SO_FAR | Flags.CF


@pytest.mark.parametrize("recorded", [False, True])
def test_a_buffer_of_records_that_is_full_changes_nothing(recorded: bool) -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("xor eax, eax\nmov rcx, 700000\nstc\nrepe scasb\nhlt"), rdi=0x400000 - 600_000)
    if recorded:
        guest.machine.cpus[0].engine.record()
    while not guest.begun:
        guest.machine.run(0, 1_000_000)
    assert guest.pushed(4)[3] & CC_FLAGS == EQUAL_SO_FAR | Flags.CF


@pytest.mark.parametrize("quantum", [1, 1000])
@pytest.mark.parametrize("target", [NOWHERE, 1 << 63, (1 << 64) - 1])
def test_a_branch_to_where_no_code_can_be_keeps_its_flags(target: int, quantum: int) -> None:
    guest = _guest(f"xor edx, edx\nmov rcx, 3\nmov al, 0x62\nrepe scasb\nstc\nmov rax, {target:#x}\njmp rax")
    for _ in range(20):
        if not guest.begun:
            guest.machine.run(0, quantum)
    flags = guest.pushed(4)[3] if guest.begun else _flags(guest)
    assert guest.machine.cpus[0].registers.gpr[Gpr.RCX] == 2  # it ended by a difference
    assert flags & CC_FLAGS == Flags.CF


@pytest.mark.parametrize("code", ["48f3a6", "48f34840a6", "2ef364a6"])
def test_every_encoding_is_looked_at(code: str) -> None:
    guest = _guest(
        f"mov rcx, 20\nstc\n.byte {', '.join(f'0x{byte:02x}' for byte in bytes.fromhex(code))}\nhlt",
        length=5,
        fault=True,
    )
    cpu = guest.machine.cpus[0]
    while not guest.begun and cpu.registers.gpr[Gpr.RCX] != 15:
        guest.machine.run(0, 1)
    assert cpu.registers.gpr[Gpr.RCX] == 15 and _flags(guest) & Flags.CF
