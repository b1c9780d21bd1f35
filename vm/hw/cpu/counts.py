"""What a CPU counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class CountState(NamedTuple):
    """The same, immutable."""

    instructions: int
    exceptions: int
    page_faults: int
    interrupts: int
    nmis: int
    invlpg: int
    invpcid: int
    cr3_loads: int


@dataclass
class Counts:
    """Exact counts of one CPU since reset."""

    instructions: int = 0
    exceptions: int = 0
    page_faults: int = 0
    interrupts: int = 0
    nmis: int = 0
    invlpg: int = 0
    invpcid: int = 0
    cr3_loads: int = 0

    def state(self) -> CountState:
        """An immutable copy."""
        return CountState(**vars(self))
