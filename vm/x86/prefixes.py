"""Prefixes of instructions: SDM volume 2, 2.1.1 and 2.2.1."""

from __future__ import annotations

import enum
from typing import Final

from kstack.x86.registers import Seg

LOCK: Final = 0xF0
REPNE: Final = 0xF2
REP: Final = 0xF3
OPERAND_SIZE: Final = 0x66
ADDRESS_SIZE: Final = 0x67
SEGMENT_OVERRIDES: Final = {0x26: Seg.ES, 0x2E: Seg.CS, 0x36: Seg.SS, 0x3E: Seg.DS, 0x64: Seg.FS, 0x65: Seg.GS}
PREFIXES: Final = frozenset({LOCK, REPNE, REP, OPERAND_SIZE, ADDRESS_SIZE, *SEGMENT_OVERRIDES})
"""The legacy ones: all but REX."""
REX: Final = frozenset(range(0x40, 0x50))
"""In 64-bit code."""


class Rex(enum.IntEnum):
    """Bits of a REX prefix (table 2-4)."""

    B = 1 << 0
    X = 1 << 1
    R = 1 << 2
    W = 1 << 3


def high_bit(rex: int, bit: Rex) -> int:
    """What R, X or B adds to the number of a register."""
    return 8 if rex & bit else 0
