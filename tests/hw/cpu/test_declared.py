"""What is not modelled is said when a guest sets it up, once, and is its end where the machine is strict."""

from __future__ import annotations

import contextlib

import pytest

from kstack.hw.cpu.declared import Declared
from kstack.x86.control import Cr0
from kstack.x86.flags import Flags
from kstack.x86.registers import Seg
from kstack.x86.segments import Segment
from tests.support.long_mode import AREA, FRAMES, GDT, USER, LongModeGuest

FAR = "push 0x10\nlea rax, [rip + narrow]\npush rax\nretfq\nnarrow: nop\nnop"


def _with_a_limit(guest: LongModeGuest) -> None:
    registers = guest.machine.cpus[0].registers
    registers.set_segment(Seg.ES, registers.segment(Seg.ES)._replace(selector=0x18, limit=0xFFFF))
    guest.start(guest.kernel_code(FAR))
    guest.step(units=5)


def _virtual_8086(guest: LongModeGuest) -> None:
    guest.start(guest.kernel_code(FAR))
    guest.step(units=5)
    registers = guest.machine.cpus[0].registers
    for which in (Seg.DS, Seg.ES, Seg.SS, Seg.FS, Seg.GS):
        registers.set_segment(which, Segment(0, 0, 0xFFFF, 0xF300))
    registers.rflags = int(Flags.VM | Flags.FIXED)
    guest.step()


def _alignment(guest: LongModeGuest) -> None:
    guest.machine.cpus[0].registers.cr[0] |= Cr0.AM
    guest.privilege(0, 3)
    guest.start(guest.user_code("nop\nnop"))
    guest.machine.cpus[0].registers.rflags = int(Flags.AC | Flags.FIXED)
    guest.step()


def _sse(guest: LongModeGuest) -> None:
    guest.run("mov dword ptr [rbx], 0x1f00\nldmxcsr [rbx]\nnop", rbx=0x8000)


SETS_UP = {
    Declared.DATA_LIMIT: _with_a_limit,
    Declared.VIRTUAL_8086: _virtual_8086,
    Declared.ALIGNMENT_CHECK: _alignment,
    Declared.SSE_EXCEPTION: _sse,
}


def test_each_has_a_guest_that_sets_it_up() -> None:
    assert set(SETS_UP) == set(Declared)


@pytest.mark.parametrize("declared", list(Declared))
def test_it_is_told(declared: Declared) -> None:
    guest = LongModeGuest()
    guest.run("nop")
    assert not guest.machine.told
    SETS_UP[declared](guest)
    assert list(guest.machine.told) == [declared]


@pytest.mark.parametrize("declared", list(Declared))
def test_a_strict_machine_stops(declared: Declared) -> None:
    guest = LongModeGuest()
    guest.machine.strict = True
    with contextlib.suppress(AssertionError):
        SETS_UP[declared](guest)
    assert guest.machine.cpus[0].unsupported == f"strict: {declared.value}"


UNDONE = {
    Declared.SSE_EXCEPTION: """
        mov dword ptr [rbx], 0x1f00
        ldmxcsr [rbx]
        mov dword ptr [rbx], 0x1f80
        ldmxcsr [rbx]
    """,
    Declared.ALIGNMENT_CHECK: """
        pushfq
        or qword ptr [rsp], 0x40000
        popfq
        pushfq
        btr qword ptr [rsp], 18
        popfq
    """,
    Declared.DATA_LIMIT: """
        push 0x10
        lea rax, [rip + narrow]
        push rax
        retfq
    narrow:
        .code32
        mov eax, 0x48
        mov es, eax
        push 0x18
        pop es
    """,
}
"""Guests that set something up and take it back at once. 0x48 is a segment of 64 KiB."""


@pytest.mark.parametrize("units", [1, 3, 1000])
@pytest.mark.parametrize("declared", UNDONE)
@pytest.mark.parametrize("end", ["hlt", "mov al, 0\nout 0xf4, al"])
def test_what_is_taken_back_at_once_is_told_too(declared: Declared, units: int, end: str) -> None:
    guest = LongModeGuest()
    guest.memory.write64(GDT + 0x48, 0x00409300_0000FFFF)
    is_user = declared is Declared.ALIGNMENT_CHECK
    if is_user:
        guest.machine.cpus[0].registers.cr[0] |= Cr0.AM
        guest.privilege(0, 3)
        guest.map(AREA, guest.frame(), USER)
    source = UNDONE[declared]
    code = guest.user_code(source + "int 0x80") if is_user else guest.kernel_code(source + end)
    guest.start(code, rbx=FRAMES, rsp=AREA + 4096 if is_user else guest.stack())
    for _ in range(40):
        guest.machine.run(0, units)
    assert list(guest.machine.told) == [declared]


@pytest.mark.parametrize("units", [1, 1000])
def test_a_strict_machine_stops_before_the_guest_ends(units: int) -> None:
    guest = LongModeGuest()
    guest.machine.strict = True
    guest.start(guest.kernel_code("mov dword ptr [rbx], 0x1f00\nldmxcsr [rbx]\nmov al, 0\nout 0xf4, al"), rbx=FRAMES)
    for _ in range(10):
        guest.machine.run(0, units)
    assert guest.machine.exit_port.code is None
    assert guest.machine.cpus[0].unsupported == f"strict: {Declared.SSE_EXCEPTION.value}"
