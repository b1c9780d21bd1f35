"""DR6 and DR7: SDM 17.2.3 and 17.2.4."""

from __future__ import annotations

from typing import Final

BREAKPOINTS: Final = 4
"""DR0 to DR3; bit n of DR6 (B0 to B3) says that breakpoint n was hit."""

# DR6
DR6_BD: Final = 1 << 13
DR6_BS: Final = 1 << 14
DR6_FIXED: Final = 0xFFFF0FF0
"""Reserved bits that read as one, and the value at reset (table 9-1)."""
DR6_ZERO: Final = 1 << 12
"""Reserved, reads as zero."""

# DR7
DR7_GD: Final = 1 << 13
DR7_FIXED: Final = 1 << 10
"""Reserved, reads as one, and the value at reset."""
DR7_WRITABLE: Final = 0xFFFF23FF
"""L0 to G3, LE, GE, GD, and the conditions and lengths; bits 11, 12, 14 and 15 are zero."""
_ENABLES, _CONDITION, _LENGTH = 0b11, 0b11, 0b11
LENGTHS: Final = (1, 2, 8, 4)
"""Bytes, by LENn."""
EXECUTES, WRITES, PORTS, ACCESSES = range(4)
"""R/Wn: when breakpoint n is hit; PORTS with CR4.DE alone."""


def is_enabled(dr7: int, number: int) -> bool:
    """Ln or Gn: whether breakpoint `number` is on."""
    return bool(dr7 >> 2 * number & _ENABLES)


def condition(dr7: int, number: int) -> int:
    """R/Wn."""
    return dr7 >> 16 + 4 * number & _CONDITION


def length(dr7: int, number: int) -> int:
    """Bytes that breakpoint `number` covers, by LENn."""
    return LENGTHS[dr7 >> 18 + 4 * number & _LENGTH]
