"""The immediate operand of PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM: SDM volume 2, 4.1."""

from __future__ import annotations

import enum


class Compare(enum.IntEnum):
    """Its bits (tables 4-1, 4-3, 4-5)."""

    WORDS = 1 << 0
    SIGNED = 1 << 1
    NEGATIVE = 1 << 4
    MASKED = 1 << 5
    MOST_SIGNIFICANT = 1 << 6  # the last element's index; a mask of bytes or words


class Aggregation(enum.IntEnum):
    """Its bits 2 and 3 (table 4-2)."""

    EQUAL_ANY = 0
    RANGES = 1
    EQUAL_EACH = 2
    EQUAL_ORDERED = 3


def aggregation(control: int) -> Aggregation:
    """How the elements are compared."""
    return Aggregation(control >> 2 & 3)
