"""Control registers and IA32_EFER: SDM 2.5 and 2.2.1."""

from __future__ import annotations

import enum
from typing import Final


class Cr0(enum.IntEnum):
    """CR0 (2.5)."""

    PE = 1 << 0
    MP = 1 << 1
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4
    NE = 1 << 5
    WP = 1 << 16
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31


CR0_DEFINED: Final[int] = sum(Cr0)
"""Those that are not reserved."""
CR0_RESET: Final = Cr0.CD | Cr0.NW | Cr0.ET
"""Table 9-1: caches off; ET is always 1."""
LMSW_LOADS: Final = Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS
"""Volume 2, LMSW."""
LMSW_CLEARS: Final = Cr0.MP | Cr0.EM | Cr0.TS
"""It can set PE, and never clears it."""


class Cr3(enum.IntEnum):
    """CR3 while CR4.PCIDE is set (4.10.1, 4.10.4.1): the PCID, and what MOV to CR3 takes for "drop nothing"."""

    PCID = 0xFFF
    NO_FLUSH = 1 << 63


class Cr4(enum.IntEnum):
    """CR4 (2.5), and CR4.FRED (FRED specification 8.1)."""

    VME = 1 << 0
    PVI = 1 << 1
    TSD = 1 << 2
    DE = 1 << 3
    PSE = 1 << 4
    PAE = 1 << 5
    MCE = 1 << 6
    PGE = 1 << 7
    PCE = 1 << 8
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10
    FSGSBASE = 1 << 16
    PCIDE = 1 << 17
    SMEP = 1 << 20
    SMAP = 1 << 21
    FRED = 1 << 32


CR4_DEFINED: Final[int] = sum(Cr4)
"""Those that this machine has."""
CR8_SHIFT: Final = 4
"""CR8 is bits 7:4 of the local APIC's task-priority register (10.8.6)."""


class Efer(enum.IntEnum):
    """IA32_EFER (2.2.1)."""

    SCE = 1 << 0
    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11
