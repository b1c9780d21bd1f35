"""What a CPU counts: each of its counters is one more after a guest that does that thing once, and others are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Final

import pytest

from kstack.hw.cpu.counts import Counts
from kstack.run.writes import RegisterChange
from kstack.x86.control import Cr4
from tests.support.long_mode import AREA, LongModeGuest

VECTOR: Final = 0x40
NOT_CANONICAL: Final = 1 << 47


def code(text: str, **gprs: int) -> Callable[[LongModeGuest], None]:
    """A guest that runs this in ring 0."""

    def run(guest: LongModeGuest) -> None:
        guest.run(text, **gprs)

    return run


def interrupted(guest: LongModeGuest) -> None:
    guest.machine.apics[0].accept(VECTOR)
    guest.run("sti\nnop")


def nmi(guest: LongModeGuest) -> None:
    guest.machine.cpus[0].nmi()
    guest.run("nop")


def another_space(guest: LongModeGuest) -> None:
    guest.run("mov cr3, rax", rax=guest.space())


def same_space(guest: LongModeGuest) -> None:
    guest.run("mov cr3, rax", rax=guest.root)


def bad_space(guest: LongModeGuest) -> None:
    guest.run("mov cr3, rax", rax=1 << 60)


INVALIDATE: Final = """
    lea rcx, [rip+descriptor]
    mov eax, 2
    invpcid rax, [rcx]
    hlt
    .balign 16, 0x90
descriptor:
    .quad 0, 0
"""
DEEDS: Final = [
    pytest.param(code("nop"), {}, id="nothing"),
    pytest.param(code("ud2"), {"exceptions": 1}, id="a fault"),
    pytest.param(code("mov rax, [rbx]", rbx=AREA), {"exceptions": 1, "page_faults": 1}, id="a page fault"),
    pytest.param(interrupted, {"interrupts": 1}, id="an interrupt"),
    pytest.param(nmi, {"nmis": 1}, id="an NMI"),
    pytest.param(code("invlpg [rbx]", rbx=AREA), {"invlpg": 1}, id="INVLPG"),
    pytest.param(code("invlpg [rbx]", rbx=NOT_CANONICAL), {}, id="INVLPG of no address"),
    pytest.param(code(INVALIDATE), {"invpcid": 1}, id="INVPCID"),
    pytest.param(another_space, {"cr3_loads": 1}, id="MOV to CR3"),
    pytest.param(same_space, {"cr3_loads": 1}, id="MOV of the same to CR3"),
    pytest.param(bad_space, {"exceptions": 1}, id="MOV to CR3 that faults"),
    pytest.param(code("mov rax, cr3"), {}, id="MOV from CR3"),
    pytest.param(code("mov rax, cr4\nmov cr4, rax"), {}, id="MOV to CR4"),
]


@pytest.mark.parametrize(("deed", "counted"), DEEDS)
def test_what_a_guest_does_once_is_counted_once(deed: Callable[[LongModeGuest], None], counted: dict[str, int]) -> None:
    guest = LongModeGuest(cr4=int(Cr4.PCIDE))
    deed(guest)
    counts = asdict(guest.machine.cpus[0].counts)
    assert counts.pop("instructions") == guest.machine.time > 0
    assert counts == {**dict.fromkeys(counts, 0), **counted}


def test_every_counter_has_such_a_guest() -> None:
    counted = {name for deed in DEEDS for name in deed.values[1]}
    assert {field.name for field in fields(Counts)} == counted | {"instructions"}


def test_a_debugger_that_writes_cr3_is_not_the_guest() -> None:
    guest = LongModeGuest()
    RegisterChange(0, "cr3", guest.root).apply(guest.machine)
    assert guest.machine.cpus[0].counts.cr3_loads == 0
