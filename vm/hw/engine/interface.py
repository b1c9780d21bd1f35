"""What goes in and out of the engine: why it stops, what it asks, and which instructions make it stop."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, Protocol

from kstack.hw.engine.checks import Look
from kstack.x86.access import Access


class MmuIndex(enum.IntEnum):
    """Under whose rights an access is made (QEMU's mmu index)."""

    KERNEL_SMAP = 0
    USER = 1
    KERNEL = 2


class StopKind(enum.Enum):
    """Why the engine stopped."""

    BUDGET = "the budget is used up, or a stop was asked for"
    HALT = "HLT was executed"
    REFUSED = "the host refused a translation; it knows which"
    EXCEPTION = "an exception was raised"
    INTERCEPT = "an intercepted instruction is next"
    TRAPPED = "IN, OUT or SYSCALL is next"
    CHECKED = "an instruction that its check has held back is next"
    INVALID = "an opcode that Unicorn does not know is next"
    INTERRUPT_WINDOW = "interrupts have become deliverable"


GOES_BACK: Final = frozenset(
    {
        StopKind.REFUSED,
        StopKind.EXCEPTION,
        StopKind.INTERCEPT,
        StopKind.TRAPPED,
        StopKind.INVALID,
    }  # CHECKED puts its flags right itself
)
"""Stops at an instruction that had begun; asked for membership only."""


class Stop(NamedTuple):
    """The end of one run: why, and the instructions it retired.

    `code` is the vector of an EXCEPTION (error code in `error`, `is_int` for INT n), or the SVM
    exit code of an INTERCEPT.
    """

    kind: StopKind
    instructions: int
    code: int = 0
    error: int = 0
    is_int: bool = False


class Host(Protocol):
    """Who answers what the engine cannot decide."""

    def fill(self, address: int, access: Access, mmu: MmuIndex, probe: bool, location: int) -> bool:
        """Translate linear `address`: call `Engine.enter` and return True, or refuse with False.

        `location` is the host return address of the access, 0 outside a block; `Engine.locate`
        turns it into RIP.
        """
        ...

    def look(self, address: int) -> Look | None:
        """An instruction at linear `address` is translated, of those that the tables ask about: what is to become of it."""
        ...

    def untried(self) -> None:
        """The fetch that was refused last was for an instruction that is not to run yet: it will come again."""
        ...

    def mmio_read(self, address: int, size: int) -> int:
        """A load from a physical address that is not RAM."""
        ...

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store to a physical address that is not RAM."""
        ...


class Intercept(enum.IntFlag):
    """Bits of the SVM intercept word that make an instruction stop the engine (APM vol. 2, B)."""

    INTR = 1 << 0
    RDTSC = 1 << 14
    RDPMC = 1 << 15
    CPUID = 1 << 18
    IRET = 1 << 20
    PAUSE = 1 << 23
    INVLPG = 1 << 25
    MSR = 1 << 28
    RDTSCP = 1 << 39
    MONITOR = 1 << 42
    MWAIT = 1 << 43


STANDARD_INTERCEPTS = (
    Intercept.INTR
    | Intercept.RDTSC
    | Intercept.RDPMC
    | Intercept.CPUID
    | Intercept.INVLPG
    | Intercept.MSR
    | Intercept.RDTSCP
    | Intercept.MONITOR
    | Intercept.MWAIT
)
CR_WRITES = sum(1 << number for number in (0, 3, 4, 8))  # bit n of the intercept word is CRn
CR_READS = 1 << 8
VMEXIT = 0x100  # QEMU numbers SVM exits from here
EXIT_INTR = 0x160
