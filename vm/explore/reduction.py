"""Fewer moves with the same ends and findings: what commutes with all that others can do need not wait for them.

From each state only the moves of some CPUs are made, where nothing that the others can do without them conflicts with
these moves, or lets these CPUs do anything else (persistent sets; Godefroid, LNCS 1032, 1996, chapter 4). What a CPU can
do later is taken to be all that it ever does; a CPU that waits does nothing until somebody writes what it waits for.
Where a CPU has one way only, and no other CPU ever touches what that touches, it goes on at once.

What CPUs ever touch is learned on the way, as the set of visible pages is: a search that has relied on what turns out
otherwise begins again. No move is put off for ever, since a state all of whose successors are old is expanded in full
(Bosnacki, Leue and Lafuente, SPIN 2006).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from vm.coherence import Finding
from vm.explore.cells import Node
from vm.explore.locality import Locality
from vm.explore.memo import Deed, Memo, Outcome, Ways
from vm.explore.world import Move

LONGEST: Final = 10_000  # moves that a CPU makes at once


class Shared(Exception):
    """A CPU touches what it was relied upon not to touch: begin again with what is known now."""


class Successor(NamedTuple):
    """Where a move leads, with those that its CPU makes at once after it."""

    moves: tuple[Move, ...]
    node: Node


class Expansion(NamedTuple):
    """What comes of one state.

    Attributes:
        successors: up to the first finding.
        finding: the first, with the moves that lead to it.
        finished: whether the state is an end.
        exercised: accesses that could have gone two ways.
        left: how many moves were not made, since they can be made later.
    """

    successors: list[Successor]
    finding: tuple[tuple[Move, ...], Finding] | None
    finished: bool
    exercised: int
    left: int


class Reduction:
    """Which moves are made, by what is known of who touches what.

    Args:
        known: the same; changed by `take_in` alone.

    Attributes:
        learned: what is to be added to it.
    """

    def __init__(self, known: Locality) -> None:
        self.known = known
        self.learned = Locality()
        self._touched: set[Deed | Ways] = set()  # asked for membership only
        self._relied: dict[Deed | Ways, int] = {}
        self._conflicts: dict[Deed | Ways, int] = {}
        self._local: set[Deed | Ways] = set()  # relied upon to commute with all that others do

    def touch(self, seen: Deed | Ways) -> None:
        """Learn what a CPU has touched."""
        if seen not in self._touched:
            self._touched.add(seen)
            self.learned.touch(seen.cpu, seen.touches)

    def take_in(self) -> None:
        """What has been learned is known from now on.

        Raises:
            Shared: it is not as it was relied upon to be.
        """
        if self.known.add(self.learned):
            self._conflicts.clear()
            self._local.clear()
        self.learned = Locality()
        if self.known.broken:
            raise Shared

    def follow(self, memo: Memo, cpu: int, node: Node) -> tuple[list[Move], Node, Finding | None, int]:
        """Make all that a CPU can do next as long as no other CPU can tell."""
        moves: list[Move] = []
        exercised, keys, others = 0, {node.key}, (1 << memo.cells.cpus) - 1 & ~(1 << cpu)
        while len(moves) < LONGEST and (ways := memo.only_way(node, cpu)) is not None:
            if ways not in self._local and self.conflicts(ways):
                break
            outcome = memo.make(node, ways.moves[0])
            deed = outcome.deed
            if deed not in self._local and self.conflicts(deed):
                break
            for one in (deed, ways):
                if one not in self._local:
                    self._local.add(one)
                    self.touch(one)
                    self._rely(one, others)
            moves.append(ways.moves[0])
            exercised += deed.exercised
            node = outcome.node
            if deed.finding is not None:
                return moves, node, deed.finding, exercised
            if node.key in keys:
                break  # it goes round in a circle: what others do is looked at from here
            keys.add(node.key)
        return moves, node, None, exercised

    def choose(self, ways: list[Ways], made: list[tuple[Move, Outcome]]) -> int:
        """The CPUs (as bits) whose moves are made: all, or as few moves as need not wait for the others.

        Args:
            ways: what each CPU can do.
            made: all moves out of a state, with what they come to.
        """
        everyone = (1 << len(ways)) - 1
        counts, conflicts = [0] * len(ways), [self.conflicts(one) for one in ways]
        waits_for = tuple(conflicts)
        for move, outcome in made:
            counts[move.cpu] += 1
            conflicts[move.cpu] |= self.conflicts(outcome.deed)
        best, best_active = _fewest(tuple(counts), tuple(conflicts), waits_for)
        if best != everyone:
            for one in ways:
                if not best_active >> one.cpu & 1:  # what these can do next, no active one must meddle with
                    self._rely(one, best_active)
            for move, outcome in made:
                if best >> move.cpu & 1:
                    self._rely(outcome.deed, best_active)
        return best

    def conflicts(self, seen: Deed | Ways) -> int:
        """The other CPUs, as bits, that are known to touch any of the same in a way that does not commute."""
        found = self._conflicts.get(seen)
        if found is None:
            found = self._conflicts[seen] = self.known.conflicts(seen.cpu, seen.touches)
        return found

    def _rely(self, seen: Deed | Ways, others: int) -> None:
        """Rely on other CPUs' not conflicting."""
        before = self._relied.get(seen, 0)
        if others & ~before:
            self._relied[seen] = before | others
            self.learned.rely(seen.cpu, seen.touches, others)


@lru_cache(maxsize=10_000)
def _fewest(counts: tuple[int, ...], conflicts: tuple[int, ...], waits_for: tuple[int, ...]) -> tuple[int, int]:
    """The closed set of CPUs with the fewest moves, the first of them; and those of the others that may move first.

    Args:
        counts: of each CPU: moves it can make.
        conflicts: of each CPU: the others, as bits, whose doings its moves depend on.
        waits_for: of each CPU: the others, as bits, that can change which moves it can make.
    """
    best, best_active, fewest = (1 << len(counts)) - 1, 0, sum(counts)
    for cpu, count in enumerate(counts):
        if count:
            chosen, active = _closed(1 << cpu, counts, conflicts, waits_for)
            size = sum(count for cpu, count in enumerate(counts) if chosen >> cpu & 1)
            if size < fewest:
                best, best_active, fewest = chosen, active, size
    return best, best_active


def _closed(
    chosen: int, counts: tuple[int, ...], conflicts: tuple[int, ...], waits_for: tuple[int, ...]
) -> tuple[int, int]:
    """CPUs with all whose doings they depend on; and those of the others that may move before one of them does."""
    cpus = range(len(counts))
    while True:
        active = sum(1 << cpu for cpu in cpus if counts[cpu] and not chosen >> cpu & 1)
        while woken := sum(1 << cpu for cpu in cpus if not (chosen | active) >> cpu & 1 and waits_for[cpu] & active):
            active |= woken
        more = 0
        for cpu in cpus:
            if chosen >> cpu & 1:
                more |= conflicts[cpu] & active
        if not more:
            return chosen, active
        chosen |= more


def expand(memo: Memo, node: Node, reduction: Reduction | None = None, whole: bool = True) -> Expansion:
    """Make the moves out of a state.

    Args:
        memo: of the state's world.
        node: the state.
        reduction: makes at once, after each move, what no other CPU can tell; None makes every move by itself.
        whole: make all moves, and not only those of the CPUs that need not wait for others.

    Raises:
        Grown: more is visible than the world knew.
    """
    found: list[Successor] = []
    exercised, finished, left = 0, memo.finished(node), 0
    ways = memo.ways(node)
    made = [(move, memo.make(node, move)) for one in ways for move in one.moves]
    made += [(move, memo.make(node, move)) for move in memo.interrupts(node)]
    if reduction is not None:
        for one in ways:
            reduction.touch(one)
        for _, outcome in made:
            reduction.touch(outcome.deed)
        if not whole and all(outcome.finding is None for _, outcome in made):
            chosen = reduction.choose(ways, made)
            left = len(made)
            made = [(move, outcome) for move, outcome in made if chosen >> move.cpu & 1]
            left -= len(made)
    for move, outcome in made:
        moves: tuple[Move, ...] = (move,)
        after, finding = outcome.node, outcome.finding
        exercised += outcome.exercised
        if reduction is not None and finding is None:
            more, after, finding, times = reduction.follow(memo, move.cpu, after)
            moves, exercised = (move, *more), exercised + times
        if finding is not None:
            return Expansion(found, (moves, finding), finished, exercised, left)
        found.append(Successor(moves, after))
    return Expansion(found, None, finished, exercised, left)
