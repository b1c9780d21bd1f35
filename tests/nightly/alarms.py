"""The oracle has no false alarm: policies that are safe stay clean over ten thousand random schedules each."""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.run.expected import unexpected
from kstack.run.options import RunOptions
from kstack.schedule import RandomSchedule
from kstack.stacks.loading.registry import find_policy
from tests.nightly.mutation import MODES
from tests.support.boots import booted

SAFE: Final = (
    "fixed-16k",
    "switch-sp-ipi",
    "switch-sp-deferred",
    "sleeper-gc",
    "entry-keep",
    "switch-sp-invlpgb",
    "accessed-shrinker",
    "request",
    "user-sleep",
    "fault-ist",
    "fault-fred",
    "probe",
    "multiplex",
)
LARGE: Final = ("laight", "quiet-then-deep", "wilcox", "migrate", "exit-reuse", "unwinder", "hotplug", "pressure")
LITMUS: Final = tuple(name for name in scenarios() if name.startswith("litmus-"))
SCENARIOS: Final = (*LARGE, *LITMUS)
BATCH: Final = 50


def schedules_of(total: int) -> dict[str, int]:
    """How many of a policy's schedules each scenario gets: nine in ten go to the litmus ones, which are short."""
    each = {name: total // 10 // len(LARGE) for name in LARGE}
    rest = total - sum(each.values())
    each |= {name: rest // len(LITMUS) for name in LITMUS}
    each[LITMUS[0]] += total - sum(each.values())
    return each


class Batch(NamedTuple):
    """What a batch of schedules of one pair came to."""

    policy: str
    scenario: str
    runs: int
    exercised: int
    alarm: str | None


def batch(policy: str, scenario: str, first: int, count: int) -> Batch:
    """Run seeds `first` to `first + count - 1`; stop at an alarm."""
    found, cls = find_scenario(scenario), find_policy(policy)
    exercised = 0
    for seed in range(first, first + count):
        options = RunOptions(found.max_instructions, adversary=seed)
        result = booted(scenario, MODES.resolved(cls.delivery)).session(cls(), RandomSchedule(seed), options).run()
        exercised += result.exercised
        wrong = unexpected(found, result)
        if wrong or result.ended != "exit":
            text = wrong[0].text if wrong else f"the guest did not end: {result.ended}"
            return Batch(policy, scenario, seed - first + 1, exercised, f"seed {seed}: {text}")
    return Batch(policy, scenario, count, exercised, None)


__all__ = ["BATCH", "MODES", "SAFE", "SCENARIOS", "Batch", "batch", "schedules_of"]
