"""Basic blocks: what a CPU executes from one jump, event or switch of address to the next.

A block ends where the next instruction of its CPU does not follow it in memory, and at addresses that are asked for:
those after branches give the blocks of a translator, which do not depend on where a branch went.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kstack.trace.export.read import Instructions


class Block(NamedTuple):
    """One block, once executed.

    Attributes:
        count: virtual time of its first instruction.
        cpu: whose.
        start, end: addresses of its first byte and after its last.
        last: virtual time of its last instruction.
        ring: of its first instruction.
    """

    count: int  # type: ignore[assignment] # hides tuple.count, which nobody calls on a block
    cpu: int
    start: int
    end: int
    last: int
    ring: int


NOWHERE: Final = np.array([], dtype=np.uint64)
_COLUMNS: Final = len(Block._fields)


def batches(
    all_rows: Iterable[Instructions], cpus: int, ends: NDArray[np.uint64] = NOWHERE
) -> Iterator[list[NDArray[np.uint64]]]:
    """Blocks as columns of `Block`, as they end: in the order of each CPU, not of all.

    Args:
        all_rows: the trace's instructions.
        cpus: of the machine.
        ends: addresses at which a block ends in any case.
    """
    open_: list[list[NDArray[np.uint64]]] = [_none() for _ in range(cpus)]  # the last block of each CPU
    for rows in all_rows:
        for cpu in range(cpus):
            found = _join(open_[cpu], _of(rows, cpu, ends), ends)
            open_[cpu] = [column[-1:] for column in found]
            yield [column[:-1] for column in found]
    yield from open_


def _none() -> list[NDArray[np.uint64]]:
    return [np.array([], dtype=np.uint64) for _ in range(_COLUMNS)]


def _of(rows: Instructions, cpu: int, cuts: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
    """Blocks of one CPU in these rows, as if it began and ended with them."""
    own = np.nonzero(rows.cpu == cpu)[0]
    if not len(own):
        return _none()
    rips, ends = rows.rip[own], rows.rip[own] + rows.size[own]
    first = np.concatenate(([0], np.nonzero((rips[1:] != ends[:-1]) | np.isin(ends[:-1], cuts))[0] + 1))
    last = np.concatenate((first[1:], [len(own)])) - 1
    counts = rows.count[own]
    whose = np.full(len(first), cpu, np.uint64)
    return [counts[first], whose, rips[first], ends[last], counts[last], rows.ring[own][first].astype(np.uint64)]


def _join(
    before: list[NDArray[np.uint64]], after: list[NDArray[np.uint64]], cuts: NDArray[np.uint64]
) -> list[NDArray[np.uint64]]:
    """Blocks that follow each other; the last one before goes on in the first one after where that is adjacent."""
    joined = [np.concatenate(pair) for pair in zip(before, after, strict=True)]
    border = len(before[0])
    adjacent = border and len(after[0]) and joined[3][border - 1] == joined[2][border]
    if adjacent and joined[3][border - 1] not in cuts:
        for column in (3, 4):  # its end and its last instruction
            joined[column][border - 1] = joined[column][border]
        joined = [np.delete(column, border) for column in joined]
    return joined


def in_order(all_rows: Iterable[Instructions], cpus: int, ends: NDArray[np.uint64] = NOWHERE) -> Iterator[Block]:
    """Blocks of all CPUs by the time of their first instruction; as `batches`."""
    waiting = [_none() for _ in range(cpus)]
    for number, found in enumerate(batches(all_rows, cpus, ends)):
        cpu = number % cpus
        waiting[cpu] = [np.concatenate(pair) for pair in zip(waiting[cpu], found, strict=True)]
        if cpu == cpus - 1:
            yield from _ready(waiting, min(_until(columns) for columns in waiting))
    yield from _ready(waiting, 1 << 63)


def _until(columns: list[NDArray[np.uint64]]) -> int:
    """Before this time all blocks of a CPU are here."""
    return int(columns[4][-1]) + 1 if len(columns[0]) else 0


def _ready(waiting: list[list[NDArray[np.uint64]]], until: int) -> Iterator[Block]:
    found: list[Block] = []
    for cpu, columns in enumerate(waiting):
        upto = int(np.searchsorted(columns[0], np.uint64(until), "left"))
        found += [Block(*row) for row in zip(*(column[:upto].tolist() for column in columns), strict=True)]
        waiting[cpu] = [column[upto:] for column in columns]
    found.sort()
    yield from found
