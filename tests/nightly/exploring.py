"""Every mutant of every policy, looked for by exploring alone: the litmus programs one after the other, under both readings.

Programs in which a few random runs fall are explored first: what is found is found by the search, and sooner. A mutant that
no search finds is named with what finds it otherwise (`mutation.fate`), or with why nothing can.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from tests.nightly import mutation
from tests.nightly.equivalent import why_equivalent
from vm.errors import KstackError
from vm.expected import unexpected
from vm.explore.stateful import Bounds, Problem, search
from vm.hw.modes import Modes
from vm.scenarios import find_scenario, scenarios
from vm.schedule import RandomSchedule, RoundRobin
from vm.session import RunOptions
from vm.stacks import Policy
from vm.stacks.registry import find_policy
from vm.testing.mutants import Site, Sites, mutants_of

READINGS: Final = ("sets-accessed", "keeps-accessed-clear")
BUDGET: Final = 30.0  # seconds a search of a mutant
PROOF: Final = 180.0  # seconds a search of the policy itself
SEEDS: Final = 8  # random schedules by which it is seen which programs reach a step, and in which a mutant falls
PROGRAMS: Final = tuple(
    sorted(
        (name for name, scenario in scenarios().items() if scenario.litmus),
        key=lambda name: (find_scenario(name).cpus, name),
    )
)


class Hunted(NamedTuple):
    """What became of a mutant.

    Attributes:
        policy, site, change: the mutant.
        program, reading, finding: where exploring has found it, under which reading, and as what; None if nowhere.
        searches: made for that.
        otherwise: what finds it, or why nothing can, where exploring does not.
    """

    policy: str
    site: Site
    change: str
    program: str | None
    reading: str | None
    finding: str | None
    searches: int
    otherwise: str = ""


def sites_of(policy: str) -> list[tuple[Site, tuple[str, ...], tuple[str, ...]]]:
    """Every site of a policy that is reached: the programs that reach it, of which there may be none, and all scenarios."""
    scenarios = dict(mutation.sites_of(policy))
    reached: dict[Site, list[str]] = {site: [] for site in scenarios}
    for name in PROGRAMS:
        watched, scenario = Sites(find_policy(policy)), find_scenario(name)
        booted = mutation.booted(name, watched.policy.delivery)
        for scheduler in (RoundRobin(1), RoundRobin(100), *map(RandomSchedule, range(SEEDS))):
            booted.session(watched.policy(), scheduler, RunOptions(scenario.max_instructions)).run()
        for site in watched.found:
            reached.setdefault(site, []).append(name)
    return [(site, tuple(names), scenarios.get(site, tuple(names))) for site, names in sorted(reached.items())]


def hunt(policy: str, site: Site, programs: tuple[str, ...], reached: tuple[str, ...]) -> Hunted:
    """Explore the programs that reach a mutant's step until one finds it.

    Args:
        policy: its id.
        site: the step.
        programs: that reach it.
        reached: all scenarios that do, for what exploring does not find.
    """
    mutant, searches = mutants_of(find_policy(policy), [site])[0], 0
    why = why_equivalent(policy, site)
    if why is None:
        for program in likely(mutant.policy, programs):
            for reading in READINGS:
                searches += 1
                finding = found_in(mutant.policy, program, reading)
                if finding is not None and is_proved(policy, program, reading):
                    return Hunted(policy, site, mutant.change, program, reading, finding, searches)
        fate = mutation.fate(policy, site, reached)
        why = f"{fate.scenario}: {fate.finding}" if fate.scenario else fate.equivalent or "nothing"
    return Hunted(policy, site, mutant.change, None, None, None, searches, why)


def likely(policy: type[Policy], programs: tuple[str, ...]) -> Iterator[str]:
    """The programs, those first in which the policy falls."""
    late: list[str] = []
    for name in programs:
        if falls_in(policy, name):
            yield name
        else:
            late.append(name)
    yield from late


def falls_in(policy: type[Policy], program: str) -> bool:
    """Whether one of a few random runs of a program finds something, or does not end well."""
    scenario = find_scenario(program)
    for modes in (mutation.MODES, mutation.SILENT):
        for seed in range(SEEDS):
            options = RunOptions(scenario.max_instructions, stop_at_finding=True, adversary=seed)
            booted = mutation.booted(program, policy.delivery, modes)
            try:
                result = booted.session(policy(), RandomSchedule(seed), options).run()
            except KstackError:
                return True  # the search will say what it is
            if unexpected(scenario, result) or result.ended != "exit":
                return True
    return False


def found_in(policy: type[Policy], program: str, reading: str) -> str | None:
    """What a search finds, if anything."""
    try:
        outcome = search(_problem(policy, program, reading), Bounds(budget=BUDGET, shorter=0))
    except KstackError:
        return None  # a mutant may do what cannot be explored, or what no policy may
    if outcome.verdict != "unsafe":
        return None
    return outcome.finding.kind.value if outcome.finding else "no end"


@lru_cache(maxsize=1000)
def is_proved(policy: str, program: str, reading: str) -> bool:
    """Whether the policy itself is proved safe there."""
    return search(_problem(policy, program, reading), Bounds(budget=PROOF)).verdict == "safe"


def _problem(policy: str | type[Policy], program: str, reading: str) -> Problem:
    return Problem(program, policy, Modes(df_restart="exact", speculation=reading))


def table(found: list[Hunted]) -> str:
    """How many were found by policy and by program, and the others by name, as Markdown."""
    caught = [one for one in found if one.program]
    rows = ["| policy | found by exploring | mutants |", "|---|---|---|"]
    for policy in dict.fromkeys(one.policy for one in found):
        own = [one for one in found if one.policy == policy]
        rows.append(f"| {policy} | {sum(one.program is not None for one in own)} | {len(own)} |")
    counts = {name: sum(one.program == name for one in caught) for name in PROGRAMS}
    by = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    others = ["| policy | step | change | found otherwise, or no different because |", "|---|---|---|---|"]
    others += [
        f"| {one.policy} | {one.site} | {one.change} | {one.otherwise[:200]} |" for one in found if not one.program
    ]
    head = (
        f"{len(caught)} of {len(found)} mutants found by exploring, in {sum(one.searches for one in found)} searches."
    )
    return "\n\n".join((head, "\n".join(rows), f"Found by: {by}.", "\n".join(others)))
