"""Every step of every policy left out or taken apart, one at a time, and which scenario finds that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from kstack.explore.breadth_first import Bounds, Problem, search
from kstack.hw.modes import READINGS, Modes
from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.run.expected import unexpected
from kstack.run.options import RunOptions
from kstack.run.spec import script_of
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler, ScriptedSchedule
from kstack.stacks import Policy
from kstack.stacks.loading.registry import find_policy
from kstack.testing.mutants import Site, Sites, mutants_of
from tests.nightly.equivalent import why_equivalent
from tests.support.boots import booted

MODES: Final = Modes(tlb="adversarial", df_restart="exact")
SHARED: Final = ("reclaim_sleepers", "shootdown_everything", "free")  # the collection of sleepers' pages, as a whole
WIDER: Final = READINGS[1:]
"""Under which mutants are explored: what is found under the first of READINGS is found under each of these too."""
SILENT: Final = MODES.with_option(f"speculation={WIDER[-1]}")
SEEDS: Final = 4
MORE_SEEDS: Final = 16  # for what nothing has found
LITMUS_SEEDS: Final = 60  # they take milliseconds
SEEKING: Final = 8  # random schedules in which sites are looked for, of a litmus scenario
EXPLORED_IN: Final = {  # what a hook's mutants are explored in, where sampling finds nothing
    "memory_pressure": ("litmus-pressure", "litmus-cold"),
    "switch_in": ("litmus-pressure", "litmus-cold", "litmus-laight"),
    "exit_thread": ("litmus-reuse",),
}
USUALLY: Final = ("litmus-laight", "litmus-migrate")
EXPLORED: Final = 15.0  # seconds to explore a mutant in a litmus scenario
SLOW: Final = ("pump", "futex-sleepers", "deep")  # asked last


class Fate(NamedTuple):
    """What became of a mutant: the scenario and the finding that killed it, or None; or why nothing can."""

    policy: str
    site: Site
    change: str
    scenario: str | None
    finding: str | None
    runs: int
    equivalent: str | None = None


def order() -> list[str]:
    """Scenarios in the order in which a mutant meets them: the quick ones first."""
    found = [name for name, scenario in scenarios().items() if not scenario.long]
    return sorted(found, key=lambda name: (name in SLOW, not name.startswith("litmus-"), name))


def schedules(scenario: str, more: bool) -> Iterator[tuple[int, Scheduler]]:
    """Runs of a scenario, each with the adversary's seed; or more random ones."""
    found = find_scenario(scenario)
    if more:
        yield from ((seed, RandomSchedule(seed)) for seed in range(SEEDS, SEEDS + MORE_SEEDS))
        return
    if found.script:
        yield 0, ScriptedSchedule(script_of(found))
    yield 1, RoundRobin(100)
    yield 2, RoundRobin(10)
    for seed in range(LITMUS_SEEDS if scenario.startswith("litmus-") else SEEDS):
        yield seed, RandomSchedule(seed)


def first_finding(
    policy: type[Policy], scenario: str, modes: Modes = MODES, more: bool = False
) -> tuple[str | None, int]:
    """The first unexpected finding of a policy in a scenario, and after how many runs."""
    found = find_scenario(scenario)
    runs = 0
    for seed, scheduler in schedules(scenario, more):
        options = RunOptions(found.max_instructions, stop_at_finding=not found.expects, adversary=seed)
        result = booted(scenario, modes.resolved(policy.delivery)).session(policy(), scheduler, options).run()
        runs += 1
        wrong = unexpected(found, result)
        if wrong:
            return f"{wrong[0].kind.value}: {wrong[0].text}", runs
        if result.ended != "exit" or not result.passed:
            return f"the guest ended by {result.ended}, {result.exit_value}", runs
    return None, runs


@lru_cache(maxsize=1000)
def is_clean(policy: str, scenario: str, modes: Modes = MODES, more: bool = False) -> bool:
    """Whether the policy itself has no finding in the same runs."""
    return first_finding(find_policy(policy), scenario, modes, more)[0] is None


def sites_of(policy: str) -> list[tuple[Site, tuple[str, ...]]]:
    """Every site that a policy reaches, and the scenarios that reach it."""
    reached: dict[Site, list[str]] = {}
    for scenario in order():
        watched = Sites(find_policy(policy))
        found = find_scenario(scenario)
        usual: list[Scheduler] = [RoundRobin(100)]
        if scenario.startswith("litmus-"):  # what is reached depends on who comes first
            usual += [RoundRobin(1), *map(RandomSchedule, range(SEEKING))]
        for scheduler in usual:
            booted(scenario, MODES.resolved(watched.policy.delivery)).session(
                watched.policy(), scheduler, RunOptions(found.max_instructions)
            ).run()
        for site in watched.found:
            reached.setdefault(site, []).append(scenario)
    return [(site, tuple(names)) for site, names in sorted(reached.items())]


def fate(policy: str, site: Site, names: tuple[str, ...]) -> Fate:
    """Let a mutant meet the scenarios that reach its site, until one finds it."""
    mutant = mutants_of(find_policy(policy), [site])[0]
    runs = 0
    quick = [name for name in names if name not in SLOW]
    silent = [name for name in quick if name.startswith("litmus-")]
    for chosen, modes, more in ((names, MODES, False), (silent, SILENT, False), (quick, MODES, True)):
        why = why_equivalent(policy, site)
        if more and why is not None:
            return Fate(policy, site, mutant.change, None, None, runs, why)
        for scenario in chosen:
            finding, made = first_finding(mutant.policy, scenario, modes, more)
            runs += made
            if finding is not None and is_clean(policy, scenario, modes, more):
                return Fate(policy, site, mutant.change, scenario, finding, runs)
    for scenario in EXPLORED_IN.get(site.hook, USUALLY):
        for speculation in WIDER:
            found = explored(mutant.policy, scenario, speculation)
            if found is not None and is_proved(policy, scenario, speculation):
                return Fate(
                    policy, site, mutant.change, scenario, f"explored, speculation={speculation}: {found}", runs
                )
    return Fate(policy, site, mutant.change, None, None, runs)


def as_elsewhere(fate: Fate, found: Iterable[Fate]) -> Fate:
    """A survivor as found, if the same line of a sequence that its policy's hooks share was found in another hook."""
    place = fate.site._replace(hook="")
    for other in found if fate.scenario is None and place.function in SHARED else ():
        if other.policy == fate.policy and other.scenario and other.site._replace(hook="") == place:
            return fate._replace(
                scenario=other.scenario, finding=f"the same line, in {other.site.hook}", equivalent=None
            )
    return fate


def explored(policy: type[Policy], scenario: str, speculation: str) -> str | None:
    """What exploring a scenario finds of a policy, within a quarter of a minute."""
    outcome = search(problem(policy, scenario, speculation), Bounds(budget=EXPLORED))
    if outcome.verdict != "unsafe":
        return None
    return outcome.finding.text if outcome.finding else f"no end from {outcome.stuck} states"


@lru_cache(maxsize=1000)
def is_proved(policy: str, scenario: str, speculation: str, budget: float = 2 * EXPLORED) -> bool:
    """Whether the policy itself is proved safe there."""
    return search(problem(policy, scenario, speculation), Bounds(budget=budget)).verdict == "safe"


def problem(policy: str | type[Policy], scenario: str, speculation: str) -> Problem:
    return Problem(scenario, policy, Modes(df_restart="exact", speculation=speculation))
