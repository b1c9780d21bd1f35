"""INS and OUTS reach claimed ports, and wait there as IN and OUT do."""

from __future__ import annotations

from kstack.x86.registers import Gpr
from tests.support.long_mode import LongModeGuest

PORT = 0x99


class Slow:
    """A port that takes a write only when it is asked for the third time."""

    def __init__(self) -> None:
        self.asked = 0
        self.taken: list[int] = []

    def read(self, cpu: int, size: int) -> int:
        return 0x5A

    def write(self, cpu: int, size: int, value: int) -> bool:
        self.asked += 1
        if self.asked % 3:
            return False
        self.taken.append(value)
        return True


def test_outs_waits_until_the_port_takes_each_item() -> None:
    guest, port = LongModeGuest(), Slow()
    guest.machine.claim_port(PORT, port)
    source = guest.frame(0x030201)
    guest.start(guest.kernel_code(f"mov edx, {PORT:#x}\nmov ecx, 3\nrep outsb\nhlt"), rsi=source)
    for _ in range(12):
        guest.step(units=20)
    assert port.taken == [1, 2, 3]
    assert port.asked == 9
    assert guest.gpr(Gpr.RSI) == source + 3


def test_ins_stores_what_the_port_gives() -> None:
    guest = LongModeGuest()
    guest.machine.claim_port(PORT, Slow())
    target = guest.frame()
    guest.run(f"mov edx, {PORT:#x}\nmov ecx, 3\nrep insb", rdi=target)
    assert guest.memory.read64(target) == 0x5A5A5A
