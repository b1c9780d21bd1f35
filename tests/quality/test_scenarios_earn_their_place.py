"""A scenario that nothing breaks proves nothing: each finds what its TOML says, and has no finding without that."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kstack.guest.scenario import Scenario
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.run.expected import unexpected
from kstack.run.options import RunOptions
from kstack.run.spec import boot, script_of
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler, ScriptedSchedule
from kstack.stacks import Policy
from kstack.stacks.loading.registry import find_policy
from kstack.testing import without

SEEDS = 6
FEW = SEEDS if os.environ.get("KSTACK_LONG") else 1
"""Of what is right, in which nothing may be found; `python -m tests.nightly alarms` has hundreds."""


def schedules(scenario: Scenario, seeds: int) -> Iterator[Scheduler]:
    """A few of each kind, the script first; of one that takes minutes a single one."""
    if scenario.long:
        yield RoundRobin(1000)
        return
    if scenario.script:
        yield ScriptedSchedule(script_of(scenario))
    yield RoundRobin(100)
    yield RoundRobin(10)
    for seed in range(seeds):
        yield RandomSchedule(seed)


def first_finding(policy: type[Policy], scenario: Scenario, modes: Modes, seeds: int = SEEDS) -> str | None:
    """The first unexpected finding in these runs, or None."""
    booted = boot(scenario, modes=modes.resolved(policy.delivery))
    for seed, scheduler in enumerate(schedules(scenario, seeds)):
        options = RunOptions(scenario.max_instructions, adversary=seed)
        found = unexpected(scenario, booted.session(policy(), scheduler, options).run())
        if found:
            return found[0].kind.value
    return None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if scenario.long else [])
        for name, scenario in sorted(scenarios().items())
    ],
)
def test_a_scenario_finds_its_mutant_and_nothing_where_there_is_nothing(name: str) -> None:
    scenario = find_scenario(name)
    mutant, modes = scenario.mutant, Modes()
    for option in mutant.modes:
        modes = modes.with_option(option)
    policy = find_policy(mutant.policy)
    broken, right = (
        (without(policy, mutant.without, mutant.hook), policy) if mutant.without else (policy, find_policy("fixed-16k"))
    )
    found = first_finding(broken, scenario, modes)
    assert found is not None, f"{name} finds nothing of {mutant}"
    assert found in scenario.concerns, f"{name} finds {found}, which is not among its concerns"
    assert first_finding(right, scenario, modes, FEW) is None
