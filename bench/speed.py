"""Instructions a second, beside bare Unicorn and QEMU."""

from __future__ import annotations

from functools import partial
from typing import Final

from bench.harness import Row, at_least, seconds_each
from bench.runners import bare_unicorn, has_qemu, ours, qemu

LOOPS: Final = {"compute": 0.8, "memory": 0.8, "calls": None}
FIRST: Final = 1_000_000


def run() -> list[Row]:
    """MIPS of three loops: long mode, paging on, data not executable, all intercepts, an observer."""
    rows = []
    for loop, bound in LOOPS.items():
        here = partial(_ours, (loop, "loop"))
        instructions = ours((loop, "loop"), 2)[1] - ours((loop, "loop"), 1)[1]
        runners = [here, partial(bare_unicorn, loop)]
        if has_qemu():
            runners.append(partial(qemu, (loop, "loop")))
        value, bare, *there = (instructions / each / 1e6 for each in seconds_each(*runners, first=FIRST))
        target = (None, None) if bound is None else at_least(value / bare, bound, f">= {bound} of Unicorn")
        rows.append(Row("speed", loop, value, "MIPS", "bare Unicorn", bare, *target))
        rows.extend(Row("speed", loop, value, "MIPS", "QEMU TCG", each) for each in there)
    return rows


def _ours(programs: tuple[str, ...], count: int) -> float:
    return ours(programs, count)[0]
