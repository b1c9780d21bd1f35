"""Addresses and pages: SDM volume 1, 3.3.7.1; volume 3A, 4.1.4."""

from __future__ import annotations

from typing import Final

PAGE_SHIFT: Final = 12
PAGE: Final = 1 << PAGE_SHIFT
"""Bytes of the smallest page, and of a table."""
LINEAR_BITS: Final = 48
"""Of a linear address with 4-level paging; those above repeat the highest."""
PHYSICAL_BITS: Final = 40
"""MAXPHYADDR of this machine: CPUID leaf 8000_0008, EAX bits 7:0."""
_LOWER_HALF: Final = 1 << LINEAR_BITS - 1
_UPPER_HALF: Final = (1 << 64) - (1 << LINEAR_BITS - 1)


def is_canonical(address: int) -> bool:
    """Bits 63:47 are equal (volume 1, 3.3.7.1)."""
    return address < _LOWER_HALF or address >= _UPPER_HALF


def canonical(address: int) -> int:
    """The canonical address with these low 48 bits."""
    return address | _UPPER_HALF if address & _LOWER_HALF else address
