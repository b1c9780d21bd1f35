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
from typing import Final, NamedTuple

from vm.coherence import Finding
from vm.errors import ConfigError
from vm.explore.cells import Export, Node
from vm.explore.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from vm.explore.memo import Memo
from vm.explore.world import Grown, Move, World, boot_litmus
from vm.hw.gate import Visible
from vm.hw.modes import Modes
from vm.session import BootedScenario
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


BATCH = 500  # states a task of another process
KEY_BYTES: Final = 16
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

    def world(self, booted: BootedScenario | None = None) -> World:
        """A world of it, at the root; with the guest of an earlier world, which ends, or with a fresh one."""
        return World(self.scenario, self._policy, self.modes, Visible(self.visible), booted)

    def boot(self) -> BootedScenario:
        """A guest for worlds of it, one after the other."""
        return boot_litmus(self.scenario, self._policy, self.modes)

    @property
    def _policy(self) -> type[Policy]:
        return find_policy(self.policy) if isinstance(self.policy, str) else self.policy


class Successor(NamedTuple):
    """Where a move leads."""

    move: Move
    node: Node


class Expansion(NamedTuple):
    """All that comes of one state: successors up to the first finding, and whether it is an end."""

    successors: list[Successor]
    finding: tuple[Move, Finding] | None
    finished: bool
    exercised: int


def expand(memo: Memo, node: Node) -> Expansion:
    """Make every move out of a state.

    Raises:
        Grown: more is visible than the world knew.
    """
    found: list[Successor] = []
    exercised, finished = 0, memo.finished(node)
    for move in memo.moves(node):
        outcome = memo.make(node, move)
        exercised += outcome.exercised
        if outcome.finding is not None:
            return Expansion(found, (move, outcome.finding), finished, exercised)
        found.append(Successor(move, outcome.node))
    return Expansion(found, None, finished, exercised)


@lru_cache(maxsize=2)
def _worker(problem: Problem) -> Memo:
    """This process's memo of a problem."""
    return Memo(problem.world())


class _Batch(NamedTuple):
    """States to be expanded by another process: keys, and names of cells that differ from the root's."""

    problem: Problem
    nodes: list[tuple[int, tuple[bytes, ...]]]
    cells: dict[bytes, Export]


class _Answer(NamedTuple):
    """What a process answers.

    Attributes:
        expansions: with successors as moves, keys, and names of cells that differ from the state's.
        cells: those that the question did not have.
        touched: which CPU has touched which page there: two processes can each have seen one CPU only.
        grown: the visible pages, where more is visible than was known.
    """

    expansions: list[tuple[list[tuple[Move, int, tuple[bytes, ...]]], tuple[Move, Finding] | None, bool, int]]
    cells: dict[bytes, Export]
    touched: dict[int, int]
    grown: tuple[int, ...] = ()


def expand_all(packed: bytes) -> bytes:
    """Expand states in another process: a `_Batch` to an `_Answer`, both pickled.

    Pickled here and not by the executor, since dask looks into tuples and takes some for tasks.
    """
    return pickle.dumps(_expand_all(pickle.loads(packed)), pickle.HIGHEST_PROTOCOL)


def _expand_all(batch: _Batch) -> _Answer:
    expansions = []
    new: dict[bytes, None] = {}
    try:
        memo = _worker(batch.problem)
        memo.cells.learn(batch.cells)
        for key, names in batch.nodes:
            node = memo.cells.with_cells(key, memo.root, names)
            found, finding, finished, exercised = expand(memo, node)
            successors = [(move, after.key, memo.cells.difference(after, node)) for move, after in found]
            new.update((name, None) for _, _, changed in successors for name in changed if name not in batch.cells)
            expansions.append((successors, finding, finished, exercised))
    except Grown as grown:
        return _Answer([], {}, {}, grown.pages)
    return _Answer(expansions, memo.cells.export(new), dict(memo.world.visible.toucher))


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
    booted = problem.boot()
    while True:
        try:
            return _Search(problem, problem.world(booted), bounds, progress, executor, checkpoint).run(saved)
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
        world: World,
        bounds: Bounds,
        progress: Progress,
        executor: Executor | None,
        checkpoint: Path | None,
    ) -> None:
        self._problem = problem
        self._memo = Memo(world)
        self._bounds = bounds
        self._progress = progress
        self._executor = executor
        self._checkpoint = checkpoint
        self._numbers: dict[int, int] = {}  # by key
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
            following: dict[int, Node] = {}
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

    def _begin(self) -> list[tuple[int, Node]]:
        root = self._memo.root
        self._number(root.key, None, (-1, 0))
        return [(0, root)]

    def _number(self, key: int, parent: tuple[int, Move] | None, switches: tuple[int, int]) -> int:
        number = self._numbers[key] = len(self._parents)
        self._parents.append(parent)
        self._switches.append(switches)
        self._predecessors.append([])
        return number

    def _expand(self, layer: list[tuple[int, Node]]) -> Iterator[tuple[int, Expansion]]:
        """Expand a layer's states, in order."""
        if self._executor is None or len(layer) < 2 * BATCH:
            for number, node in layer:
                yield number, expand(self._memo, node)
            return
        batches = [layer[at : at + BATCH] for at in range(0, len(layer), BATCH)]
        futures = [self._executor.submit(expand_all, self._packed([node for _, node in one])) for one in batches]
        for batch, future in zip(batches, futures, strict=True):
            answer: _Answer = pickle.loads(future.result())
            self._take_over(answer)
            for (number, node), (successors, finding, finished, exercised) in zip(
                batch, answer.expansions, strict=True
            ):
                found = [
                    Successor(move, self._memo.cells.with_cells(key, node, names)) for move, key, names in successors
                ]
                yield number, Expansion(found, finding, finished, exercised)

    def _packed(self, nodes: list[Node]) -> bytes:
        """States for another process."""
        memo = self._memo
        plain = [(node.key, memo.cells.difference(node, memo.root)) for node in nodes]
        cells = memo.cells.export(dict.fromkeys(name for _, names in plain for name in names))
        return pickle.dumps(_Batch(self._problem, plain, cells), pickle.HIGHEST_PROTOCOL)

    def _take_over(self, answer: _Answer) -> None:
        """What another process knows is known here too."""
        if answer.grown:
            raise Grown(answer.grown)
        visible = self._memo.world.visible
        for page, cpu in answer.touched.items():
            visible.touched(cpu, page)
        if visible.grown:
            raise Grown(tuple(sorted(visible.pages)))
        self._memo.cells.learn(answer.cells)

    def _merge(self, here: int, found: Expansion, following: dict[int, Node]) -> tuple[Move, Finding] | None:
        """Take a state's successors in."""
        self._moves += len(found.successors) + (found.finding is not None)
        self._exercised += found.exercised
        if found.finished:
            self._ends.append(here)
        last, switches = self._switches[here]
        for move, node in found.successors:
            cost = switches + (last not in (-1, move.cpu))
            number = self._numbers.get(node.key)
            if number is None:
                number = self._number(node.key, (here, move), (move.cpu, cost))
                following[number] = node
            elif number in following and cost < self._switches[number][1]:
                self._parents[number], self._switches[number] = (here, move), (move.cpu, cost)
            self._predecessors[number].append(here)
        return found.finding

    def _found_by(self, path: tuple[Move, ...]) -> Finding:
        """The finding that a path ends with, with the history of that path alone."""
        world = self._problem.world(self._memo.world.booted)
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

    def _save(self, layer: list[tuple[int, Node]]) -> None:
        assert self._checkpoint is not None
        write_checkpoint(
            self._checkpoint,
            self._problem,
            Checkpoint(
                visible=list(self._problem.visible),
                keys=[key.to_bytes(KEY_BYTES, "little") for key in self._numbers],
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

    def _go_on(self, saved: Checkpoint) -> list[tuple[int, Node]]:
        """Become what was saved; the states to be expanded are made again by their moves."""
        self._numbers = {int.from_bytes(key, "little"): number for number, key in enumerate(saved.keys)}
        self._parents = [None if one is None else (one[0], Move(*one[1:])) for one in saved.parents]
        self._switches = [(cpu, count) for cpu, count in saved.switches]
        self._predecessors = [list(one) for one in saved.predecessors]
        self._ends, self._moves, self._depth = list(saved.ends), saved.moves, saved.depth
        self._exercised = saved.exercised
        layer = []
        for number in saved.layer:
            node = self._memo.root
            for move in self._path(number):
                node = self._memo.make(node, move).node
            if node.key.to_bytes(KEY_BYTES, "little") != saved.keys[number]:
                raise ConfigError(f"checkpoint {self._checkpoint} does not lead where it led; it is of another kstack")
            layer.append((number, node))
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
