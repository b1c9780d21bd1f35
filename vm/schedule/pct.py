"""PCT: priorities drawn by a seed, lowered at a few drawn moments.

Burckhardt and others, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs"
(ASPLOS 2010): the runnable CPU of highest priority runs; at DEPTH-1 moments the running CPU's
priority drops below all others. A CPU that spins would starve the rest, so one that has run for
long without an event drops too.
"""

from __future__ import annotations

import random
from typing import Final

from kstack.schedule.base import Choice, View

HORIZON: Final = 20_000  # units of virtual time in which the moments are drawn
PATIENCE: Final = 2_000  # units after which a CPU that marks no event steps back
QUANTUM: Final = 50


class PctSchedule:
    """A seeded PCT walk.

    Args:
        seed: the same seed gives the same schedule.
        depth: one more than the number of moments; at least 1.
    """

    def __init__(self, seed: int, depth: int) -> None:
        self.name = f"pct:{depth}"
        self._random = random.Random(seed)
        self._priority: dict[int, float] = {}
        self._changes = sorted(self._random.randrange(HORIZON) for _ in range(depth - 1))
        self._lowest = 0.0
        self._start: int | None = None
        self._last = -1
        self._since = 0

    def choose(self, view: View) -> Choice:
        """The CPU of highest priority."""
        if self._start is None:
            self._start = self._since = view.time
        for cpu in view.runnable:
            if cpu not in self._priority:
                self._priority[cpu] = 1 + self._random.random()
        if self._last in self._priority:
            moment = bool(self._changes) and view.time - self._start >= self._changes[0]
            if moment:
                self._changes.pop(0)
            if moment or self._last in view.blocked or view.time - self._since > PATIENCE:
                self._step_back(view.time)
        cpu = max(view.runnable, key=lambda cpu: (self._priority[cpu], -cpu))
        if cpu != self._last:
            self._last, self._since = cpu, view.time
        return Choice(cpu, self._random.randrange(1, QUANTUM + 1))

    def _step_back(self, time: int) -> None:
        self._lowest -= 1
        self._priority[self._last] = self._lowest
        self._since = time

    def event(self, cpu: int, name: str) -> None:
        """Progress: the CPU may go on."""
        if cpu == self._last and self._start is not None:
            self._since += PATIENCE
