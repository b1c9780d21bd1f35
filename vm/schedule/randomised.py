"""Random: a CPU and a quantum drawn by a seed for every slice.

Quanta are drawn log-uniformly, so that both single instructions and long stretches are common: a
uniform draw would hardly ever switch twice within a few instructions.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kstack.schedule.base import Choice, View


def below(draw: Callable[[int], int], bound: int) -> int:
    """A number from 0 to `bound` - 1: what `randrange` draws, without its checks (several a slice).

    Args:
        draw: `getrandbits` of a random.Random.
        bound: at least 1.
    """
    bits = bound.bit_length()
    number = draw(bits)
    while number >= bound:
        number = draw(bits)
    return number


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
        draw = self._random.getrandbits
        cpu = view.runnable[below(draw, len(view.runnable))]
        scale = 1 << below(draw, self._doublings + 1)
        return Choice(cpu, min(self._longest, scale + below(draw, scale)))

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""
