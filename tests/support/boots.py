"""Booted scenarios, one of a kind for all tests of a process, and what is asked of runs in them."""

from __future__ import annotations

from functools import lru_cache

from kstack.hw.modes import Modes
from kstack.judge.verdict import Judgement, Portfolio, judge
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.run.booted import BootedScenario
from kstack.run.result import RunResult
from kstack.run.spec import boot
from kstack.stacks.loading.registry import find_policy
from kstack.stacks.oracle import Kind


@lru_cache(maxsize=40)
def booted(scenario: str, modes: Modes = Modes()) -> BootedScenario:
    """A scenario's guest, booted on the CPUs that it names. Everybody's: a session of it ends the one before."""
    return boot(find_scenario(scenario), modes=modes)


def verdict(policy: str, scenario: str, schedules: int, modes: Modes = Modes()) -> Judgement:
    """What judging a shipped policy comes to, under the scenario's script, round robin and random schedules."""
    judged = booted(scenario, modes)
    return judge(find_policy(policy), find_scenario(scenario), judged, Portfolio(schedules), modes)


def kinds_of(found: RunResult | Judgement) -> set[Kind]:
    """The kinds of what was found."""
    return {finding.kind for finding in found.findings}
