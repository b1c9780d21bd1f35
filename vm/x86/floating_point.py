"""Control and status of the x87 and of SSE: SDM volume 1, 8.1 and 10.2.3."""

from __future__ import annotations

from typing import Final

FCW_POWER_UP: Final = 0x40
"""The x87's control word (volume 3A, table 9-1)."""
FSW_TOP: Final = 7 << 11
FSW_TOP_SHIFT: Final = 11
"""Of the status word: which physical register is the top of the stack (figure 8-4)."""
MXCSR_MASKS: Final = 0x1F80
"""One for each exception of SSE (figure 10-3)."""
MXCSR_POWER_UP: Final = MXCSR_MASKS
MXCSR_RESERVED: Final = 0xFFFF0000
FXSAVE_BYTES: Final = 512
FXSAVE_MXCSR: Final = 24
"""Offset in the image that FXSAVE stores (table 10-2)."""
