"""The benchmarks' guests still build with the kernel as it is, and run to their end."""

from __future__ import annotations

import pytest

from bench.events import LOOPS
from bench.runners import ours


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_a_benchmark_guest_runs(loop) -> None:
    one, three = (ours(loop.programs, count, loop.cpus)[1] for count in (1, 3))
    assert three > one, "more iterations are more instructions"


@pytest.mark.parametrize("name", ["compute", "memory", "calls"])
def test_a_speed_loop_runs(name: str) -> None:
    assert ours((name, "loop"), 2)[1] > 1000
