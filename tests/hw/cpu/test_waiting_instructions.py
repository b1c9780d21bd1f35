"""An instruction that is not completed is tried again without the engine, unless anything of it has changed."""

from __future__ import annotations

from typing import Any, Final

import pytest

from kstack.guest.asm import assemble
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr
from tests.support.long_mode import AREA, PLAIN, LongModeGuest

PORT: Final = 0xE0
WAIT: Final = f"out {PORT:#x}, eax\nmov ebx, 1\nhlt"
OUT_BYTES: Final = 2
VECTOR: Final = 0x40


class Shut:
    """A port that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.open = False
        self.asked = 0

    def read(self, cpu: int, size: int) -> int:
        return 0

    def write(self, cpu: int, size: int, value: int) -> bool:
        self.asked += 1
        return self.open


class Waiting(LongModeGuest):
    """CPU 0 stands at an OUT that has been tried once; counts the engine's runs from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mapped: bool = False) -> None:
        super().__init__(cpus=2)
        self.port = Shut()
        self.machine.claim_port(PORT, self.port)
        self.code = self.kernel_code(WAIT)
        self.leaf = 0
        if mapped:
            self.leaf = self.map(AREA, self.frame())
            self.memory.write(self.memory.read64(self.leaf) & ~0xFFF, assemble(WAIT, AREA))
            self.code = AREA
        self.start(self.code)
        self.step()
        assert self.port.asked == 1
        self.runs = 0
        engine = self.machine.cpus[0].engine
        run = engine.run

        def counted(budget: int) -> Any:
            self.runs += 1
            return run(budget)

        monkeypatch.setattr(engine, "run", counted)


def test_it_is_tried_again_without_the_engine_and_completed_when_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Waiting(monkeypatch)
    before = guest.machine.time
    for _ in range(5):
        guest.step()
    assert (guest.port.asked, guest.runs, guest.machine.time - before) == (6, 0, 5)
    guest.port.open = True
    guest.until_halt()
    assert guest.port.asked == 7
    assert guest.gpr(Gpr.RBX) == 1


@pytest.mark.parametrize("by_guest", [False, True])
def test_code_that_is_stored_there_meanwhile_runs(monkeypatch: pytest.MonkeyPatch, by_guest: bool) -> None:
    guest = Waiting(monkeypatch)
    other = assemble("nop\nnop", guest.code)
    if by_guest:
        guest.run(f"mov word ptr [rbx], {int.from_bytes(other, 'little'):#x}", 1, rbx=guest.code)
    else:
        guest.memory.write(guest.code, other)
    guest.until_halt()
    assert guest.port.asked == 1
    assert guest.gpr(Gpr.RBX) == 1
    assert guest.vector() is None


def test_an_interrupt_is_taken_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Waiting(monkeypatch)
    guest.set_flags(Flags.IF)
    guest.machine.apics[0].accept(VECTOR)
    guest.until_halt()
    assert guest.vector() == VECTOR
    assert guest.pushed(1) == [guest.code]
    assert guest.port.asked == 1


def test_a_page_that_is_gone_is_fetched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Waiting(monkeypatch, mapped=True)
    guest.step()
    assert (guest.port.asked, guest.runs) == (2, 0)
    guest.memory.write64(guest.leaf, 0)
    guest.machine.cpus[0].mmu.invlpg(AREA)
    guest.until_halt()
    assert guest.vector() == 14
    assert guest.port.asked == 2


def test_another_frame_there_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Waiting(monkeypatch, mapped=True)
    frame = guest.frame()
    guest.memory.write(frame, assemble("nop\nnop\nmov ebx, 2\nhlt", AREA))
    guest.memory.write64(guest.leaf, frame | PLAIN)
    guest.machine.cpus[0].mmu.invlpg(AREA)
    guest.until_halt()
    assert guest.gpr(Gpr.RBX) == 2
    assert guest.port.asked == 1


def test_what_a_restored_cpu_stands_at_is_the_engines_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Waiting(monkeypatch)
    saved = guest.machine.snapshot()
    for _ in range(2):
        guest.step()  # the first asks it: a snapshot empties the softmmu
    assert guest.runs == 1
    guest.machine.restore(saved)
    guest.step()
    assert (guest.port.asked, guest.runs) == (4, 2)


def test_single_stepping_traps_after_it_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Waiting(monkeypatch)
    guest.set_flags(Flags.TF)
    guest.step()
    asked = guest.port.asked
    guest.port.open = True
    guest.until_halt()
    assert guest.vector() == 1
    assert guest.pushed(1) == [guest.code + OUT_BYTES]
    assert guest.port.asked == asked + 1


def test_a_cpu_that_was_put_elsewhere_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Waiting(monkeypatch)
    guest.start(guest.code + OUT_BYTES)
    guest.until_halt()
    assert guest.gpr(Gpr.RBX) == 1
    assert guest.vector() is None
