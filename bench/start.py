"""How long the command line takes to answer, beside Python's own start."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.harness import Row, at_most

REPEATS: Final = 7
BOUND_SECONDS: Final = 0.3


def run() -> list[Row]:
    """Wall time of `kstack --help`; nothing where it is not installed."""
    kstack = Path(sys.executable).parent / "kstack"
    if not kstack.exists() or subprocess.run([kstack, "--help"], capture_output=True).returncode:
        return []
    value, python = _seconds([str(kstack), "--help"]), _seconds([sys.executable, "-c", "pass"])
    target = at_most(value, BOUND_SECONDS, f"<= {BOUND_SECONDS} s")
    return [Row("start", "kstack --help", value, "s", "python -c pass", python, *target)]


def _seconds(command: list[str]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        best = min(best, time.perf_counter() - start)
    return best
