"""From an engine's records to columns: which instruction each belongs to, at what virtual time, at which address.

Everything here is arithmetic on whole arrays; what happened in which order is said by the positions of records.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vm.hw.engine.tracing import INSTRUCTION, STORE, WORDS

Numbers = NDArray[np.uint64]
PAGE: Final = np.uint64(0xFFF)
FRAME_SHIFT: Final = np.uint64(12)
POSITION_BITS: Final = np.uint64(24)  # of a record in its buffer


class Ran(NamedTuple):
    """One run of an engine: virtual time at its start, instructions retired, and the position behind its records."""

    time: int
    retired: int
    end: int


class Columns(NamedTuple):
    """Columns of equal length, by name, in the order of a table's schema."""

    names: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]

    def __len__(self) -> int:
        return len(self.arrays[0])


INSTRUCTIONS: Final = ("count", "cpu", "rip", "size", "ring", "rsp", "thread")
ACCESSES: Final = ("count", "cpu", "store", "model", "size", "address", "physical", "value")


class Pages:
    """Which linear page each frame has been entered into an engine for, in the order of the engine's records.

    A frame has one page at a time there (`Tracer` drops the other one first), so a physical address that is recorded
    has one linear address.
    """

    def __init__(self) -> None:
        self.now: dict[int, int] = {}  # frame number -> linear page
        self._entered: list[tuple[int, int, int]] = []  # frame number, position, page

    def entered(self, frame: int, position: int, page: int) -> None:
        """From the record at `position` on."""
        self._entered.append((frame, position, page))
        self.now[frame] = page

    def next_buffer(self) -> None:
        """Positions begin again: what is entered is so from the start."""
        self._entered = [(frame, 0, page) for frame, page in self.now.items()]

    def linear(self, physical: Numbers, positions: Numbers) -> Numbers:
        """Linear addresses of recorded physical ones."""
        if not len(physical):
            return physical
        entered = np.array(self._entered, dtype=np.uint64)
        order = np.lexsort((np.arange(len(entered)), entered[:, 1], entered[:, 0]))
        entered = entered[order]
        keys = entered[:, 0] << POSITION_BITS | entered[:, 1]
        wanted = (physical >> FRAME_SHIFT) << POSITION_BITS | positions
        found: Numbers = entered[np.searchsorted(keys, wanted, "right") - 1, 2] | physical & PAGE
        return found


def assemble(
    records: bytes, runs: list[Ran], cpu: int, pages: Pages, switches: list[tuple[int, int]]
) -> tuple[Columns, Columns]:
    """Instructions that were retired, and accesses of theirs, of one engine.

    Args:
        records: as `Recorder.read` gives them.
        runs: in order; the first begins at position 0.
        cpu: whose.
        pages: what its engine's pages are.
        switches: virtual time and thread, in order: the thread that is current from then on.

    Returns:
        Columns INSTRUCTIONS and ACCESSES, in the order of execution.
    """
    words = np.frombuffer(records, dtype=np.uint64).reshape(-1, WORDS)
    tags = words[:, 1]
    is_code = (tags & np.uint64(0xFF)) == INSTRUCTION
    ends = np.array([run.end for run in runs], dtype=np.int64)
    retired = np.array([run.retired for run in runs], dtype=np.int64)
    times = np.array([run.time for run in runs], dtype=np.uint64)
    run_of = np.searchsorted(ends, np.arange(len(words)), "right")
    code_so_far = np.cumsum(is_code)
    before = np.concatenate(([0], code_so_far))[np.concatenate(([0], ends[:-1]))]
    ordinal = code_so_far - 1 - before[run_of]  # of the instruction within its run
    kept = ordinal < retired[run_of]
    count = times[run_of] + ordinal.astype(np.uint64)
    code, access = kept & is_code, kept & ~is_code
    counts = count[code]
    instructions = Columns(
        INSTRUCTIONS,
        (
            counts,
            np.full(len(counts), cpu, np.uint8),
            words[code, 0],
            (tags[code] >> np.uint64(8) & np.uint64(0xFF)).astype(np.uint8),
            (tags[code] >> np.uint64(16)).astype(np.uint8),
            words[code, 2],
            threads(counts, switches),
        ),
    )
    physical = words[access, 0]
    accesses = Columns(
        ACCESSES,
        (
            count[access],
            np.full(len(physical), cpu, np.uint8),
            (tags[access] & np.uint64(0xFF)) == STORE,
            np.zeros(len(physical), np.bool_),
            (tags[access] >> np.uint64(8)).astype(np.uint8),
            pages.linear(physical, np.nonzero(access)[0].astype(np.uint64)),
            physical,
            words[access, 2],
        ),
    )
    return instructions, accesses


def threads(counts: Numbers, switches: list[tuple[int, int]]) -> NDArray[np.int32]:
    """The thread that is current at each of these virtual times; 0 before there is one."""
    times = np.array([time for time, _ in switches], dtype=np.uint64)
    ids = np.array([0] + [thread for _, thread in switches], dtype=np.int64).astype(np.int32)
    found: NDArray[np.int32] = ids[np.searchsorted(times, counts, "left")]
    return found


def sorted_together(parts: list[Columns]) -> Columns:
    """All rows by virtual time; rows of one time stay in order."""
    arrays = tuple(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True))
    order = np.argsort(arrays[0], kind="stable")
    return Columns(parts[0].names, tuple(array[order] for array in arrays))
