"""The state of an MMU, by name."""

from __future__ import annotations

from typing import NamedTuple

from kstack.hw.mmu.tlb import StructureState, TlbState


class MmuCounts(NamedTuple):
    """How often an MMU has walked the tables, and lost a translation by an invalidation."""

    walks: int
    lost: int


class MmuState(NamedTuple):
    """What an MMU has cached."""

    data: TlbState
    code: TlbState
    structures: StructureState
    counts: MmuCounts
