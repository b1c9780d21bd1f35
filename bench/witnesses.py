"""Seconds until the first witness of each unsafe policy, in the litmus scenario in which it comes first."""

from __future__ import annotations

import time
from typing import Final

from bench.harness import Row, at_most
from kstack.explore.breadth_first import Problem, search
from kstack.hw.modes import Modes

SETS: Final = Modes()
CLEAR: Final = Modes(speculation="keeps-accessed-clear")
UNSAFE: Final = (
    ("accessed-atomic", "litmus-quiet", CLEAR),
    ("accessed-latch", "litmus-quiet", CLEAR),
    ("accessed-plain", "litmus-quiet", SETS),
    ("dirty-atomic", "litmus-quiet", SETS),
    ("entry-exit", "litmus-laight", SETS),
    ("entry-exit-home", "litmus-laight", SETS),
    ("fixed-4k", "litmus-laight", SETS),
    ("fixed-8k", "litmus-cross", SETS),
    ("switch-sp", "litmus-laight", SETS),
    ("switch-sp-local", "litmus-laight", SETS),
    ("switch-sp-shared", "litmus-quiet", SETS),
    ("v1-as-posted", "litmus-cross", SETS),
)
"""Policies that docs/explore.md has as unsafe, each with a scenario that shows it."""


def run() -> list[Row]:
    """Seconds of the whole search from the boot to the shortest way, and of making it out once more."""
    rows = []
    for policy, scenario, modes in UNSAFE:
        start = time.perf_counter()
        outcome = search(Problem(scenario, policy, modes))
        seconds = time.perf_counter() - start
        if outcome.verdict != "unsafe":
            raise RuntimeError(f"{policy} in {scenario}: {outcome.verdict}")
        name = f"{policy}, {scenario.removeprefix('litmus-')}: {len(outcome.path)} operations"
        rows.append(Row("witnesses", name, seconds, "s", None, None, *at_most(seconds, 2.0, "<= 2 s")))
    return rows
