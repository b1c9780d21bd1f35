"""Registers by number and by name: SDM volume 1, 3.4; volume 2, 2.1.5 for the encoding's order."""

from __future__ import annotations

import enum
from typing import Final


class Gpr(enum.IntEnum):
    """General-purpose registers in the encoding's order."""

    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15


class Seg(enum.IntEnum):
    """Segment registers in the encoding's order (volume 2, table B-8), and behind them those of system segments and tables."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5
    LDTR = 6
    TR = 7
    GDTR = 8
    IDTR = 9


SEGMENT_NAMES: Final = {which.name.lower(): which for which in Seg if which <= Seg.GS}
"""Those that an instruction can name."""


def _gpr_names() -> dict[str, tuple[Gpr, int]]:
    names: dict[str, tuple[Gpr, int]] = {}
    for gpr in Gpr:
        name = gpr.name.lower()
        names[name] = (gpr, 8)
        if gpr < Gpr.R8:
            names["e" + name[1:]] = (gpr, 4)
            names[name[1:]] = (gpr, 2)
        else:
            for suffix, width in (("d", 4), ("w", 2), ("b", 1)):
                names[name + suffix] = (gpr, width)
    names["al"] = (Gpr.RAX, 1)
    return names


GPR_NAMES: Final = _gpr_names()
"""By name as disassemblers write it, the register and its width in bytes, for the forms that operands here can have."""
