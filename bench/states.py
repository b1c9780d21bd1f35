"""Snapshot and restore of a 64 MiB machine whose kernel has booted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bench.harness import Row
from bench.runners import machine_with

REPEATS: Final = 200
BOOTED: Final = 1_000_000  # units after which the guest is in its loop
SLICE: Final = 1000


def run() -> list[Row]:
    """Microseconds of the first snapshot, and of those between slices of 1000 instructions."""
    machine = machine_with(("memory", "loop"), 1 << 40)
    machine.run(0, BOOTED)
    first = _timed(machine.snapshot)
    before = machine.snapshot()
    machine.run(0, SLICE)
    after = machine.snapshot()
    taken = restored = again = float("inf")
    for _ in range(REPEATS):
        machine.run(0, SLICE)
        taken = min(taken, _timed(machine.snapshot))
        restored = min(restored, _timed(lambda: machine.restore(before)))
        again = min(again, _timed(lambda: machine.restore(after)))
    hashed = _timed(machine.state_hash)
    return [
        Row("states", "first snapshot after boot", first * 1e6, "us"),
        Row("states", "snapshot after a slice", taken * 1e6, "us"),
        Row("states", "restore after a slice", restored * 1e6, "us"),
        Row("states", "restore of a neighbour", again * 1e6, "us"),
        Row("states", "state hash, nothing changed", hashed * 1e6, "us"),
    ]


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
