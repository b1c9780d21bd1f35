"""What an explorer is asked, where it stops, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kstack.explore.model.gate import Visible
from kstack.explore.world import FoundBefore, Grown, Move, NotReady, World, boot_litmus
from kstack.hw.modes import Modes
from kstack.run.booted import BootedScenario
from kstack.sanitizer.findings import Finding
from kstack.stacks import Policy
from kstack.stacks.loading.registry import find_policy

REFERENCE: Final = "fixed-16k"
"""The policy under which every scenario's programs get ready, if they ever do."""
Progress = Callable[[int, int, int], None]  # states, frontier, depth


@dataclass(frozen=True)
class Problem:
    """What is searched, by names: all that another process needs.

    Attributes:
        scenario: its id.
        policy: id, path of a Python file, or path:name of one of several there; or the class, for a search in this process alone.
        modes: architecture modes.
        visible: frames known to be visible, by number, from earlier attempts.
    """

    scenario: str
    policy: str | type[Policy]
    modes: Modes
    visible: tuple[int, ...] = ()

    def world(self, booted: BootedScenario | None = None) -> World:
        """A world of it, at the root; with the guest of an earlier world, which ends, or with a fresh one."""
        return World(self.scenario, self.chosen, self.modes, Visible(self.visible), booted)

    def boot(self) -> BootedScenario:
        """A guest for worlds of it, one after the other."""
        return boot_litmus(self.scenario, self.chosen, self.modes)

    @property
    def chosen(self) -> type[Policy]:
        """The policy's class."""
        return find_policy(self.policy) if isinstance(self.policy, str) else self.policy


@dataclass(frozen=True)
class Bounds:
    """Where a search stops without an answer; every bound of every engine.

    Attributes:
        depth: visible operations from the beginning; None for no bound.
        states: how many `stateful` keeps.
        budget: seconds; None for no bound.
        every_move: of `stateful`: make every move from every state, also where the others can wait; so it is where `depth` bounds
            the search.
        shorter: once something is found: how many states are kept to look for a shorter way to a finding.
        preemptions: of `dpor`: the largest number of preemptions in an execution; None for no bound.
        executions: of `sample`: how many walks are made.
    """

    depth: int | None = None
    states: int = 2_000_000
    budget: float | None = None
    every_move: bool = False
    shorter: int = 200_000
    preemptions: int | None = None
    executions: int = 1000

    @property
    def reduces(self) -> bool:
        """Whether moves are left out that can be made later as well."""
        return self.depth is None and not self.every_move


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        verdict: `safe`, `unsafe` or `undecided`.
        complete: every state was expanded, and no bound cut a path.
        states, moves: how many states were seen, and moves made.
        exercised: moves that could have gone by more than one translation.
        finding: the first, or None.
        path: moves from the beginning to it.
        shortest: no shorter way leads to a finding.
        stuck: states from which no end can be reached.
        cut: which bound cut the search, or empty.
        depth: visible operations on the longest shortest path.
        executions: how many were made, by an engine that makes them one by one.
        stronger: where in the guest (symbols) something was one operation though hardware may make several of it.
    """

    verdict: str
    complete: bool
    states: int
    moves: int
    exercised: int
    depth: int
    finding: Finding | None = None
    path: tuple[Move, ...] = ()
    stuck: int = 0
    cut: str = ""
    executions: int = 0
    visible: Visible = field(default_factory=Visible, compare=False)
    shortest: bool = False
    stronger: tuple[str, ...] = ()

    @property
    def asks_nothing(self) -> bool:
        """Whether it is a proof in which no access could ever have gone two ways: of this policy nothing was asked."""
        return self.verdict == "safe" and not self.exercised


def at_once(scenario: str, policy: type[Policy], modes: Modes, why: FoundBefore | NotReady) -> Outcome:
    """What a search comes to whose policy falls before the programs are ready.

    Args:
        scenario: its id.
        policy: the policy's class.
        modes: architecture modes.
        why: what became of it; if nothing was found, the policy is to blame where the programs get ready under another.

    Raises:
        NotReady: they do not under fixed-16k either.
    """
    if isinstance(why, FoundBefore):
        return Outcome("unsafe", False, 0, 0, 0, 0, finding=why.finding, shortest=True)
    reference = find_policy(REFERENCE)
    if policy is reference:
        raise why
    try:
        World(scenario, reference, modes, Visible())
    except FoundBefore:
        raise why from None
    except Grown:
        pass  # it has got ready
    return Outcome("unsafe", False, 1, 0, 0, 0, shortest=True, stuck=1)
