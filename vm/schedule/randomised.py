"""Random: a CPU and a quantum drawn by a seed for every slice.

Quanta are drawn log-uniformly, so that both single instructions and long stretches are common: a
uniform draw would hardly ever switch twice within a few instructions.
"""

from __future__ import annotations

import random

from vm.schedule.base import Choice, View


class RandomSchedule:
    """A seeded random walk.

    Args:
        seed: the same seed gives the same schedule.
        longest: units of virtual time of the longest slice, at least 1.
    """

    def __init__(self, seed: int, longest: int = 64) -> None:
        self.name = f"random:{longest}"
        self._random = random.Random(seed)
        self._doublings = longest.bit_length() - 1
        self._longest = longest

    def choose(self, view: View) -> Choice:
        """Draw."""
        cpu = view.runnable[self._random.randrange(len(view.runnable))]
        scale = 1 << self._random.randrange(self._doublings + 1)
        return Choice(cpu, min(self._longest, self._random.randrange(scale, 2 * scale)))

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""
