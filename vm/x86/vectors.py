"""Exceptions and interrupts by vector: SDM 6.3 and 6.15, tables 6-1, 6-4 and 6-5.

Plain integers, named by mnemonic: they stand in events beside the vectors of interrupts.
"""

from __future__ import annotations

from typing import Final

DE: Final = 0
DB: Final = 1
NMI: Final = 2
BP: Final = 3
OF: Final = 4
BR: Final = 5
UD: Final = 6
NM: Final = 7
DF: Final = 8
TS: Final = 10
NP: Final = 11
SS: Final = 12
GP: Final = 13
PF: Final = 14
MF: Final = 16
AC: Final = 17
MC: Final = 18
XM: Final = 19
VE: Final = 20
CP: Final = 21
VC: Final = 29
"""AMD APM volume 2, 8.2.20."""
SX: Final = 30
"""AMD APM volume 2, 8.2.21."""
MNEMONICS: Final = "#DE #DB NMI #BP #OF #BR #UD #NM #DF #09 #TS #NP #SS #GP #PF #15 #MF #AC #MC #XM #VE #CP".split()
"""Exceptions by vector (table 6-1)."""

CONTRIBUTORY: Final = frozenset({DE, TS, NP, SS, GP, CP})
"""Table 6-4."""
PAGE_FAULTS: Final = frozenset({PF, VE})
"""Table 6-4."""
WITH_ERROR_CODE: Final = frozenset({DF, TS, NP, SS, GP, PF, AC, CP, VC, SX})
"""Table 6-1; AMD APM volume 2, table 8-1."""
TRAPS: Final = frozenset({DB, BP, OF})
"""What is reported behind the instruction (table 6-1)."""

VECTORS: Final = 256
FIRST_LEGAL: Final = 16
"""Of what the local APIC sends and takes (10.5.2): vectors 0 to 15 are illegal."""
FIRST_USER_DEFINED: Final = 32
"""The first that is not reserved for exceptions (6.2)."""
FRED_SYSCALL: Final = 1
"""FRED specification 5.3: SYSCALL is an event of type 7 with this vector."""


def name_of(vector: int) -> str:
    """The mnemonic of an exception, or its number behind a #."""
    return MNEMONICS[vector] if vector < len(MNEMONICS) else f"#{vector}"
