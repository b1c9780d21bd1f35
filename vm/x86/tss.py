"""The task-state segment: SDM 7.2.1 (figure 7-2), 7.7 (figure 7-11); the I/O permission bitmap in volume 1, 18.5.2."""

from __future__ import annotations

from typing import Final

LONG_IST_1: Final = 0x24
"""Of the interrupt-stack table's first pointer, in IA-32e mode."""
IO_MAP_BASE: Final = 0x66
"""Of the 16-bit offset of the I/O permission bitmap, in both forms."""
LEAST_LIMIT: Final = 0x67
"""Below which a TSS has no bitmap, nor room for all that is in it."""


def ring_stack(cpl: int) -> int:
    """Offset of RSPn (8 bytes) in IA-32e mode, or of ESPn (4 bytes) with SSn behind it where that is not as wide."""
    return 4 + 8 * cpl


def interrupt_stack(index: int) -> int:
    """Offset of ISTn, from 1."""
    return LONG_IST_1 + 8 * (index - 1)
