"""Breadth first over all states: the shortest way to a finding, or the proof that there is none.

States are merged by their key, so that spinning, and what commutes, costs nothing. The search ends with
the first finding (no shorter way leads to one), or when every state within the bounds has been
expanded; then states from which no end can be reached are looked for as well: deadlocks and livelocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vm.coherence import Finding
from vm.explore.world import Grown, Move, State, World
from vm.hw.gate import Visible
from vm.hw.modes import Modes
from vm.stacks import Policy

_CLOCK = time.monotonic  # for the budget alone, which may cut a search and never decides what it finds


@dataclass(frozen=True)
class Bounds:
    """Where a search stops without an answer.

    Attributes:
        depth: visible operations from the beginning; None for no bound.
        states: how many are kept.
        budget: seconds; None for no bound.
    """

    depth: int | None = None
    states: int = 2_000_000
    budget: float | None = None


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
        stuck: states from which no end can be reached.
        cut: which bound cut the search, or empty.
        depth: visible operations on the longest shortest path.
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
    visible: Visible = field(default_factory=Visible, compare=False)


Progress = Callable[[int, int, int], None]  # states, frontier, depth


def search(
    scenario: str,
    policy: type[Policy],
    modes: Modes,
    bounds: Bounds = Bounds(),
    progress: Progress = lambda *_: None,
) -> Outcome:
    """Search all interleavings of a litmus scenario under a policy.

    Args:
        scenario: its id.
        policy: the policy's class.
        modes: architecture modes.
        bounds: where to stop.
        progress: told after each layer.

    Raises:
        ScenarioError: the scenario cannot be explored.
        PolicyError: the policy did what no policy may.
    """
    visible = Visible()
    while True:
        try:
            return _Search(World(scenario, policy, modes, visible), bounds, progress).run()
        except Grown:
            continue


class _Search:
    """One attempt with what is known to be visible.

    `parents` leads from each state to the one it was reached from first, with the fewest switches of
    CPU among the shortest ways; `successors` is for the search for states without an end.
    """

    def __init__(self, world: World, bounds: Bounds, progress: Progress) -> None:
        self._world = world
        self._bounds = bounds
        self._progress = progress
        self._parents: dict[bytes, tuple[bytes, Move] | None] = {}
        self._switches: dict[bytes, tuple[int, int]] = {}  # CPU that moved last, switches so far
        self._predecessors: dict[bytes, list[bytes]] = {}
        self._ends: list[bytes] = []
        self._moves = 0

    def run(self) -> Outcome:
        """Search layer by layer."""
        world = self._world
        root = world.state()
        key = world.key(root)
        self._parents[key], self._switches[key] = None, (-1, 0)
        layer = [(key, root)]
        depth, cut = 0, ""
        started = _CLOCK()
        while layer and not cut:
            if self._bounds.depth is not None and depth >= self._bounds.depth:
                cut = f"depth {self._bounds.depth}"
                break
            following: dict[bytes, State] = {}
            for here, state in layer:
                found = self._expand(here, state, following)
                if found is not None:
                    return self._outcome("unsafe", depth + 1, finding=found[1], path=(*self._path(here), found[0]))
                if self._bounds.budget is not None and _CLOCK() - started > self._bounds.budget:
                    cut = f"budget {self._bounds.budget:g} s"
                    break
            if len(self._parents) > self._bounds.states:
                cut = f"{self._bounds.states} states"
            layer = list(following.items())
            depth += 1
            self._progress(len(self._parents), len(layer), depth)
        if cut:
            return self._outcome("undecided", depth, cut=cut)
        stuck = self._stuck()
        if stuck:
            return self._outcome("unsafe", depth, path=self._path(stuck[0]), stuck=len(stuck))
        return self._outcome("safe", depth)

    def _expand(self, here: bytes, state: State, following: dict[bytes, State]) -> tuple[Move, Finding] | None:
        """Make every move out of a state; the first finding, if one brings any."""
        world = self._world
        world.become(state)
        moves = world.moves()
        if world.finished:
            self._ends.append(here)
        for index, move in enumerate(moves):
            if index:
                world.become(state)
            self._moves += 1
            finding = world.make(move)
            if world.visible.grown:
                raise Grown
            if finding is not None:
                return move, finding
            new = world.state()
            key = world.key(new)
            self._predecessors.setdefault(key, []).append(here)
            last, switches = self._switches[here]
            cost = switches + (last not in (-1, move.cpu))
            if key not in self._parents:
                self._parents[key], self._switches[key] = (here, move), (move.cpu, cost)
                following[key] = new
            elif key in following and cost < self._switches[key][1]:
                self._parents[key], self._switches[key] = (here, move), (move.cpu, cost)
        return None

    def _path(self, key: bytes) -> tuple[Move, ...]:
        """The moves from the root to a state."""
        moves: list[Move] = []
        while (parent := self._parents[key]) is not None:
            key, move = parent
            moves.append(move)
        return tuple(reversed(moves))

    def _stuck(self) -> list[bytes]:
        """States from which no end can be reached, in the order in which they were found."""
        reached = dict.fromkeys(self._ends)
        work = list(self._ends)
        while work:
            for before in self._predecessors.get(work.pop(), ()):
                if before not in reached:
                    reached[before] = None
                    work.append(before)
        return [key for key in self._parents if key not in reached]

    def _outcome(self, verdict: str, depth: int, **more: object) -> Outcome:
        world = self._world
        return Outcome(
            verdict=verdict,
            complete=not more.get("cut") and verdict == "safe",
            states=len(self._parents),
            moves=self._moves,
            exercised=world.exercised,
            depth=depth,
            visible=world.visible,
            **more,  # type: ignore[arg-type] # fields of Outcome, by name
        )
