"""Where stack pages come from: a pool a CPU, a shared pool behind them, the page allocator behind that.

The order in which a pool gives frames out is a parameter of the machine, not of a policy: LIFO as
Linux's per-CPU lists do, FIFO, or drawn by a seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from kstack.base.errors import ConfigError

ORDERS: Final = ("lifo", "fifo", "seeded")
DEFAULT_PER_CPU: Final = 8


@dataclass(frozen=True)
class PoolConfig:
    """How pools behave.

    Attributes:
        order: `lifo`, `fifo` or `seeded`.
        per_cpu: pages a CPU's pool is filled up to; None leaves it to the policy, or 8.
        seed: for `seeded`.
        shared: pages of a pool that all CPUs fall back on, as Walleij proposed (he has 8).
        reserve: pages that the page allocator has beside the pools; None for all that the guest gave.
    """

    order: str = "lifo"
    per_cpu: int | None = None
    seed: int = 0
    shared: int = 0
    reserve: int | None = None

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"pool order {self.order!r}: one of {', '.join(ORDERS)}")
        for name in ("per_cpu", "shared", "reserve"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"pool {name} {getattr(self, name)}: give a number of pages, 0 or more")

    def resolved(self, per_cpu: int | None) -> PoolConfig:
        """This with the policy's number of pages a CPU where the user chose none."""
        return replace(self, per_cpu=per_cpu) if self.per_cpu is None else self


RandomState = tuple[object, ...]
"""What `random.Random.getstate` answers."""


class PoolsState(NamedTuple):
    """All pools, immutable: frames (bytes) in the order in which they lie; `drawn` is None where nothing is drawn."""

    reserve: tuple[int, ...]
    shared: tuple[int, ...]
    per_cpu: tuple[tuple[int, ...], ...]
    drawn: RandomState | None


class Pools:
    """All pools of one machine.

    Args:
        config: how they behave.
        cpus: how many.
        frames: physical addresses of all frames (bytes).
    """

    def __init__(self, config: PoolConfig, cpus: int, frames: list[int]) -> None:
        self._config = config
        self._target = DEFAULT_PER_CPU if config.per_cpu is None else config.per_cpu
        self.reserve = list(frames)
        self.shared: list[int] = []
        self.per_cpu: list[list[int]] = [[] for _ in range(cpus)]
        self._random = random.Random(config.seed)
        self._inside = set(frames)  # asked for membership only
        for cpu in range(cpus):
            self._refill(cpu)
        while len(self.shared) < config.shared and self.reserve:
            self.shared.append(self.reserve.pop(0))
        if config.reserve is not None:
            self._inside.difference_update(self.reserve[config.reserve :])
            del self.reserve[config.reserve :]

    def _refill(self, cpu: int) -> None:
        pool = self.per_cpu[cpu]
        for source in (self.shared, self.reserve):
            while len(pool) < self._target and source:
                pool.append(source.pop(0))

    def take(self, cpu: int, fallback: bool = True) -> int | None:
        """A frame from a CPU's pool; None if there is none.

        Args:
            cpu: whose pool.
            fallback: fill it up first if it is empty.
        """
        pool = self.per_cpu[cpu]
        if not pool and fallback:
            self._refill(cpu)
        source = pool or ((self.shared or self.reserve) if fallback else pool)
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

    def allocate(self) -> int | None:
        """A frame from the page allocator; None if it has none."""
        if not self.reserve:
            return None
        frame = self.reserve.pop(0)
        self._inside.discard(frame)
        return frame

    def give(self, cpu: int, frame: int) -> None:
        """Give a frame to a CPU's pool."""
        self.per_cpu[cpu].append(frame)
        self._inside.add(frame)

    def level(self, cpu: int) -> int:
        """Frames in a CPU's pool."""
        return len(self.per_cpu[cpu])

    @property
    def target(self) -> int:
        """Frames that a CPU's pool is filled up to."""
        return self._target

    def __contains__(self, frame: int) -> bool:
        return frame in self._inside

    def snapshot(self) -> PoolsState:
        """An immutable copy."""
        drawn = self._random.getstate() if self._config.order == "seeded" else None
        return PoolsState(tuple(self.reserve), tuple(self.shared), tuple(map(tuple, self.per_cpu)), drawn)

    def restore(self, state: PoolsState) -> None:
        """Become what `snapshot` returned."""
        reserve, shared, per_cpu, random_state = state
        self.reserve, self.shared, self.per_cpu = list(reserve), list(shared), [list(pool) for pool in per_cpu]
        self._inside = set(self.reserve).union(self.shared, *self.per_cpu)
        if random_state is not None:
            self._random.setstate(random_state)
