"""What a slice costs over the instructions in it."""

from __future__ import annotations

import time
from typing import Final

from bench.harness import REPEATS, Row, at_most
from bench.runners import machine_with

QUANTA: Final = (1, 10, 100, 1000)
SLICES: Final = 20_000
BOUND_US: Final = 10.0
INSIDE: Final = 1_000_000  # units after which the guest is in its loop
LONG: Final = 50_000_000


def run() -> list[Row]:
    """Microseconds of a slice of each quantum, less what its instructions take in a long slice."""
    machine = machine_with(("compute", "loop"), 1 << 40)
    machine.run(0, INSIDE)
    start = time.process_time()
    machine.run(0, LONG)
    instruction = (time.process_time() - start) / LONG
    rows = []
    for quantum in QUANTA:
        best = float("inf")
        for _ in range(REPEATS):
            start = time.process_time()
            for _ in range(SLICES):
                machine.run(0, quantum)
            best = min(best, (time.process_time() - start) / SLICES)
        over = (best - quantum * instruction) * 1e6
        rows.append(
            Row(
                "slices",
                f"slice of {quantum}, over its instructions",
                over,
                "us",
                None,
                None,
                *at_most(over, BOUND_US, "<= 10 us"),
            )
        )
    return rows
