"""A long-mode guest whose events come by FRED: handlers halt at the entry page, the frame at RSP."""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.hw.cpu.state import ActivityState
from kstack.hw.modes import Modes
from kstack.hw.rules import ALL
from kstack.x86.msrs import Msr
from kstack.x86.registers import Gpr, Seg
from tests.support.long_mode import USER_CODE64, LongModeGuest

CR4_FRED: Final = 1 << 32
RING3, RING0 = 0, 256
KERNEL_CS, KERNEL_SS = 0x08, 0x10  # by STAR; the second is not the DATA that ring 0 starts with
ERETS: Final = ".byte 0xf2, 0x0f, 0x01, 0xca"
ERETU: Final = ".byte 0xf3, 0x0f, 0x01, 0xca"


class Frame(NamedTuple):
    """The 64 bytes that FRED pushes, from RSP up."""

    error: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int
    data: int
    zero: int

    @property
    def selectors(self) -> tuple[int, int]:
        """CS and SS."""
        return self.cs & 0xFFFF, self.ss & 0xFFFF

    @property
    def level(self) -> int:
        """The stack level at the event."""
        return self.cs >> 16 & 3

    @property
    def vector(self) -> int:
        """The event's vector."""
        return self.ss >> 32 & 0xFF

    @property
    def type(self) -> int:
        """The event's type."""
        return self.ss >> 48 & 0xF

    @property
    def nested(self) -> bool:
        """It occurred while another event was delivered."""
        return bool(self.ss >> 58 & 1)

    @property
    def length(self) -> int:
        """Bytes of the instruction that asked for it."""
        return self.ss >> 60


class FredGuest(LongModeGuest):
    """A guest with FRED on: entries that halt, and a mapped stack of a page for each level.

    Args:
        modes: architecture modes.
        levels: stack level by vector (0 to 31).
        interrupts: stack level of maskable interrupts.
        red_zone: bytes, a multiple of 64.
        cr4: further bits of CR4.
    """

    def __init__(
        self,
        modes: Modes = Modes(),
        levels: dict[int, int] | None = None,
        interrupts: int = 0,
        red_zone: int = 0,
        cr4: int = 0,
    ) -> None:
        super().__init__(ALL, modes=modes, cr4=CR4_FRED | cr4)
        self.page = self.frame()
        self.entry_code(RING3, b"\xf4")
        self.entry_code(RING0, b"\xf4")
        cpu = self.machine.cpus[0]
        cpu.watch_returns()
        self.tops = [self.frame() + 4096 for _ in range(4)]
        for level, top in enumerate(self.tops):
            cpu.msrs.write(Msr.FRED_RSP0 + level, top)
        self.levels(levels or {})
        cpu.msrs.write(Msr.FRED_CONFIG, self.page | red_zone | interrupts << 9)
        cpu.msrs.write(Msr.STAR, KERNEL_CS << 32 | (USER_CODE64 - 16) << 48)
        cpu.msrs.write(Msr.EFER, cpu.msrs.read(Msr.EFER) | 1)

    def entry_code(self, offset: int, code: bytes) -> None:
        """Put code at an entry."""
        self.memory.write(self.page + offset, code)

    def levels(self, levels: dict[int, int]) -> None:
        """Set IA32_FRED_STKLVLS by vector."""
        self.msr(Msr.FRED_STKLVLS, sum(level << 2 * vector for vector, level in levels.items()))

    def msr(self, index: int, value: int | None = None) -> int:
        """Read an MSR, after writing it if a value is given."""
        if value is not None:
            self.machine.cpus[0].msrs.write(index, value)
        return self.machine.cpus[0].msrs.read(index)

    @property
    def level(self) -> int:
        """The current stack level."""
        return self.msr(Msr.FRED_CONFIG) & 3

    @level.setter
    def level(self, level: int) -> None:
        self.msr(Msr.FRED_CONFIG, self.msr(Msr.FRED_CONFIG) & ~3 | level)

    @property
    def entered(self) -> int | None:
        """RING3 or RING0, by whichever entry halted the CPU; None if it is at neither."""
        cpu = self.machine.cpus[0]
        offset = cpu.registers.rip - 1 - self.page
        return offset if cpu.state is ActivityState.HALTED and offset in (RING3, RING0) else None

    def got(self) -> Frame:
        """The frame of the event that halted the CPU at an entry."""
        assert self.entered is not None, hex(self.machine.cpus[0].registers.rip)
        return Frame._make(self.pushed(8))

    def top(self) -> int:
        """Where the frame of that event begins: RSP before the push."""
        return self.gpr(Gpr.RSP) + 64

    def selector(self, which: Seg) -> int:
        """A segment register's selector."""
        return self.machine.cpus[0].registers.segment(which).selector
