"""Segments: selectors (SDM 3.4.2) and segment descriptors (3.4.5), as a segment register's hidden part has them."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class Selector(enum.IntEnum):
    """Fields of a selector (figure 3-6)."""

    RPL = 0b11
    TI = 1 << 2  # of the LDT
    INDEX = 0xFFF8
    WITHOUT_RPL = INDEX | TI  # null if this is zero


class SegmentAttribute(enum.IntEnum):
    """Attributes in a descriptor's high word (figure 3-8); of the type, the bits of code and data segments (table 3-1)."""

    ACCESSED = 1 << 8
    WRITABLE = 1 << 9  # of data
    READABLE = 1 << 9  # of code
    EXPAND_DOWN = 1 << 10  # of data
    CONFORMING = 1 << 10  # of code
    CODE = 1 << 11
    TYPE = 0xF << 8
    S = 1 << 12  # code or data
    DPL = 3 << 13
    P = 1 << 15
    LIMIT = 0xF << 16  # bits 19:16 of the limit
    L = 1 << 21
    B = 1 << 22  # D of code
    G = 1 << 23


USER_RING: Final = 3
"""CPL, RPL and DPL of user code (5.5)."""
ATTRIBUTES: Final = 0x00F0FF00
"""All of them; the rest of the word is base and limit."""
DPL_SHIFT: Final = 13
DESCRIPTOR_BYTES: Final = 8
ACCESS_BYTE: Final = 5
"""Offset of the byte with type, S, DPL and P, which are `SegmentAttribute`'s bits from `ACCESS_SHIFT` on."""
ACCESS_SHIFT: Final = 8
REAL_LIMIT: Final = 0xFFFF
"""Of the segments of real-address mode (20.1.1), and at reset (table 9-1)."""
FLAT_LIMIT: Final = 0xFFFFFFFF
CODE: Final = (
    SegmentAttribute.P
    | SegmentAttribute.S
    | SegmentAttribute.CODE
    | SegmentAttribute.READABLE
    | SegmentAttribute.ACCESSED
)
"""A code segment of ring 0 that has been used."""
DATA: Final = SegmentAttribute.P | SegmentAttribute.S | SegmentAttribute.WRITABLE | SegmentAttribute.ACCESSED
"""A data segment of ring 0 that has been used."""


LDT: Final = SegmentAttribute.P | 0x2 << 8
"""A local descriptor table (3.5, table 3-2)."""
BUSY_TSS: Final = SegmentAttribute.P | 0xB << 8
"""A task-state segment that is in use, of 32 bits or of IA-32e mode."""


_RING: Final = int(Selector.RPL)  # a privilege level has two bits
_G: Final = int(SegmentAttribute.G)


class Segment(NamedTuple):
    """A segment register with its hidden part (3.4.3).

    Attributes:
        selector: what instructions see.
        base, limit: bytes.
        flags: the descriptor's attributes.
    """

    selector: int
    base: int
    limit: int
    flags: int

    @property
    def dpl(self) -> int:
        """Descriptor privilege level."""
        return self.flags >> DPL_SHIFT & _RING


def unpack_descriptor(selector: int, raw: int) -> Segment:
    """A segment descriptor as a segment register's hidden part (figure 3-8)."""
    base = raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000
    limit = raw & 0xFFFF | raw >> 32 & 0xF0000
    flags = raw >> 32 & ATTRIBUTES
    if flags & _G:
        limit = limit << 12 | 0xFFF
    return Segment(selector, base, limit, flags)


def system_base(low: int, high: int) -> int:
    """The base in the 16 bytes of a system descriptor of 64-bit mode (7.2.3, figure 7-4)."""
    return low >> 16 & 0xFFFFFF | low >> 56 << 24 | (high & 0xFFFFFFFF) << 32
