"""States that another process expands: what it is sent, and what it answers."""

from __future__ import annotations

import pickle
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

from kstack.base.errors import ConfigError
from kstack.explore.checkpoint import identity
from kstack.explore.components import Export
from kstack.explore.may_access import Locality, News
from kstack.explore.model.gate import Masks
from kstack.explore.persistent_sets import Expansion, Reduction, expand
from kstack.explore.problem import Problem
from kstack.explore.transitions import Memo
from kstack.explore.world import Grown, Move

_WORKING = Lock()  # a process has one memo at a time, also where its workers are threads


@lru_cache(maxsize=2)
def worker(problem: Problem, search: str, expected: tuple[tuple[str, str], ...]) -> Memo:
    """This process's memo of a problem, for one search: files may be others in the next.

    Raises:
        ConfigError: image or policy are not what they are where the search is.
    """
    del search
    if isinstance(problem.policy, str) and (here := identity(problem)) != dict(expected):
        wrong = next(name for name, value in expected if here.get(name) != value)
        raise ConfigError(f"a worker has another {wrong} than the search; start the workers again, from the same files")
    return Memo(problem.world())


class Batch(NamedTuple):
    """States to be expanded by another process: keys, names of cells that differ from the root's, and whether in full.

    `known` is who touches what, None to make every move by itself; `search` and `expected` are for `worker`.
    """

    problem: Problem
    search: str
    expected: tuple[tuple[str, str], ...]
    nodes: list[tuple[int, tuple[bytes, ...], bool]]
    cells: dict[bytes, Export]
    known: Locality | None


class Answer(NamedTuple):
    """What a process answers.

    Attributes:
        expansions: successors as moves, keys, and names of cells that differ from the state's; and all else.
        cells: those that the question did not have.
        touched: which CPU has touched which frame there: two processes can each have seen one CPU only.
        learned: who touches what.
        grown: the visible frames, where more is visible than was known.
        stronger: of `StoreBuffers`.
    """

    expansions: list[tuple[list[tuple[tuple[Move, ...], int, tuple[bytes, ...]]], Expansion]]
    cells: dict[bytes, Export]
    touched: dict[int, Masks]
    learned: News | None
    grown: tuple[int, ...] = ()
    stronger: tuple[int, ...] = ()


def expand_all(packed: bytes) -> bytes:
    """Expand states in another process: a `Batch` to an `Answer`, both pickled.

    Pickled here and not by the executor, since dask looks into tuples and takes some for tasks.
    """
    with _WORKING:
        return pickle.dumps(_expand_all(pickle.loads(packed)), pickle.HIGHEST_PROTOCOL)


def _expand_all(batch: Batch) -> Answer:
    expansions = []
    new: dict[bytes, None] = {}
    reduction = None if batch.known is None else Reduction(batch.known)
    try:
        memo = worker(batch.problem, batch.search, batch.expected)
        memo.cells.learn(batch.cells)
        for key, names, whole in batch.nodes:
            node = memo.cells.with_cells(key, memo.root, names)
            found = expand(memo, node, reduction, whole)
            successors = [(moves, after.key, memo.cells.difference(after, node)) for moves, after in found.successors]
            new.update((name, None) for _, _, changed in successors for name in changed if name not in batch.cells)
            expansions.append((successors, found._replace(successors=[])))
    except Grown as grown:
        return Answer([], {}, {}, None, grown.frames)
    learned = None if reduction is None else reduction.take_news()
    seen, stronger = dict(memo.world.visible.seen), tuple(memo.world.buffers.stronger)
    return Answer(expansions, memo.cells.export(new), seen, learned, stronger=stronger)
