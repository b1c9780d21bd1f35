"""Fewer moves with the same ends and findings: what commutes with all that others can do need not wait for them.

From each state only the moves of some CPUs are made, where nothing that the others can do without them conflicts with
these moves, or lets these CPUs do anything else (persistent sets; Godefroid, LNCS 1032, 1996, chapter 4). What a CPU can
do later is all that it was seen to do from where it stands; a CPU that waits does nothing until somebody writes what it
waits for. Where a CPU has one move only, and no other CPU may access what that accesses any more, it goes on at once.

What a CPU may access from where it stands is learned on the way, as the set of visible pages is: a state whose expansion
has relied on what turns out otherwise is expanded again. No move is put off for ever, since a state all of whose successors are old is expanded in full
(Bosnacki, Leue and Lafuente, SPIN 2006).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from kstack.explore.may_access import AccessBits, Edge, FutureAccesses, LearnedAccesses, Reliances
from kstack.explore.nodes import Node
from kstack.explore.states import Move
from kstack.explore.transitions import Effect, EnabledMoves, StateSpace, Transition
from kstack.sanitizer.findings import Finding

LONGEST: Final = 10_000  # moves that a CPU makes at once
WALKS: Final = 24  # random walks before a search, at the most
VAIN: Final = 4  # of them that bring nothing new, and it is enough
LONGEST_WALK: Final = 2000  # moves
STAYS: Final = (0.0, 0.5, 0.9, 0.97)  # chances that the CPU that moved last moves again, walk by walk


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
        relied: on which CPUs, by where they stand, not to access what, as bits.
    """

    successors: list[Successor]
    finding: tuple[tuple[Move, ...], Finding] | None
    finished: bool
    exercised: int
    left: int
    relied: tuple[tuple[int, int], ...] = ()


class PersistentSets:
    """Which moves are made, by what is known of what CPUs may access from where they stand.

    Args:
        known: the same; changed by `ReliantStates` alone.
    """

    def __init__(self, known: FutureAccesses) -> None:
        self.known = known
        self._edges: dict[Edge, int] = {}
        self._relied: dict[int, int] = {}  # by where a CPU stands: what it was taken not to access from there on
        self._bits: dict[Effect | EnabledMoves, AccessBits] = {}
        self._seen: set[tuple[Effect, int]] = (
            set()
        )  # learned already, by where its CPU stood; asked for membership only

    def take_learned(self) -> LearnedAccesses:
        """What has been learned since the last time."""
        learned, self._edges = LearnedAccesses(list(self.known.names), self._edges), {}
        return learned

    def take_relied(self) -> tuple[tuple[int, int], ...]:
        """What has been relied upon since the last time."""
        relied, self._relied = tuple(self._relied.items()), {}
        return relied

    def bits(self, seen: Effect | EnabledMoves) -> AccessBits:
        """What has been accessed."""
        found = self._bits.get(seen)
        if found is None:
            found = self._bits[seen] = self.known.bits(seen.accesses)
        return found

    def learn(
        self,
        enabled: list[EnabledMoves],
        made: list[tuple[Move, Transition]],
        stands: tuple[int, ...],
        space: StateSpace,
    ) -> None:
        """Learn what comes of a state.

        Args:
            enabled: what each CPU can do there.
            made: all moves out of it, with what they come to.
            stands: where each CPU stands.
            space: of the state's world.
        """
        for one in enabled:
            self._learn(stands[one.cpu], self.bits(one).accessed, stands[one.cpu])
        for move, transition in made:
            seen = transition.effect, stands[move.cpu]
            if seen in self._seen:
                continue
            if not transition.effect.moves_others:
                self._seen.add(seen)
            for cpu, there in enumerate(space.stands(transition.node)):
                if cpu == move.cpu:
                    self._learn(stands[cpu], self.bits(transition.effect).accessed, there)
                elif there != stands[cpu]:
                    self._learn(stands[cpu], 0, there)

    def _learn(self, here: int, accessed: int, there: int) -> None:
        """A CPU comes from one place to another, and accesses this on the way."""
        edge = here, there
        known = self.known.edges.get(edge)
        if known is None or accessed & ~known:
            self._edges[edge] = self._edges.get(edge, 0) | accessed

    def _rely(self, stand: int, conflicting: int) -> None:
        """Rely on it that a CPU that stands there does not access this from there on."""
        self._relied[stand] = self._relied.get(stand, 0) | conflicting

    def follow(self, space: StateSpace, cpu: int, node: Node) -> tuple[list[Move], Node, Finding | None, int]:
        """Make all that a CPU can do next as long as no other CPU can tell."""
        moves: list[Move] = []
        exercised, keys, future = 0, {node.key}, self.known.future
        while len(moves) < LONGEST and (enabled := space.only_move(node, cpu)) is not None:
            stands = space.stands(node)
            others = [stand for other, stand in enumerate(stands) if other != cpu]
            move = enabled.moves[0]
            transition = space.make(node, move)
            self.learn([enabled], [(move, transition)], stands, space)
            conflicting = self.bits(enabled).conflicting | self.bits(transition.effect).conflicting
            if any(future.get(stand, 0) & conflicting for stand in others):
                break
            for stand in others:
                self._rely(stand, conflicting)
            moves.append(move)
            exercised += transition.exercised
            node = transition.node
            if transition.finding is not None:
                return moves, node, transition.finding, exercised
            if node.key in keys:
                break  # it goes round in a circle: what others do is looked at from here
            keys.add(node.key)
        return moves, node, None, exercised

    def choose(
        self,
        enabled: list[EnabledMoves],
        made: list[tuple[Move, Transition]],
        idle: list[tuple[Move, Transition]],
        stands: tuple[int, ...],
    ) -> int:
        """The CPUs (as bits) whose moves are made: all, or as few moves as need not wait for the others.

        Args:
            enabled: what each CPU can do.
            made: all moves out of a state that change it, with what they come to.
            idle: those that do not: their CPUs wait for what they look at to change.
            stands: where each CPU stands.
        """
        cpus = range(len(enabled))
        everyone = (1 << len(enabled)) - 1
        waits = [self.bits(one).conflicting for one in enabled]
        for move, transition in idle:
            waits[move.cpu] |= self.bits(transition.effect).conflicting
        counts, meets = [0] * len(enabled), list(waits)
        for move, transition in made:
            counts[move.cpu] += 1
            meets[move.cpu] |= self.bits(transition.effect).conflicting
        future = [self.known.future.get(stand, 0) for stand in stands]
        conflicts, waits_for = (
            tuple(sum(1 << other for other in cpus if other != cpu and one[cpu] & future[other]) for cpu in cpus)
            for one in (meets, waits)
        )
        best, active = _fewest(tuple(counts), conflicts, waits_for)
        if best != everyone:
            relied = 0
            for cpu in cpus:
                if best >> cpu & 1:
                    relied |= meets[cpu]
                elif not active >> cpu & 1:  # what it can do next, no active one must meddle with
                    relied |= waits[cpu]
            for cpu in cpus:
                if active >> cpu & 1:
                    self._rely(stands[cpu], relied)
        return best


class ReliantStates:
    """The states whose expansions rely on what CPUs do not access: each is expanded again where that turns out otherwise.

    Args:
        space: of the states' world.
        sets: what they rely on.
    """

    def __init__(self, space: StateSpace, sets: PersistentSets) -> None:
        self._space = space
        self._sets = sets
        self._reliances = Reliances()
        self._nodes: dict[int, tuple[int, array[int]] | None] = {}  # by state: its key, and the rest in little room

    def add(self, state: int, node: Node | None, relied: Iterable[tuple[int, int]]) -> None:
        """A state's expansion has relied on something; None for the node of one that can be made again by its moves."""
        if relied:
            self._reliances.add(state, relied)
            self._nodes[state] = None if node is None else (node.key, self._space.table.packed(node))

    def take_in(
        self, learned: Iterable[LearnedAccesses], remade: Callable[[int], Node] | None = None
    ) -> dict[int, Node]:
        """Know what was learned; the states that are to be expanded again, in order.

        Args:
            learned: in other processes.
            remade: the node of a state that was added without one; None if there are none.
        """
        known, found = self._sets.known, dict[int, Node]()
        grown = [place for one in (self._sets.take_learned(), *learned) for place in known.add(one)]
        for state in self._reliances.broken(known, dict.fromkeys(grown)):
            if state in self._nodes:  # it has not been expanded again since
                kept = self._nodes.pop(state)
                if kept is None:
                    assert remade is not None
                    found[state] = remade(state)
                else:
                    found[state] = self._space.table.unpacked(*kept)
        return found

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Each state, with where a CPU stands, and what it was taken not to access from there on, as bits."""
        return iter(self._reliances)


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


def expand(space: StateSpace, node: Node, sets: PersistentSets | None = None, whole: bool = True) -> Expansion:
    """Make the moves out of a state.

    Args:
        space: of the state's world.
        node: the state.
        sets: makes at once, after each move, what no other CPU can tell; None makes every move by itself.
        whole: make all moves, and not only those of the CPUs that need not wait for others.

    Raises:
        Grown: more is visible than the world knew.
    """
    found: list[Successor] = []
    first: tuple[tuple[Move, ...], Finding] | None = None
    exercised, finished, left = 0, space.finished(node), 0
    enabled = space.enabled(node)
    made = [(move, space.make(node, move)) for one in enabled for move in one.moves]
    made += [(move, space.make(node, move)) for move in space.interrupts(node)]
    if sets is not None:
        stands = space.stands(node)
        sets.learn(enabled, made, stands, space)
        idle = [one for one in made if one[1].node.key == node.key and one[1].finding is None]
        if idle:
            exercised += sum(transition.exercised for _, transition in idle)
            made = [one for one in made if one[1].node.key != node.key or one[1].finding is not None]
        if not whole and all(transition.finding is None for _, transition in made):
            chosen = sets.choose(enabled, made, idle, stands)
            left = len(made)
            made = [(move, transition) for move, transition in made if chosen >> move.cpu & 1]
            left -= len(made)
    for move, transition in made:
        moves: tuple[Move, ...] = (move,)
        after, finding = transition.node, transition.finding
        exercised += transition.exercised
        if sets is not None and finding is None:
            more, after, finding, times = sets.follow(space, move.cpu, after)
            moves, exercised = (move, *more), exercised + times
        if finding is not None:
            first = moves, finding
            break
        found.append(Successor(moves, after))
    relied = () if sets is None else sets.take_relied()
    return Expansion(found, first, finished, exercised, left, relied)


def wander(space: StateSpace, sets: PersistentSets) -> None:
    """Learn what CPUs may access on random walks by seed, until some of them have nothing new to tell.

    Raises:
        Grown: more is visible than the world knew.
    """
    drawn, vain = random.Random(0), 0
    for walk in range(WALKS):
        node, last, stays = space.root, -1, STAYS[walk % len(STAYS)]
        for _ in range(LONGEST_WALK):
            enabled = space.enabled(node)
            made = [(move, space.make(node, move)) for one in enabled for move in one.moves]
            made += [(move, space.make(node, move)) for move in space.interrupts(node)]
            sets.learn(enabled, made, space.stands(node), space)
            on = [
                transition for _, transition in made if transition.finding is None and transition.node.key != node.key
            ]
            if not on:
                break
            own = [transition for transition in on if transition.effect.cpu == last]
            transition = drawn.choice(own if own and drawn.random() < stays else on)
            node, last = transition.node, transition.effect.cpu
        vain = 0 if sets.known.add(sets.take_learned()) else vain + 1
        if vain >= VAIN:
            break
