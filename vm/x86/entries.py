"""Paging-structure entries of 4-level paging: SDM 4.5, tables 4-14 to 4-20.

Plain integers: a walk masks with them at each level.
"""

from __future__ import annotations

from typing import Final

from kstack.x86.addresses import PHYSICAL_BITS

P: Final = 1 << 0
RW: Final = 1 << 1
US: Final = 1 << 2
A: Final = 1 << 5
D: Final = 1 << 6
PS: Final = 1 << 7
"""Maps a page, above the lowest level; at the lowest the bit is PAT."""
G: Final = 1 << 8
NX: Final = 1 << 63
"""XD."""
BIT_NAMES: Final = {P: "P", RW: "RW", US: "US", A: "A", D: "D", PS: "PS", G: "G", NX: "NX"}
FRAME_MASK: Final = (1 << 52) - (1 << 12)
"""Bits 51:12: the physical address of the table, or of a page of 4 KiB."""
RESERVED_HIGH: Final = (1 << 52) - (1 << PHYSICAL_BITS)
"""Bits of it beyond MAXPHYADDR."""
LARGE_RESERVED: Final = {30: (1 << 30) - (1 << 13), 21: (1 << 21) - (1 << 13)}
"""By the shift of the level: bits of the address that must be zero where an entry maps a page; bit 12 is PAT."""
IGNORED: Final = 0b111 << 9 | 0x7FF << 52
"""Bits that the processor ignores (table 4-20; 62:59 without protection keys)."""
LEVELS: Final = {39: "PML4E", 30: "PDPTE", 21: "PDE", 12: "PTE"}
"""By the shift of a level, log2 of what one entry maps, what its entries are called."""
