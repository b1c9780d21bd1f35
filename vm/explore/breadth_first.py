"""Breadth first over all states: the shortest way to a finding, or the proof that there is none.

States are merged by their key, so that spinning, and what commutes, costs nothing. The search ends with
the first finding, or when every state within the bounds has been expanded; then states from which no end can be
reached are looked for as well: deadlocks and livelocks.

At first what commutes with all that others can do does not wait for them (vm/explore/persistent_sets.py). Where that finds
something, a second search makes every move from every state, so that no shorter way leads to a finding.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from kstack.base.errors import ConfigError
from kstack.explore.batches import Answer, Batch, expand_all
from kstack.explore.checkpoint import KEY_BYTES, Checkpoint, identity, read_checkpoint, write_checkpoint
from kstack.explore.components import Node
from kstack.explore.may_access import Locality, News
from kstack.explore.model.gate import Masks, Visible
from kstack.explore.persistent_sets import Expansion, Reduction, Relying, Successor, expand, wander
from kstack.explore.problem import Bounds, Outcome, Problem, Progress, at_once
from kstack.explore.transitions import Memo
from kstack.explore.world import FoundBefore, Grown, Move, NotReady
from kstack.run.booted import BootedScenario
from kstack.sanitizer.findings import Finding

_CLOCK = time.monotonic  # for the budget alone, which may cut a search and never decides what it finds


BATCH = 500  # states a task of another process
SAVE_SECONDS = 2.0  # between two checkpoints, at least
_SEARCHES = count()


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
        problem = replace(problem, visible=tuple(saved.visible))
        if (saved.names is not None) != bounds.reduces:
            raise ConfigError(f"--checkpoint {checkpoint} is of another search: one of them with every move by itself")
    deadline = None if bounds.budget is None else _CLOCK() + bounds.budget
    booted, memo, first = problem.boot(), None, None
    known = Locality() if bounds.reduces else None
    while True:
        file = checkpoint if first is None else None
        try:
            if memo is None:
                memo = Memo(problem.world(booted))
                if known is not None:
                    wander(memo, Reduction(known))
            outcome = _Search(problem, memo, bounds, deadline, progress, executor, file, known).run(saved)
        except Grown as grown:
            problem, memo, saved = replace(problem, visible=grown.frames), None, None
            known = None if known is None else Locality()
        except (FoundBefore, NotReady) as why:
            return at_once(problem.scenario, problem.chosen, problem.modes, why)
        else:
            assert first is None or first.finding is None or outcome.verdict != "safe", "its moves were made"
            if outcome.verdict != "unsafe" or known is None:
                return _with_history(problem, booted, first if first and outcome.verdict == "undecided" else outcome)
            first, known, saved = outcome, None, None
            bounds = replace(bounds, states=min(bounds.states, bounds.shorter))
            if not bounds.states:
                return _with_history(problem, booted, outcome)


def _with_history(problem: Problem, booted: BootedScenario, outcome: Outcome) -> Outcome:
    """An outcome whose finding has the history of its path alone."""
    if outcome.finding is None:
        return outcome
    world = replace(problem, visible=tuple(sorted(outcome.visible.frames))).world(booted)
    findings = [world.make(move) for move in outcome.path]
    return replace(outcome, finding=findings[-1])


class _Search:
    """One attempt with what is known to be visible, and to be local; states by number, as they were found.

    `parents` has for each the one it was reached from first, with the fewest switches of CPU among the
    shortest ways; `predecessors` is for the search for states without an end. `known` is who touches what, as
    learned by earlier attempts; None makes every move by itself.
    """

    def __init__(
        self,
        problem: Problem,
        memo: Memo,
        bounds: Bounds,
        deadline: float | None,
        progress: Progress,
        executor: Executor | None,
        checkpoint: Path | None,
        known: Locality | None,
    ) -> None:
        self._problem = problem
        self._memo = memo
        self._bounds = bounds
        self._deadline = deadline
        self._progress = progress
        self._executor = executor
        self._name = f"{socket.gethostname()} {os.getpid()} {next(_SEARCHES)}"  # no outcome depends on it
        shared = executor is not None and isinstance(problem.policy, str)
        self._expected = tuple(identity(problem).items()) if shared else ()
        self._checkpoint = checkpoint
        self._reduction = None if known is None else Reduction(known)
        self._relying = None if self._reduction is None else Relying(memo, self._reduction)
        self._numbers: dict[int, int] = {}  # by key
        self._parents: list[tuple[int, tuple[Move, ...]] | None] = []
        self._switches: list[tuple[int, int]] = []  # CPU that moved last, switches so far
        self._predecessors: list[list[int]] = []
        self._ends: list[int] = []
        self._whole: set[int] = set()  # of the layer, those to be expanded in full; asked for membership only
        self._again: dict[int, Node] = {}  # to be expanded in full next
        self._keys: list[int] = []
        self._news: list[News] = []  # from other processes
        self._moves = self._exercised = self._depth = 0

    def run(self, saved: Checkpoint | None) -> Outcome:
        """Search layer by layer."""
        layer = self._begin() if saved is None else self._go_on(saved)
        cut = ""
        last_saved = _CLOCK()
        while layer and not cut:
            if self._bounds.depth is not None and self._depth >= self._bounds.depth:
                cut = f"depth {self._bounds.depth}"
                break
            following: dict[int, Node] = {}
            nodes = dict(layer)
            for number, expansion in self._expand(layer):
                finding = self._merge(number, expansion, following)
                if self._relying is not None:
                    self._relying.add(number, nodes[number], expansion.relied)
                if expansion.left and not any(
                    self._numbers[after.key] in following for _, after in expansion.successors
                ):
                    self._again[number] = nodes[number]
                if finding is not None:
                    moves, found = finding
                    return self._outcome("unsafe", finding=found, path=(*self._path(number), *moves))
                if self._deadline is not None and _CLOCK() > self._deadline:
                    cut = f"budget {self._bounds.budget:g} s"
                    break
            if cut:
                break
            if self._relying is not None:
                following |= self._relying.take_in(self._news, self._made_again)
                self._news.clear()
            layer = sorted((following | self._again).items())
            self._whole, self._again = set(self._again), {}
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

    def _number(self, key: int, parent: tuple[int, tuple[Move, ...]] | None, switches: tuple[int, int]) -> int:
        number = self._numbers[key] = len(self._parents)
        self._keys.append(key)
        self._parents.append(parent)
        self._switches.append(switches)
        self._predecessors.append([])
        return number

    def _expand(self, layer: list[tuple[int, Node]]) -> Iterator[tuple[int, Expansion]]:
        """Expand a layer's states, in order."""
        if self._executor is None or len(layer) < 2 * BATCH:
            for number, node in layer:
                yield number, expand(self._memo, node, self._reduction, number in self._whole)
            return
        batches = [layer[at : at + BATCH] for at in range(0, len(layer), BATCH)]
        futures = [self._executor.submit(expand_all, self._packed(one)) for one in batches]
        for batch, future in zip(batches, futures, strict=True):
            answer: Answer = pickle.loads(future.result())
            self._take_over(answer)
            for (number, node), (successors, rest) in zip(batch, answer.expansions, strict=True):
                found = [
                    Successor(moves, self._memo.cells.with_cells(key, node, names)) for moves, key, names in successors
                ]
                yield number, rest._replace(successors=found)

    def _packed(self, layer: list[tuple[int, Node]]) -> bytes:
        """States for another process."""
        memo = self._memo
        plain = [(node.key, memo.cells.difference(node, memo.root), number in self._whole) for number, node in layer]
        cells = memo.cells.export(dict.fromkeys(name for _, names, _ in plain for name in names))
        known = None if self._reduction is None else self._reduction.known
        return pickle.dumps(
            Batch(self._problem, self._name, self._expected, plain, cells, known), pickle.HIGHEST_PROTOCOL
        )

    def _take_over(self, answer: Answer) -> None:
        """What another process knows is known here too."""
        if answer.grown:
            raise Grown(answer.grown)
        self._touched_by(answer.touched)
        self._memo.world.buffers.stronger |= dict.fromkeys(answer.stronger)
        self._memo.cells.learn(answer.cells)
        if self._reduction is not None and answer.learned is not None:
            self._news.append(answer.learned)

    def _touched_by(self, seen: dict[int, Masks]) -> None:
        """Who has touched which frame elsewhere, or before: one that another CPU has touched here is visible."""
        visible = self._memo.world.visible
        visible.take_in(seen)
        if visible.grown:
            raise Grown(tuple(sorted(visible.frames)))

    def _merge(
        self, here: int, found: Expansion, following: dict[int, Node]
    ) -> tuple[tuple[Move, ...], Finding] | None:
        """Take a state's successors in."""
        self._moves += sum(len(moves) for moves, _ in found.successors)
        self._moves += 0 if found.finding is None else len(found.finding[0])
        self._exercised += found.exercised
        if found.finished:
            self._ends.append(here)
        last, switches = self._switches[here]
        for moves, node in found.successors:
            cpu = moves[0].cpu
            cost = switches + (last not in (-1, cpu))
            number = self._numbers.get(node.key)
            if number is None:
                number = self._number(node.key, (here, moves), (cpu, cost))
                following[number] = node
            elif number in following and cost < self._switches[number][1]:
                self._parents[number], self._switches[number] = (here, moves), (cpu, cost)
            self._predecessors[number].append(here)
        return found.finding

    def _path(self, number: int) -> tuple[Move, ...]:
        """The moves from the root to a state."""
        moves: list[Move] = []
        while (parent := self._parents[number]) is not None:
            number, made = parent
            moves += reversed(made)
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

    def _deepest(self) -> int:
        """Moves on the longest of the shortest ways."""
        depths: list[int] = []
        for parent in self._parents:
            depths.append(0 if parent is None else depths[parent[0]] + len(parent[1]))
        return max(depths)

    # --- checkpoints

    def _save(self, layer: list[tuple[int, Node]]) -> None:
        assert self._checkpoint is not None
        write_checkpoint(
            self._checkpoint,
            self._problem,
            Checkpoint(
                visible=list(self._problem.visible),
                seen=self._memo.world.visible.seen,
                stronger=list(self._memo.world.buffers.stronger),
                keys=[key.to_bytes(KEY_BYTES, "little") for key in self._numbers],
                parents=[
                    None if one is None else (one[0], [(move.cpu, move.kind, move.choice) for move in one[1]])
                    for one in self._parents
                ],
                **self._learned(),
                switches=self._switches,
                predecessors=self._predecessors,
                ends=self._ends,
                layer=[number for number, _ in layer],
                whole=sorted(self._whole),
                moves=self._moves,
                exercised=self._exercised,
                depth=self._depth,
            ),
        )

    def _learned(self) -> dict[str, Any]:
        """What a checkpoint has of a reduction."""
        if self._reduction is None or self._relying is None:
            return {"names": None, "edges": [], "relied": []}
        known = self._reduction.known
        return {
            "names": list(known.names),
            "edges": [(_packed(here), _packed(there), _packed(bits)) for (here, there), bits in known.edges.items()],
            "relied": [(state, _packed(place), _packed(bits)) for state, place, bits in self._relying],
        }

    def _go_on(self, saved: Checkpoint) -> list[tuple[int, Node]]:
        """Become what was saved; the states to be expanded are made again by their moves."""
        self._touched_by(saved.seen)
        self._memo.world.buffers.stronger |= dict.fromkeys(saved.stronger)
        self._numbers = {int.from_bytes(key, "little"): number for number, key in enumerate(saved.keys)}
        self._keys = list(self._numbers)
        if self._reduction is not None and self._relying is not None and saved.names is not None:
            edges = {(_unpacked(here), _unpacked(there)): _unpacked(bits) for here, there, bits in saved.edges}
            self._reduction.known.add(News(saved.names, edges))
            for state, place, bits in saved.relied:
                self._relying.add(state, None, [(_unpacked(place), _unpacked(bits))])
        self._parents = [
            None if one is None else (one[0], tuple(Move(*move) for move in one[1])) for one in saved.parents
        ]
        self._switches = [(cpu, count) for cpu, count in saved.switches]
        self._predecessors = [list(one) for one in saved.predecessors]
        self._ends, self._moves, self._depth = list(saved.ends), saved.moves, saved.depth
        self._exercised, self._whole = saved.exercised, set(saved.whole)
        return [(number, self._made_again(number)) for number in saved.layer]

    def _made_again(self, number: int) -> Node:
        """The state with a number, by the moves that lead to it.

        Raises:
            ConfigError: they do not.
        """
        node = self._memo.root
        try:
            for move in self._path(number):
                node = self._memo.make(node, move).node
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"checkpoint {self._checkpoint} is damaged: its moves cannot be made") from error
        if node.key != self._keys[number]:
            raise ConfigError(f"checkpoint {self._checkpoint} does not lead where it led; it is of another kstack")
        return node

    def _outcome(self, verdict: str, **more: object) -> Outcome:
        return Outcome(
            verdict=verdict,
            complete=verdict == "safe",
            states=len(self._parents),
            moves=self._moves,
            exercised=self._exercised,
            depth=self._deepest(),
            shortest=verdict == "unsafe" and self._reduction is None,
            visible=Visible(self._problem.visible),
            stronger=self._memo.world.stronger,
            **more,  # type: ignore[arg-type] # fields of Outcome, by name
        )


def _packed(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def _unpacked(packed: bytes) -> int:
    return int.from_bytes(packed, "little")


__all__ = ["Bounds", "Outcome", "Problem", "Progress", "search"]
