"""Pools of stack pages, one a CPU, with a shared reserve behind them.

The order in which a pool gives frames out is a parameter of the machine, not of a policy: LIFO as
Linux's per-CPU lists do, FIFO, or drawn by a seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from vm.errors import ConfigError

ORDERS: Final = ("lifo", "fifo", "seeded")
PAGE: Final = 4096


@dataclass(frozen=True)
class PoolConfig:
    """How pools behave.

    Attributes:
        order: `lifo`, `fifo` or `seeded`.
        per_cpu: pages a CPU's pool is filled with at boot and refilled to from the reserve.
        seed: for `seeded`.
    """

    order: str = "lifo"
    per_cpu: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"pool order {self.order!r}: one of {', '.join(ORDERS)}")
        if self.per_cpu < 0:
            raise ConfigError(f"pool size {self.per_cpu}: give a number of pages, 0 or more")


class Pools:
    """All pools of one machine.

    Args:
        config: how they behave.
        cpus: how many.
        frames: physical addresses of all frames (bytes).
    """

    def __init__(self, config: PoolConfig, cpus: int, frames: list[int]) -> None:
        self._config = config
        self.reserve = list(frames)
        self.per_cpu: list[list[int]] = [[] for _ in range(cpus)]
        self._random = random.Random(config.seed)
        self._inside = set(frames)  # asked for membership only
        for cpu in range(cpus):
            self._refill(cpu)

    def _refill(self, cpu: int) -> None:
        pool = self.per_cpu[cpu]
        while len(pool) < self._config.per_cpu and self.reserve:
            pool.append(self.reserve.pop(0))

    def take(self, cpu: int) -> int | None:
        """A frame from a CPU's pool, which is refilled when it is empty; None if there is none at all."""
        pool = self.per_cpu[cpu]
        if not pool:
            self._refill(cpu)
        source = pool or self.reserve
        if not source:
            return None
        if self._config.order == "lifo":
            frame = source.pop()
        elif self._config.order == "fifo":
            frame = source.pop(0)
        else:
            frame = source.pop(self._random.randrange(len(source)))
        self._inside.discard(frame)
        return frame

    def give(self, cpu: int, frame: int) -> None:
        """Give a frame to a CPU's pool."""
        self.per_cpu[cpu].append(frame)
        self._inside.add(frame)

    def __contains__(self, frame: int) -> bool:
        return frame in self._inside

    def snapshot(self) -> Any:
        """An immutable copy."""
        return tuple(self.reserve), tuple(map(tuple, self.per_cpu)), self._random.getstate()

    def restore(self, state: Any) -> None:
        """Become what `snapshot` returned."""
        reserve, per_cpu, random_state = state
        self.reserve, self.per_cpu = list(reserve), [list(pool) for pool in per_cpu]
        self._inside = set(self.reserve).union(*self.per_cpu)
        self._random.setstate(random_state)
