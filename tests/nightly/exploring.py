"""Every mutant of every policy, looked for by exploring alone: the litmus programs one after the other, under two readings.

Programs in which a few random runs fall are explored first: what is found is found by the search, and sooner. A policy whose code
never looks at Accessed is explored under one reading. A mutant that no search finds is named with what finds it otherwise (`mutation.fate`), or with why nothing can.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final, NamedTuple

from kstack.base.errors import KstackError
from kstack.explore.breadth_first import Bounds, search
from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.run.expected import unexpected
from kstack.run.options import RunOptions
from kstack.schedule import RandomSchedule
from kstack.stacks import Policy
from kstack.stacks.loading.registry import find_policy
from kstack.testing.mutants import Site, mutants_of
from tests.nightly import mutation
from tests.nightly.equivalent import why_equivalent
from tests.support.boots import booted

FALLS: Final = 30.0  # seconds a search of a mutant in a program in which random runs fall
BUDGET: Final = 10.0  # ... in any other
LONGER: Final = 90.0  # ... once more, of the first few that were not decided
RETRIES: Final = 2
UNDECIDED: Final = "undecided"
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
    return [
        (site, tuple(name for name in PROGRAMS if name in names), names) for site, names in mutation.sites_of(policy)
    ]


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
        undecided: list[tuple[str, str]] = []
        for program, reading, budget in _searches(mutant.policy, programs, undecided):
            searches += 1
            finding = found_in(mutant.policy, program, reading, budget)
            if finding == UNDECIDED:
                undecided.append((program, reading))
            elif finding is not None and mutation.is_proved(policy, program, reading, PROOF):
                return Hunted(policy, site, mutant.change, program, reading, finding, searches)
        fate = mutation.fate(policy, site, reached)
        why = f"{fate.scenario}: {fate.finding}" if fate.scenario else fate.equivalent or "nothing"
    return Hunted(policy, site, mutant.change, None, None, None, searches, why)


def _searches(
    policy: type[Policy], programs: tuple[str, ...], undecided: list[tuple[str, str]]
) -> Iterator[tuple[str, str, float]]:
    """Program, reading and seconds of one search after the other: where random runs fall, everywhere, longer."""
    readings, made = _readings(policy), set()
    for name in programs:
        for reading in readings:
            if falls_in(policy, name, reading):
                made.add((name, reading))
                yield name, reading, FALLS
    for name in programs:
        for reading in readings:
            if (name, reading) not in made:
                yield name, reading, BUDGET
    for name, reading in undecided[:RETRIES]:
        yield name, reading, LONGER


def _readings(policy: type[Policy]) -> tuple[str, ...]:
    """The readings that can make a difference to it: one, where no code of its own looks at Accessed."""
    sources = (
        inspect.getsource(inspect.getmodule(one) or one) for one in policy.__mro__ if one not in (Policy, object)
    )
    return mutation.WIDER if any("accessed" in source.lower() for source in sources) else mutation.WIDER[:1]


def falls_in(policy: type[Policy], program: str, reading: str) -> bool:
    """Whether one of a few random runs of a program finds something, or does not end well."""
    scenario, modes = find_scenario(program), mutation.MODES.with_option(f"speculation={reading}")
    for seed in range(SEEDS):
        options = RunOptions(scenario.max_instructions, stop_at_finding=True, adversary=seed)
        started = booted(program, modes.resolved(policy.delivery))
        try:
            result = started.session(policy(), RandomSchedule(seed), options).run()
        except KstackError:
            return True  # the search will say what it is
        if unexpected(scenario, result) or result.ended != "exit":
            return True
    return False


def found_in(policy: type[Policy], program: str, reading: str, budget: float) -> str | None:
    """What a search finds, if anything; `UNDECIDED` if so many seconds were not enough."""
    try:
        outcome = search(mutation.problem(policy, program, reading), Bounds(budget=budget, shorter=0))
    except KstackError:
        return None  # a mutant may do what cannot be explored, or what no policy may
    if outcome.verdict == "undecided":
        return UNDECIDED
    if outcome.verdict != "unsafe":
        return None
    return outcome.finding.kind.value if outcome.finding else "no end"


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
