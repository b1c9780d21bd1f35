"""Kinds of access to memory: SDM 4.6."""

from __future__ import annotations

import enum


class Access(enum.IntEnum):
    """What a linear address is translated for; QEMU numbers them so, too (MMUAccessType)."""

    LOAD = 0
    STORE = 1
    FETCH = 2
