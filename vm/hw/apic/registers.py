"""The names of the local APIC: registers, fields and reset values (SDM volume 3A, chapter 10).

Nothing here has behaviour; `core.py` and `apic.py` give it. Figures and tables are named where
a field is laid out there. Bit masks are `IntEnum`, not `IntFlag`: masking with them gives plain
ints, so that state stays plain and the hot paths fast.

Not here, because not modelled: LVT CMCI (2F0H), the AMD extended registers (400H and above).
"""

from __future__ import annotations

import enum
from typing import Final

from kstack.x86.entries import FRAME_MASK
from kstack.x86.vectors import VECTORS

WORD: Final = 0xFFFF_FFFF
PRIORITY_CLASS: Final = 0xF0  # 10.8.3: bits 7:4 of a vector, of TPR and of PPR
BANK_STEP: Final = 0x10  # table 10-1: registers are 16 bytes apart
REGISTER_BYTES: Final = 4
VERSION: Final = 0x0005_0014  # 10.4.8: integrated APIC; the highest LVT entry is number 5


class Reg(enum.IntEnum):
    """Offsets in the register page (table 10-1, table 10-6)."""

    ID = 0x020
    VERSION = 0x030
    TPR = 0x080
    APR = 0x090
    PPR = 0x0A0
    EOI = 0x0B0
    RRD = 0x0C0
    LDR = 0x0D0
    DFR = 0x0E0
    SVR = 0x0F0
    ISR = 0x100
    TMR = 0x180
    IRR = 0x200
    ESR = 0x280
    ICR_LOW = 0x300
    ICR_HIGH = 0x310
    LVT_TIMER = 0x320
    LVT_THERMAL = 0x330
    LVT_PERF = 0x340
    LVT_LINT0 = 0x350
    LVT_LINT1 = 0x360
    LVT_ERROR = 0x370
    INITIAL = 0x380
    CURRENT = 0x390
    DIVIDE = 0x3E0
    SELF_IPI = 0x3F0


BANK_BYTES: Final = VECTORS // 32 * BANK_STEP
LVT: Final = (
    Reg.LVT_TIMER,
    Reg.LVT_THERMAL,
    Reg.LVT_PERF,
    Reg.LVT_LINT0,
    Reg.LVT_LINT1,
    Reg.LVT_ERROR,
)


class ApicMode(enum.Enum):
    """10.12.1: what EN and EXTD of IA32_APIC_BASE select."""

    DISABLED = "disabled"
    XAPIC = "xapic"
    X2APIC = "x2apic"


class Base(enum.IntEnum):
    """IA32_APIC_BASE (figure 10-26)."""

    BSP = 1 << 8
    EXTD = 1 << 10
    EN = 1 << 11
    ADDRESS = FRAME_MASK


BASE_RESET: Final = 0xFEE0_0000 | Base.EN
ILLEGAL_MODE_CHANGES: Final = frozenset(  # 10.12.5, figure 10-27
    {(ApicMode.DISABLED, ApicMode.X2APIC), (ApicMode.X2APIC, ApicMode.XAPIC)}
)


class Svr(enum.IntEnum):
    """Spurious-interrupt vector register (figure 10-23)."""

    VECTOR = 0xFF
    ENABLE = 1 << 8
    FOCUS_OFF = 1 << 9


class Error(enum.IntEnum):
    """Error status register (figure 10-9)."""

    SEND_ILLEGAL_VECTOR = 1 << 5
    RECEIVE_ILLEGAL_VECTOR = 1 << 6
    ILLEGAL_REGISTER = 1 << 7


class Lvt(enum.IntEnum):
    """Local vector table entries (figure 10-8)."""

    VECTOR = 0xFF
    DELIVERY_MODE = 0x700
    STATUS = 1 << 12
    POLARITY = 1 << 13
    LEVEL = 1 << 15
    MASKED = 1 << 16
    PERIODIC = 1 << 17
    TSC_DEADLINE = 1 << 18


class Icr(enum.IntEnum):
    """Interrupt command register (figures 10-12 and 10-28)."""

    VECTOR = 0xFF
    DELIVERY_MODE = 0x700
    LOGICAL = 1 << 11
    STATUS = 1 << 12
    ASSERT = 1 << 14
    LEVEL = 1 << 15
    SHORTHAND = 3 << 18
    WRITABLE = VECTOR | DELIVERY_MODE | LOGICAL | ASSERT | LEVEL | SHORTHAND


class DeliveryMode(enum.IntEnum):
    """Bits 10:8 of the ICR and of LVT entries."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    RESERVED = 3
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


class Shorthand(enum.IntEnum):
    """Bits 19:18 of the ICR."""

    NONE = 0
    SELF = 1
    ALL = 2
    ALL_BUT_SELF = 3


DFR_FIXED_ONES: Final = 0x0FFF_FFFF  # figure 10-14: only the model, bits 31:28, can be written
DFR_FLAT: Final = 0xF
HIGH_BYTE: Final = 0xFF00_0000
DIVIDE_BITS: Final = 0b1011  # figure 10-10

_LOCAL = Lvt.VECTOR | Lvt.DELIVERY_MODE | Lvt.MASKED
_PIN = _LOCAL | Lvt.POLARITY | Lvt.LEVEL

# What a write can change. In x2APIC mode a bit outside is reserved and its WRMSR is refused
# (10.12.1.3), in xAPIC mode it is dropped.
WRITABLE: Final[dict[int, int]] = {
    Reg.TPR: 0xFF,
    Reg.SVR: Svr.VECTOR | Svr.ENABLE | Svr.FOCUS_OFF,
    Reg.LVT_TIMER: Lvt.VECTOR | Lvt.MASKED | Lvt.PERIODIC,
    Reg.LVT_THERMAL: _LOCAL,
    Reg.LVT_PERF: _LOCAL,
    Reg.LVT_LINT0: _PIN,
    Reg.LVT_LINT1: _PIN,
    Reg.LVT_ERROR: Lvt.VECTOR | Lvt.MASKED,
    Reg.INITIAL: WORD,
    Reg.DIVIDE: DIVIDE_BITS,
    Reg.EOI: 0,
    Reg.ESR: 0,
}
XAPIC_WRITABLE: Final[dict[int, int]] = WRITABLE | {
    Reg.LDR: HIGH_BYTE,
    Reg.DFR: WORD,
    Reg.ICR_LOW: Icr.WRITABLE,
    Reg.ICR_HIGH: HIGH_BYTE,
}
X2APIC_WRITABLE: Final[dict[int, int]] = WRITABLE | {Reg.SELF_IPI: 0xFF}
# Bits that may be set in a WRMSR though they are not kept: read-only delivery status, and the
# TSC-deadline mode that this APIC does not have.
X2APIC_IGNORED: Final[dict[int, int]] = {
    **dict.fromkeys(LVT, Lvt.STATUS),
    Reg.LVT_TIMER: Lvt.STATUS | Lvt.TSC_DEADLINE,
}
NOT_IN_X2APIC: Final = frozenset({Reg.APR, Reg.RRD, Reg.DFR, Reg.ICR_LOW, Reg.ICR_HIGH})
WRITE_ONLY: Final = frozenset({Reg.EOI, Reg.SELF_IPI})
