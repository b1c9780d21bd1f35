"""Breadth first over all states: the shortest way to a finding, or the proof that there is none.

States are merged by their key, so that spinning, and what commutes, costs nothing. The search ends with
the first finding (no shorter way leads to one), or when every state within the bounds has been
expanded; then states from which no end can be reached are looked for as well: deadlocks and livelocks.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vm.coherence import Finding
from vm.errors import ConfigError
from vm.explore.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from vm.explore.world import Grown, Move, State, World
from vm.hw.gate import Visible
from vm.hw.modes import Modes
from vm.stacks import Policy
from vm.stacks.registry import find_policy

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
        executions: how many were made, by an engine that makes them one by one.
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


Progress = Callable[[int, int, int], None]  # states, frontier, depth


BATCH = 50  # states a task of another process, at least
SAVE_SECONDS = 2.0  # between two checkpoints, at least


@dataclass(frozen=True)
class Problem:
    """What is searched, by names: all that another process needs.

    Attributes:
        scenario: its id.
        policy: id or path of a Python file; or the class, for a search in this process alone.
        modes: architecture modes.
        visible: pages known to be visible, from earlier attempts.
    """

    scenario: str
    policy: str | type[Policy]
    modes: Modes
    visible: tuple[int, ...] = ()

    def world(self) -> World:
        """A world of it, at the root."""
        policy = find_policy(self.policy) if isinstance(self.policy, str) else self.policy
        return World(self.scenario, policy, self.modes, Visible(self.visible))


class Successor(NamedTuple):
    """Where a move leads; `state` is None where this process has sent the same before."""

    move: Move
    key: bytes
    state: State | None


class Expansion(NamedTuple):
    """All that comes of one state: successors up to the first finding, and whether it is an end."""

    successors: list[Successor]
    finding: tuple[Move, Finding] | None
    finished: bool
    exercised: int


def expand(world: World, state: State) -> Expansion:
    """Make every move out of a state.

    Raises:
        Grown: more is visible than the world knew.
    """
    world.become(state)
    before, moves, finished = world.exercised, world.moves(), world.finished
    found: list[Successor] = []
    for index, move in enumerate(moves):
        if index:
            world.become(state)
        finding = world.make(move)
        if world.visible.grown:
            raise Grown(tuple(sorted(world.visible.pages)))
        if finding is not None:
            return Expansion(found, (move, finding), finished, world.exercised - before)
        new = world.state()
        found.append(Successor(move, world.key(new), new))
    return Expansion(found, None, finished, world.exercised - before)


@lru_cache(maxsize=2)
def _worker(problem: Problem) -> tuple[World, set[bytes]]:
    """This process's world of a problem, and the keys of the states it has sent (asked for membership only)."""
    return problem.world(), set()


def expand_all(packed: bytes) -> bytes:
    """Expand states in another process: (problem, states) to a `Batch`, both pickled.

    Pickled here and not by the executor, since dask looks into tuples and takes some for tasks.
    """
    problem, states = pickle.loads(packed)
    return pickle.dumps(_expand_all(problem, states), pickle.HIGHEST_PROTOCOL)


class Batch(NamedTuple):
    """What a process answers: expansions, or, where more is visible than was known, the visible pages.

    `touched` says which CPU has touched which page there: two processes can each have seen one CPU only.
    """

    expansions: list[Expansion]
    touched: dict[int, int]
    grown: tuple[int, ...] = ()


def _expand_all(problem: Problem, states: list[State]) -> Batch:
    try:
        world, sent = _worker(problem)
        found = []
        for state in states:
            one = expand(world, state)
            slim = [new if new.key not in sent else new._replace(state=None) for new in one.successors]
            sent.update(new.key for new in slim)
            found.append(one._replace(successors=slim))
        return Batch(found, dict(world.visible.toucher))
    except Grown as grown:
        return Batch([], {}, grown.pages)


def search(
    problem: Problem,
    bounds: Bounds = Bounds(),
    progress: Progress = lambda *_: None,
    executor: Executor | None = None,
    checkpoint: Path | None = None,
) -> Outcome:
    """Search all interleavings of a litmus scenario under a policy.

    Args:
        problem: the scenario, the policy, the modes.
        bounds: where to stop.
        progress: told after each layer.
        executor: expands states in other processes; the outcome does not depend on it.
        checkpoint: saved there from time to time, and gone on from if it exists.

    Raises:
        ScenarioError: the scenario cannot be explored.
        PolicyError: the policy did what no policy may.
        ConfigError: the checkpoint is of another search, or damaged.
    """
    saved = read_checkpoint(checkpoint, problem) if checkpoint is not None and checkpoint.exists() else None
    if saved is not None:
        problem = Problem(problem.scenario, problem.policy, problem.modes, tuple(saved.visible))
    while True:
        try:
            return _Search(problem, bounds, progress, executor, checkpoint).run(saved)
        except Grown as grown:
            problem = Problem(problem.scenario, problem.policy, problem.modes, grown.pages)
            saved = None


class _Search:
    """One attempt with what is known to be visible. States are numbered in the order in which they were found.

    `parents` has for each the one it was reached from first, with the fewest switches of CPU among the
    shortest ways; `predecessors` is for the search for states without an end.
    """

    def __init__(
        self,
        problem: Problem,
        bounds: Bounds,
        progress: Progress,
        executor: Executor | None,
        checkpoint: Path | None,
    ) -> None:
        self._problem = problem
        self._world = problem.world()
        self._bounds = bounds
        self._progress = progress
        self._executor = executor
        self._checkpoint = checkpoint
        self._numbers: dict[bytes, int] = {}
        self._parents: list[tuple[int, Move] | None] = []
        self._switches: list[tuple[int, int]] = []  # CPU that moved last, switches so far
        self._predecessors: list[list[int]] = []
        self._ends: list[int] = []
        self._moves = self._exercised = self._depth = 0

    def run(self, saved: Checkpoint | None) -> Outcome:
        """Search layer by layer."""
        layer = self._begin() if saved is None else self._go_on(saved)
        cut = ""
        started = last_saved = _CLOCK()
        while layer and not cut:
            if self._bounds.depth is not None and self._depth >= self._bounds.depth:
                cut = f"depth {self._bounds.depth}"
                break
            following: dict[int, State] = {}
            for number, expansion in self._expand(layer):
                finding = self._merge(number, expansion, following)
                if finding is not None:
                    path = (*self._path(number), finding[0])
                    return self._outcome("unsafe", finding=self._found_by(path), path=path)
                if self._bounds.budget is not None and _CLOCK() - started > self._bounds.budget:
                    cut = f"budget {self._bounds.budget:g} s"
                    break
            if cut:
                break
            layer = sorted(following.items())
            self._depth += 1
            if len(self._parents) > self._bounds.states:
                cut = f"{self._bounds.states} states"
            self._progress(len(self._parents), len(layer), self._depth)
            if self._checkpoint is not None and (cut or _CLOCK() - last_saved > SAVE_SECONDS):
                self._save(layer)
                last_saved = _CLOCK()
        if cut:
            return self._outcome("undecided", cut=cut)
        stuck = self._stuck()
        if stuck:
            return self._outcome("unsafe", path=self._path(stuck[0]), stuck=len(stuck))
        return self._outcome("safe")

    def _begin(self) -> list[tuple[int, State]]:
        root = self._world.state()
        self._number(self._world.key(root), None, (-1, 0))
        return [(0, root)]

    def _number(self, key: bytes, parent: tuple[int, Move] | None, switches: tuple[int, int]) -> int:
        number = self._numbers[key] = len(self._parents)
        self._parents.append(parent)
        self._switches.append(switches)
        self._predecessors.append([])
        return number

    def _expand(self, layer: list[tuple[int, State]]) -> Iterator[tuple[int, Expansion]]:
        """Expand a layer's states, in order."""
        if self._executor is None or len(layer) < 2 * BATCH:
            for number, state in layer:
                yield number, expand(self._world, state)
            return
        batches = [layer[at : at + BATCH] for at in range(0, len(layer), BATCH)]
        packed = (
            pickle.dumps((self._problem, [state for _, state in one]), pickle.HIGHEST_PROTOCOL) for one in batches
        )
        futures = [self._executor.submit(expand_all, one) for one in packed]
        for batch, future in zip(batches, futures, strict=True):
            found: Batch = pickle.loads(future.result())
            if found.grown:
                raise Grown(found.grown)
            visible = self._world.visible
            for page, cpu in found.touched.items():
                visible.touched(cpu, page)
            if visible.grown:
                raise Grown(tuple(sorted(visible.pages)))
            yield from zip((number for number, _ in batch), found.expansions, strict=True)

    def _merge(self, here: int, found: Expansion, following: dict[int, State]) -> tuple[Move, Finding] | None:
        """Take a state's successors in."""
        self._moves += len(found.successors) + (found.finding is not None)
        self._exercised += found.exercised
        if found.finished:
            self._ends.append(here)
        last, switches = self._switches[here]
        for move, key, state in found.successors:
            cost = switches + (last not in (-1, move.cpu))
            number = self._numbers.get(key)
            if number is None:
                number = self._number(key, (here, move), (move.cpu, cost))
                following[number] = self._state_of(number) if state is None else state
            elif number in following and cost < self._switches[number][1]:
                self._parents[number], self._switches[number] = (here, move), (move.cpu, cost)
            self._predecessors[number].append(here)
        return found.finding

    def _state_of(self, number: int) -> State:
        """Make a state again by the moves that lead to it."""
        world = self._problem.world()
        for move in self._path(number):
            world.make(move)
        return world.state()

    def _found_by(self, path: tuple[Move, ...]) -> Finding:
        """The finding that a path ends with, with the history of that path alone."""
        world = self._problem.world()
        findings = [world.make(move) for move in path]
        assert findings[-1] is not None
        return findings[-1]

    def _path(self, number: int) -> tuple[Move, ...]:
        """The moves from the root to a state."""
        moves: list[Move] = []
        while (parent := self._parents[number]) is not None:
            number, move = parent
            moves.append(move)
        return tuple(reversed(moves))

    def _stuck(self) -> list[int]:
        """States from which no end can be reached, in the order in which they were found."""
        reached = [False] * len(self._parents)
        work = list(self._ends)
        for end in work:
            reached[end] = True
        while work:
            for before in self._predecessors[work.pop()]:
                if not reached[before]:
                    reached[before] = True
                    work.append(before)
        return [number for number, ends in enumerate(reached) if not ends]

    # --- checkpoints

    def _save(self, layer: list[tuple[int, State]]) -> None:
        assert self._checkpoint is not None
        write_checkpoint(
            self._checkpoint,
            self._problem,
            Checkpoint(
                visible=list(self._problem.visible),
                keys=list(self._numbers),
                parents=[None if one is None else (one[0], *one[1]) for one in self._parents],
                switches=self._switches,
                predecessors=self._predecessors,
                ends=self._ends,
                layer=[number for number, _ in layer],
                moves=self._moves,
                exercised=self._exercised,
                depth=self._depth,
            ),
        )

    def _go_on(self, saved: Checkpoint) -> list[tuple[int, State]]:
        """Become what was saved; the states to be expanded are made again by their moves."""
        self._numbers = {key: number for number, key in enumerate(saved.keys)}
        self._parents = [None if one is None else (one[0], Move(*one[1:])) for one in saved.parents]
        self._switches = [(cpu, count) for cpu, count in saved.switches]
        self._predecessors = [list(one) for one in saved.predecessors]
        self._ends, self._moves, self._depth = list(saved.ends), saved.moves, saved.depth
        self._exercised = saved.exercised
        world, root = self._world, self._world.state()
        layer = []
        for number in saved.layer:
            world.become(root)
            for move in self._path(number):
                world.make(move)
            state = world.state()
            if world.key(state) != saved.keys[number]:
                raise ConfigError(f"checkpoint {self._checkpoint} does not lead where it led; it is of another kstack")
            layer.append((number, state))
        return layer

    def _outcome(self, verdict: str, **more: object) -> Outcome:
        return Outcome(
            verdict=verdict,
            complete=verdict == "safe",
            states=len(self._parents),
            moves=self._moves,
            exercised=self._exercised,
            depth=self._depth + (verdict == "unsafe"),
            visible=Visible(self._problem.visible),
            **more,  # type: ignore[arg-type] # fields of Outcome, by name
        )
