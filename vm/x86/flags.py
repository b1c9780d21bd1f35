"""RFLAGS: SDM volume 1, 3.4.3."""

from __future__ import annotations

import enum
from typing import Final


class Flags(enum.IntEnum):
    """Its bits and, of IOPL, the field (figure 3-8)."""

    CF = 1 << 0
    FIXED = 1 << 1  # always set
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    VIF = 1 << 19
    VIP = 1 << 20
    ID = 1 << 21


IOPL_SHIFT: Final = 12
CC_FLAGS: Final = Flags.CF | Flags.PF | Flags.AF | Flags.ZF | Flags.SF | Flags.OF
"""The condition codes."""
WRITABLE_FLAGS: Final[int] = sum(Flags) & ~Flags.FIXED
"""All that are not reserved."""
