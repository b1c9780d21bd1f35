"""Which final values a litmus scenario can come to: all of them, over all its interleavings.

A scenario names its final values in the table `outcomes` of its TOML: `cpu 0 r8` is a register of a CPU as its program has
left it (but for those that the guest needs to say that it has ended), `word NAME+8` a word of memory by a symbol of the guest, in the frame that the image was loaded into, whatever maps it in the end, and
`entry NAME` the leaf entry that maps a symbol's page.

An end is a state in which all programs have come to their end and nothing else can happen. Where a walker may or may not
have set Accessed in an entry, both are final values. What the oracle finds is no matter here: the search goes on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, NamedTuple

from kstack.base.errors import ScenarioError
from kstack.explore.components import Node
from kstack.explore.may_access import Locality
from kstack.explore.persistent_sets import Expansion, Reduction, Relying, Successor, expand, wander
from kstack.explore.problem import Bounds, Problem, Progress
from kstack.explore.transitions import Memo
from kstack.explore.world import Grown, World
from kstack.kernels.known import usual_guests
from kstack.run.booted import BootedScenario
from kstack.x86.entries import A
from kstack.x86.registers import Gpr

_CLOCK = time.monotonic  # for the budget alone
_FORM: Final = re.compile(
    r"cpu (?P<cpu>\d{1,3}) (?P<register>\w+)|(?P<what>word|entry) (?P<symbol>[\w.$]+)(\+(?P<offset>\w+))?"
)
Values = tuple[int, ...]


class Watched(NamedTuple):
    """A final value: its name; `cpu`, `word` or `entry`; the CPU, or an address (physical for a word, else linear); the register."""

    name: str
    what: str
    where: int
    register: int = 0


@dataclass(frozen=True)
class Reached:
    """What a search for outcomes came to.

    Attributes:
        names: of the final values.
        outcomes: which there are together, sorted; in the order of the names.
        complete: there are no others.
        states, moves: how many states were seen, and moves made.
        stuck: states from which no end can be reached.
        cut: which bound cut the search, or empty.
        visible: frames that turned out to be visible, for a `Problem` of the same guest.
    """

    names: tuple[str, ...]
    outcomes: tuple[Values, ...]
    complete: bool
    states: int
    moves: int
    stuck: int = 0
    cut: str = ""
    visible: tuple[int, ...] = ()


def outcomes(
    problem: Problem,
    bounds: Bounds = Bounds(),
    progress: Progress = lambda *_: None,
    booted: BootedScenario | None = None,
) -> Reached:
    """All final values of a litmus scenario that names them.

    Args:
        problem: the scenario, the policy, the modes.
        bounds: where to stop.
        progress: told after each layer.
        booted: its guest, from an earlier search, which is over; None boots it.

    Raises:
        ScenarioError: the scenario cannot be explored, or names no final values, or some that do not exist.
        PolicyError: the policy did what no policy may.
    """
    deadline = None if bounds.budget is None else _CLOCK() + bounds.budget
    booted = booted or problem.boot()
    watched = find_watched(problem.scenario, booted)
    known = Locality() if bounds.reduces else None
    memo: Memo | None = None
    while True:
        try:
            if memo is None:
                memo = Memo(problem.world(booted))
                if known is not None:
                    wander(memo, Reduction(known))
            found = _Search(memo, bounds, deadline, progress, watched, known).run()
            return replace(found, visible=problem.visible)
        except Grown as grown:
            problem, memo = replace(problem, visible=grown.frames), None
            known = None if known is None else Locality()


# --- what is watched


def find_watched(scenario: str, booted: BootedScenario) -> tuple[Watched, ...]:
    """The final values that a scenario names; its guest, which is rewound, maps each symbol where it was loaded.

    Raises:
        ScenarioError: it names none, or one that does not exist.
    """
    named = usual_guests().scenario(scenario).outcomes
    if not named:
        raise ScenarioError(f"scenario {scenario}: it names no final values; {_HOW}")
    booted.rewind()
    return tuple(_watched(scenario, booted, name, text) for name, text in named.items())


_HOW: Final = "write a table [outcomes] with NAME = 'cpu N REGISTER', 'word SYMBOL+OFFSET' or 'entry SYMBOL'"


def _watched(scenario: str, booted: BootedScenario, name: str, text: str) -> Watched:
    match, cpus = _FORM.fullmatch(text), booted.machine.cpus
    place = f"scenario {scenario}: outcomes.{name}: {text!r}"
    if match is None:
        raise ScenarioError(f"{place} is no value; {_HOW}")
    if match["register"] is not None:
        programs = booted.facts.programs
        spoiled = frozenset(Gpr) if programs is None else programs.spoiled
        registers = {one.name.lower(): int(one) for one in Gpr if one not in spoiled}
        if match["register"] not in registers or int(match["cpu"]) >= len(cpus):
            raise ScenarioError(f"{place}: give a CPU from 0 to {len(cpus) - 1}, and one of {', '.join(registers)}")
        return Watched(name, "cpu", int(match["cpu"]), registers[match["register"]])
    try:
        offset = int(match["offset"] or "0", 0)
    except ValueError:
        raise ScenarioError(f"{place}: {match['offset']!r} is no number") from None
    symbol = booted.symbols.address(match["symbol"])
    address = -1 if symbol is None else symbol + offset
    physical = cpus[0].mmu.resolve(address) if address in range(1 << 64) else None
    if physical is None or not booted.machine.memory.is_ram(physical):
        raise ScenarioError(f"{place}: the guest has no symbol {match['symbol']!r} that it maps")
    if match["what"] == "word":
        return Watched(name, "word", physical)
    if cpus[0].mmu.leaf_address(address) is None:
        raise ScenarioError(f"{place}: no 4 KiB entry maps it")
    return Watched(name, "entry", address)


def final_values(world: World, watched: Iterable[Watched]) -> list[Values]:
    """The final values in the state in which a world is: one for each way in which Accessed may have been set."""
    return list(product(*(_choices(world, one) for one in watched)))


def _choices(world: World, one: Watched) -> Values:
    machine = world.machine
    if one.what == "cpu":
        return (machine.cpus[one.where].registers.gpr[one.register],)
    if one.what == "word":
        return (machine.memory.read64(one.where),)
    leaf = machine.cpus[0].mmu.leaf_address(one.where)
    entry = 0 if leaf is None else machine.memory.read64(leaf)
    pending = world.lazy.manages(one.where) and world.lazy.is_pending(entry)
    return (entry, entry | A) if pending else (entry,)


# --- the search


class _Search:
    """One attempt with what is known to be visible, and to be local; states by number, as they were found."""

    def __init__(
        self,
        memo: Memo,
        bounds: Bounds,
        deadline: float | None,
        progress: Progress,
        watched: tuple[Watched, ...],
        known: Locality | None,
    ) -> None:
        self._memo = memo
        self._bounds = bounds
        self._deadline = deadline
        self._progress = progress
        self._watched = watched
        self._reduction = None if known is None else Reduction(known)
        self._relying = None if self._reduction is None else Relying(memo, self._reduction)
        self._numbers: dict[int, int] = {memo.root.key: 0}  # by key
        self._predecessors: list[list[int]] = [[]]
        self._ends: list[int] = []
        self._found: dict[Values, None] = {}
        self._moves = 0

    def run(self) -> Reached:
        """Search layer by layer."""
        layer, depth, cut = [self._memo.root], 0, ""
        while layer and not cut:
            following: list[Node] = []
            for node in layer:
                following += self._expanded(node)
                if self._deadline is not None and _CLOCK() > self._deadline:
                    cut = f"budget {self._bounds.budget:g} s"
                    break
            if self._relying is not None:
                following += self._relying.take_in(()).values()
            layer, depth = following, depth + 1
            cut = cut or self._cut(depth, bool(layer))
            self._progress(len(self._numbers), len(layer), depth)
        names = tuple(one.name for one in self._watched)
        stuck = 0 if cut else self._stuck()
        return Reached(names, tuple(sorted(self._found)), not cut, len(self._numbers), self._moves, stuck, cut)

    def _cut(self, depth: int, left: bool) -> str:
        if left and self._bounds.depth is not None and depth >= self._bounds.depth:
            return f"depth {self._bounds.depth}"
        return f"{self._bounds.states} states" if left and len(self._numbers) > self._bounds.states else ""

    def _expanded(self, node: Node) -> list[Node]:
        """Take a state's successors in: those that are new."""
        here, new = self._numbers[node.key], list[Node]()
        expansion = self._expand(node)
        if self._relying is not None:
            self._relying.add(here, node, expansion.relied)
        self._moves += sum(len(moves) for moves, _ in expansion.successors)
        if expansion.finished and not expansion.successors:
            self._end(here, node)
        for _, after in expansion.successors:
            number = self._numbers.get(after.key)
            if number is None:
                number = self._numbers[after.key] = len(self._predecessors)
                self._predecessors.append([])
                new.append(after)
            self._predecessors[number].append(here)
        return new

    def _expand(self, node: Node) -> Expansion:
        memo, reduction = self._memo, self._reduction
        expansion = expand(memo, node, reduction, whole=reduction is None)
        if expansion.left and all(successor.node.key in self._numbers for successor in expansion.successors):
            expansion = expand(memo, node, reduction)
        if expansion.finding is None:
            return expansion
        successors = [Successor((move,), memo.make(node, move).node) for move in memo.moves(node)]
        return Expansion(successors, None, memo.finished(node), 0, 0)

    def _end(self, number: int, node: Node) -> None:
        self._ends.append(number)
        self._memo.world.become(self._memo.cells.state(node))
        self._found.update(dict.fromkeys(final_values(self._memo.world, self._watched)))

    def _stuck(self) -> int:
        """From how many states no end can be reached."""
        reached, work = [False] * len(self._predecessors), list(self._ends)
        for end in work:
            reached[end] = True
        while work:
            for before in self._predecessors[work.pop()]:
                if not reached[before]:
                    reached[before] = True
                    work.append(before)
        return reached.count(False)


__all__ = ["Reached", "Values", "Watched", "final_values", "find_watched", "outcomes"]
