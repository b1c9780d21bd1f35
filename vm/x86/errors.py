"""Error codes of exceptions: SDM 4.7 and 6.13."""

from __future__ import annotations

import enum


class PageFault(enum.IntEnum):
    """Bits of #PF's (4.7, figure 4-12)."""

    P = 1 << 0
    W = 1 << 1
    U = 1 << 2
    RSVD = 1 << 3
    ID = 1 << 4


class SelectorError(enum.IntEnum):
    """Low bits of those that name a selector or a gate (6.13, figure 6-7)."""

    EXT = 1 << 0
    IDT = 1 << 1
    TI = 1 << 2


def gate_error(vector: int, ext: int) -> int:
    """The error code that names a gate of the IDT.

    Args:
        vector: the gate's.
        ext: EXT, or 0.
    """
    return vector << 3 | SelectorError.IDT | ext
