"""kstack compare: the main job. Every policy against every scenario."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from guest.scenario import Scenario
from vm.cli.options import Json, ModeList, PoolOptions, modes_of, split
from vm.cli.output import console, print_json
from vm.errors import ConfigError
from vm.hw.modes import Modes
from vm.judge import DEFAULT_SCHEDULES, Judgement, Portfolio, boot, judge
from vm.report.table import print_judgements
from vm.scenarios import find_scenario
from vm.scenarios import scenarios as known_scenarios
from vm.stacks.policy import Policy
from vm.stacks.registry import find_policy
from vm.stacks.registry import policies as known_policies


def compare(
    *,
    policies: str | None = None,
    scenarios: str | None = None,
    schedules: int = DEFAULT_SCHEDULES,
    mode: ModeList = None,
    pool: PoolOptions = PoolOptions(),
    strict: Annotated[bool, Parameter(negative=(), help="Exit with 1 if any policy is not safe.")] = False,
    json: Json = False,
) -> int:
    """Judge every policy against every scenario: verdicts, memory, cost.

    Parameters
    ----------
    policies: ids or files, separated by commas (default: all)
    scenarios: ids, separated by commas (default: all)
    schedules: random schedules a pair
    """
    if schedules < 0:
        raise ConfigError("--schedules: give 0 or more")
    wanted = [find_policy(name) for name in split(policies) or known_policies()]
    chosen = [find_scenario(name) for name in split(scenarios) or known_scenarios()]
    modes = modes_of(mode)
    portfolio = Portfolio(schedules, pool.config())
    judgements = list(_judgements(wanted, chosen, portfolio, modes))
    if json:
        results = [judgement.as_dict() for judgement in judgements]
        print_json({"version": 1, "modes": modes.as_dict(), "results": results})
    else:
        print_judgements(console(), judgements)
    return int(strict and any(judgement.safe is not True for judgement in judgements))


def _judgements(
    policies: list[type[Policy]], scenarios: list[Scenario], portfolio: Portfolio, modes: Modes
) -> Iterator[Judgement]:
    total = len(policies) * len(scenarios)
    done = 0
    for scenario in scenarios:
        booted = boot(scenario, modes=modes)
        for policy in policies:
            done += 1
            if sys.stderr.isatty():
                print(f"\r\x1b[K{done}/{total} {policy.id} / {scenario.id}", end="", file=sys.stderr, flush=True)
            yield judge(policy, scenario, booted, portfolio, modes)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
