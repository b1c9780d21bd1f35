"""States that another process expands: what it is sent, and what it replies."""

from __future__ import annotations

import pickle
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

from kstack.base.errors import ConfigError
from kstack.explore.checkpoint import identity
from kstack.explore.may_access import FutureAccesses, LearnedAccesses
from kstack.explore.model.gate import Masks
from kstack.explore.nodes import ExportedValue
from kstack.explore.persistent_sets import Expansion, PersistentSets, expand
from kstack.explore.problem import Problem
from kstack.explore.states import Grown, Move
from kstack.explore.transitions import StateSpace

_WORKING = Lock()  # a process has one state space at a time, also where its workers are threads


@lru_cache(maxsize=2)
def worker(problem: Problem, search: str, expected: tuple[tuple[str, str], ...]) -> StateSpace:
    """This process's state space of a problem, for one search: files may be others in the next.

    Raises:
        ConfigError: image or policy are not what they are where the search is.
    """
    del search
    if isinstance(problem.policy, str) and (here := identity(problem)) != dict(expected):
        wrong = next(name for name, value in expected if here.get(name) != value)
        raise ConfigError(f"a worker has another {wrong} than the search; start the workers again, from the same files")
    return StateSpace(problem.world())


class NamedNode(NamedTuple):
    """A node for another process: its key, and the names of the values in which it differs from one that both know."""

    key: int
    names: tuple[bytes, ...]


class NamedSuccessor(NamedTuple):
    """Where moves lead from a state; the node by how it differs from that state's."""

    moves: tuple[Move, ...]
    node: NamedNode


class ExpansionRequest(NamedTuple):
    """States to be expanded by another process.

    Attributes:
        problem, search, expected: for `worker`.
        nodes: by how they differ from the root, each with whether it is to be expanded in full.
        values: those that nodes name.
        known: what CPUs may access; None to make every move by itself.
    """

    problem: Problem
    search: str
    expected: tuple[tuple[str, str], ...]
    nodes: list[tuple[NamedNode, bool]]
    values: dict[bytes, ExportedValue]
    known: FutureAccesses | None


class ExpansionReply(NamedTuple):
    """What a process replies.

    Attributes:
        expansions: of each state, its successors; and all else.
        values: those that the request did not have.
        touched: which CPU has touched which frame there: two processes can each have seen one CPU only.
        learned: what CPUs may access.
        grown: the visible frames, where more is visible than was known.
        stronger: of `StoreBuffers`.
    """

    expansions: list[tuple[list[NamedSuccessor], Expansion]]
    values: dict[bytes, ExportedValue]
    touched: dict[int, Masks]
    learned: LearnedAccesses | None
    grown: tuple[int, ...] = ()
    stronger: tuple[int, ...] = ()


def expand_all(packed: bytes) -> bytes:
    """Expand states in another process: an `ExpansionRequest` to an `ExpansionReply`, both pickled.

    Pickled here and not by the executor, since dask looks into tuples and takes some for tasks.
    """
    with _WORKING:
        return pickle.dumps(_expand_all(pickle.loads(packed)), pickle.HIGHEST_PROTOCOL)


def _expand_all(request: ExpansionRequest) -> ExpansionReply:
    expansions: list[tuple[list[NamedSuccessor], Expansion]] = []
    new: dict[bytes, None] = {}
    sets = None if request.known is None else PersistentSets(request.known)
    try:
        space = worker(request.problem, request.search, request.expected)
        table = space.table
        table.learn(request.values)
        for (key, names), whole in request.nodes:
            node = table.with_values(key, space.root, names)
            found = expand(space, node, sets, whole)
            successors = [
                NamedSuccessor(moves, NamedNode(after.key, table.difference(after, node)))
                for moves, after in found.successors
            ]
            new.update((name, None) for one in successors for name in one.node.names if name not in request.values)
            expansions.append((successors, found._replace(successors=[])))
    except Grown as grown:
        return ExpansionReply([], {}, {}, None, grown.frames)
    learned = None if sets is None else sets.take_learned()
    seen, stronger = dict(space.world.visible.seen), tuple(space.world.buffers.stronger)
    return ExpansionReply(expansions, table.export(new), seen, learned, stronger=stronger)
