"""Operands of the instructions that invalidate translations: SDM volume 2, INVPCID; AMD APM volume 3, INVLPGB."""

from __future__ import annotations

import enum
from typing import Final


class Invpcid(enum.IntEnum):
    """INVPCID's type."""

    ADDRESS = 0
    CONTEXT = 1
    ALL_GLOBAL = 2  # and global translations
    ALL = 3


INVPCID_BYTES: Final = 16
"""Of its descriptor: the PCID, reserved bits up to bit 63, and the linear address."""


class InvlpgbRax(enum.IntEnum):
    """Low bits of RAX: what the invalidation matches and includes."""

    VA_VALID = 1 << 0
    PCID_VALID = 1 << 1
    ASID_VALID = 1 << 2
    INCLUDE_GLOBAL = 1 << 3
    FINAL_ONLY = 1 << 4


INVLPGB_COUNT: Final = 0xFFFF
"""Of ECX: further pages."""
INVLPGB_PCID_SHIFT: Final = 16
"""Of EDX: bits 27:16 are the PCID."""
INVLPGB_PCID: Final = 0xFFF
