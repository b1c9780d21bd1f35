"""Seeded bugs: a step of a policy, or an instruction of the guest, dropped or out of order; what finds each.

For the exploring engines: `stateful` has to find each, and a table says how often random walks do.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from kstack.base.errors import KstackError
from kstack.explore.breadth_first import Bounds, Problem, search
from kstack.explore.sample import hits
from kstack.guest.scenario import FOLDER
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.run.options import RunOptions
from kstack.run.spec import boot
from kstack.schedule import RoundRobin
from kstack.stacks import Policy
from kstack.stacks.loading.registry import find_policy
from kstack.testing.mutants import Mutant, Sites, mutants_of, swaps_of

PAIRS: Final = (
    ("switch-sp-ipi", "litmus-laight"),
    ("switch-sp-invlpgb", "litmus-laight"),
    ("switch-sp-deferred", "litmus-laight"),
    ("accessed-atomic", "litmus-quiet"),
    ("sleeper-gc", "litmus-pressure"),
    ("accessed-shrinker", "litmus-cold"),
    ("request", "litmus-pressure"),
    ("fixed-16k", "litmus-reuse"),
)
GUEST: Final = (
    # what is wrong, scenario, source, text, what stands there instead
    ("the handler invalidates nothing", "litmus-laight", "    invlpg [rax]\n", "    nop\n"),
    (
        "the handler acknowledges first",
        "litmus-laight",
        "    mov r8, [rdx+MB_SEQ]\n",
        "    mov r8, [rdx+MB_SEQ]\n    mov [rdx+MB_ACK], r8\n",
    ),
    ("the handler does not acknowledge", "litmus-laight", "    mov [rdx+MB_ACK], r8\n", "    nop\n"),
    (
        "the handler reads the request last",
        "litmus-cross",
        "    mov [rdx+MB_ACK], r8\n",
        "    mov r8, [rdx+MB_SEQ]\n    mov [rdx+MB_ACK], r8\n",
    ),
    (
        "the handler invalidates one page too few",
        "litmus-laight",
        "    mov rcx, [rdx+MB_PAGES]\n",
        "    mov rcx, [rdx+MB_PAGES]\n    dec rcx\n    jz .Lshootdown_ack\n",
    ),
    ("the handler does not end the interrupt", "litmus-wilcox", "    mov dword ptr [rax+APIC_EOI], 0\n", "    nop\n"),
)
MODES: Final = Modes()
EXECUTIONS: Final = 200
BUDGET: Final = 120.0  # seconds a search


class Seed(NamedTuple):
    """A bug: its policy, scenario (id or path), and what is wrong."""

    policy: str
    scenario: str
    wrong: str


class Found(NamedTuple):
    """What found a bug: visible operations of the shortest way, and hits of random walks."""

    seed: Seed
    verdict: str
    how: str
    operations: int
    states: int
    sampled: int


def seeds() -> list[tuple[Seed, int]]:
    """All policy bugs, each with its place among its policy's mutants in its scenario."""
    return [
        (Seed(policy, scenario, f"{mutant.site}: {mutant.change}"), place)
        for policy, scenario in PAIRS
        for place, mutant in enumerate(mutants(policy, scenario))
    ]


def mutants(policy: str, scenario: str) -> list[Mutant]:
    """A policy's mutants in a scenario."""
    watched, cls = Sites(find_policy(policy)), find_policy(policy)
    booted = boot(find_scenario(scenario), modes=MODES.resolved(cls.delivery))
    booted.session(watched.policy(), RoundRobin(100), RunOptions(2_000_000)).run()
    return [*mutants_of(cls, watched.found), *swaps_of(cls, watched.found)]


def hunt(seed: Seed, place: int) -> Found:
    """Let the engines hunt a policy's bug."""
    return _hunt(seed, mutants(seed.policy, seed.scenario)[place].policy, seed.scenario)


def hunt_guest(place: int) -> Found:
    """Let the engines hunt a bug of the guest."""
    wrong, scenario, text, instead = GUEST[place]
    with TemporaryDirectory() as folder:
        source = (FOLDER / "lib_litmus.s").read_text()
        assert text in source, f"lib_litmus.s has no {text!r} any more"
        (Path(folder) / "lib_litmus.s").write_text(source.replace(text, instead))
        toml = Path(folder) / "seeded.toml"
        toml.write_text((FOLDER / f"{scenario}.toml").read_text())
        return _hunt(Seed("switch-sp-ipi", scenario, wrong), find_policy("switch-sp-ipi"), str(toml))


def _hunt(seed: Seed, policy: type[Policy], scenario: str) -> Found:
    try:
        outcome = search(Problem(scenario, policy, MODES), Bounds(budget=BUDGET))
    except KstackError as error:  # it shows before there is anything to explore
        return Found(seed, "broken", str(error), 0, 0, 0)
    how = outcome.finding.kind.value if outcome.finding else ("no end" if outcome.stuck else outcome.cut)
    sampled = hits(scenario, policy, MODES, EXECUTIONS) if outcome.finding else 0
    return Found(seed, outcome.verdict, how, len(outcome.path), outcome.states, sampled)


def table(found: list[Found]) -> str:
    """All of it as Markdown; bugs of which nothing was found at the end, for they are to be explained."""
    lines = ["| policy | scenario | what is wrong | found as | operations | states | random walks that find it |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in sorted(found, key=lambda one: one.verdict != "unsafe"):
        walks = f"{one.sampled} of {EXECUTIONS}" if one.how != "no end" else "ends nowhere"
        way = one.operations if one.verdict == "unsafe" else "-"
        how = one.how if one.verdict == "unsafe" else f"**{one.verdict}** {one.how}"
        lines.append(
            f"| {one.seed.policy} | {one.seed.scenario} | {one.seed.wrong} | {how} | {way} | {one.states} | {walks} |"
        )
    caught = sum(one.verdict == "unsafe" for one in found)
    return f"{caught} of {len(found)} seeded bugs found by `stateful`.\n\n" + "\n".join(lines)
