"""Levels of the page pools over time, bounded, and what can be said of them exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_SAMPLES: Final = 512


class LevelSample(NamedTuple):
    """A pool at one moment: virtual time since the run began, CPU, pages in its pool after a step."""

    time: int
    cpu: int
    level: int


@dataclass(frozen=True)
class PoolUse:
    """How a run used the pools of stack pages.

    Attributes:
        start: pages in each CPU's pool when the run began.
        samples: thinned evenly: every `every`-th change; at most 512.
        every: 1 if no change is left out.
        peak_draw: most pages that were out of the pools at once, taken less given back, over all CPUs.
        imbalance: largest difference at one moment between two CPUs in how far their pools stand above
            or below where they started (pages).
        end: pages in each CPU's pool at the end.
    """

    start: tuple[int, ...]
    samples: tuple[LevelSample, ...]
    every: int
    peak_draw: int
    imbalance: int
    end: tuple[int, ...]


class LevelsState(NamedTuple):
    """What `Levels.save` gives."""

    since: int
    start: tuple[int, ...] | None
    now: tuple[int, ...]
    samples: tuple[LevelSample, ...]
    every: int
    changes: int
    out: int
    peak: int
    imbalance: int


class Levels:
    """Follows the pools of one run.

    Args:
        cpus: how many.
    """

    def __init__(self, cpus: int) -> None:
        self._since = 0
        self._start: list[int] | None = None
        self._now = [0] * cpus
        self._samples: list[LevelSample] = []
        self._every = 1
        self._changes = 0
        self._out = 0
        self._peak = 0
        self._imbalance = 0

    def begin(self, time: int, levels: list[int]) -> None:
        """The pools have been filled."""
        self._since, self._start, self._now = time, list(levels), list(levels)

    def changed(self, time: int, cpu: int, level: int, drawn: int) -> None:
        """A page was taken (`drawn` 1) or given back (-1), and a CPU's pool stands at `level` pages now."""
        if self._start is None:
            return
        self._now[cpu] = level
        self._out += drawn
        self._peak = max(self._peak, self._out)
        moved = [now - start for now, start in zip(self._now, self._start, strict=True)]
        self._imbalance = max(self._imbalance, max(moved) - min(moved))
        if self._changes % self._every == 0:
            self._samples.append(LevelSample(time - self._since, cpu, level))
        self._changes += 1
        if len(self._samples) > MAX_SAMPLES:
            self._samples = self._samples[::2]
            self._every *= 2

    def save(self) -> LevelsState:
        """All that has been seen."""
        start = None if self._start is None else tuple(self._start)
        counted = self._every, self._changes, self._out, self._peak, self._imbalance
        return LevelsState(self._since, start, tuple(self._now), tuple(self._samples), *counted)

    def load(self, state: LevelsState) -> None:
        """Become what `save` returned."""
        self._since, self._start = state.since, None if state.start is None else list(state.start)
        self._now, self._samples = list(state.now), list(state.samples)
        self._every, self._changes, self._out = state.every, state.changes, state.out
        self._peak, self._imbalance = state.peak, state.imbalance

    def summary(self) -> PoolUse | None:
        """What has been seen; None if there never were pools."""
        if self._start is None:
            return None
        return PoolUse(
            tuple(self._start),
            tuple(self._samples),
            self._every,
            self._peak,
            self._imbalance,
            tuple(self._now),
        )
