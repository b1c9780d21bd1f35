"""What a CPU counts."""

from __future__ import annotations

from dataclasses import dataclass


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
