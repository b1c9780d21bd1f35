"""FRED: event frames, and the fields of IA32_FRED_CONFIG (sources: kstack.hw.cpu.fred).

RSP+56  0                                                        +24  RFLAGS
   +48  event data                                               +16  CS   17:16 level
   +40  SS   16 STI  17 system call, INT n  18 NMI  39:32 vector  +8  RIP
             51:48 type  57 64-bit  58 nested  63:60 length       +0  error code
"""

from __future__ import annotations

import enum
from typing import Final

FRAME_BYTES: Final = 64
FRAME_ALIGNED: Final = ~0x3F
USER_ENTRY, KERNEL_ENTRY = 0, 256
"""Offsets in the entry page."""


class EventType(enum.IntEnum):
    """Bits 51:48 of the frame's SS."""

    INTERRUPT = 0
    NMI = 2
    EXCEPTION = 3
    INT_N = 4
    INT1 = 5
    INT3 = 6
    OTHER = 7


STI_BIT: Final = 1 << 16
SOFTWARE_BIT: Final = 1 << 17
NMI_BIT: Final = 1 << 18
LONG_BIT: Final = 1 << 57
NESTED_BIT: Final = 1 << 58
VECTOR_SHIFT: Final = 32
TYPE_SHIFT: Final = 48
LENGTH_SHIFT: Final = 60
EVENT_BITS: Final = 7 << 16
"""Of the frame's SS: STI, software, NMI; in CS the same bits are the stack level and one that is reserved."""
LEVEL_SHIFT: Final = 16
"""Of the frame's CS."""
LEVEL: Final = 3
"""Of IA32_FRED_CONFIG: the current stack level; a level elsewhere has as many bits."""
CONFIG_RED_ZONE: Final = 0x1C0
"""Of IA32_FRED_CONFIG: bytes below RSP that are left alone, a multiple of 64."""
CONFIG_INTERRUPT_LEVEL_SHIFT: Final = 9
CONFIG_RESERVED: Final = 0x834
CONFIG_PAGE: Final = ~0xFFF
RFLAGS_CHECKED: Final = 0xFFFFFFFFFFC2802A
"""Reserved bits and VM, of which bit 1 alone must be set in what is popped."""
USER_CS_CHECKED: Final = 0xFFFFFFFF_FFFF0003
"""Of the CS that ERETU pops: bits that must be those of ring 3 alone."""
USER_SS_CHECKED: Final = 0xFFF80003
