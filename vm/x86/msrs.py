"""Model-specific registers by number: SDM volume 4, table 2-2; FRED specification, 9.1."""

from __future__ import annotations

import enum
from typing import Final

X2APIC_FIRST_MSR: Final = 0x800
"""10.12.1.2: of the local APIC's registers; MSR = 800H + (offset >> 4)."""
X2APIC_LAST_MSR: Final = 0x83F
STAR_SYSCALL_SHIFT: Final = 32
"""Of IA32_STAR: CS and SS of SYSCALL (volume 2, SYSCALL)."""
STAR_SYSRET_SHIFT: Final = 48
"""Of IA32_STAR: CS and SS of SYSRET."""


class Msr(enum.IntEnum):
    """The MSRs that are implemented, without IA32_ in their names."""

    TSC = 0x10
    PLATFORM_ID = 0x17
    APIC_BASE = 0x1B
    BIOS_SIGN_ID = 0x8B
    MTRR_CAP = 0xFE
    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    MCG_CAP = 0x179
    FRED_RSP0 = 0x1CC
    FRED_RSP1 = 0x1CD
    FRED_RSP2 = 0x1CE
    FRED_RSP3 = 0x1CF
    FRED_STKLVLS = 0x1D0
    FRED_SSP1 = 0x1D1
    FRED_SSP2 = 0x1D2
    FRED_SSP3 = 0x1D3
    FRED_CONFIG = 0x1D4
    MISC_ENABLE = 0x1A0
    PAT = 0x277
    MTRR_DEF_TYPE = 0x2FF
    EFER = 0xC0000080
    STAR = 0xC0000081
    LSTAR = 0xC0000082
    CSTAR = 0xC0000083
    FMASK = 0xC0000084
    FS_BASE = 0xC0000100
    GS_BASE = 0xC0000101
    KERNEL_GS_BASE = 0xC0000102
    TSC_AUX = 0xC0000103
