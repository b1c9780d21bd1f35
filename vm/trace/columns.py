"""From an engine's records to columns: which instruction each belongs to, at what virtual time, at which address.

Everything here is arithmetic on whole arrays; what happened in which order is said by the positions of records.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
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


_Entered = tuple[int, int, int]  # position, frame number, linear page in bytes


class Pages:
    """Which frames an engine has been given for which linear pages, in the order of its records.

    A frame has one page at a time there (`Tracer` drops the other one first), so a physical address that is recorded
    has one linear address.
    """

    def __init__(self) -> None:
        self.page_of: dict[int, int] = {}  # frame number -> linear page, in bytes
        self._frame_of: dict[int, int] = {}
        self._entered: list[_Entered] = []
        self._at_first: tuple[list[_Entered], list[_Entered]] = ([], [])  # by frame, and by page

    def entered(self, frame: int, position: int, page: int) -> None:
        """From the record at `position` on."""
        if self.page_of.get(frame) != page or self._frame_of.get(page) != frame:
            self._entered.append((position, frame, page))
            self.page_of[frame], self._frame_of[page] = page, frame

    def next_buffer(self) -> None:
        """Positions begin again: what is entered is so from the start."""
        self._at_first = (
            [(0, frame, page) for frame, page in self.page_of.items()],
            [(0, frame, page) for page, frame in self._frame_of.items()],
        )
        self._entered.clear()

    def physical_now(self, linear: int) -> int | None:
        """Where a linear address lies at present; None if the engine has no page for it."""
        frame = self._frame_of.get(linear & ~0xFFF)
        return None if frame is None else frame << 12 | linear & 0xFFF

    def linear(self, physical: Numbers, positions: Numbers) -> Numbers:
        """Linear addresses of recorded physical ones."""
        return self._latest(physical >> FRAME_SHIFT, positions, 1, 2) | physical & PAGE

    def physical(self, linear: Numbers, positions: Numbers) -> Numbers:
        """Physical addresses of linear ones that were used."""
        return self._latest(linear & ~PAGE, positions, 2, 1) << FRAME_SHIFT | linear & PAGE

    def _latest(self, wanted: Numbers, positions: Numbers, key: int, answer: int) -> Numbers:
        """For each wanted key what was entered with it last, at its position or before."""
        if not len(wanted):
            return wanted
        entered = np.array(self._at_first[key - 1] + self._entered, dtype=np.uint64)
        known, numbers = np.unique(entered[:, key], return_inverse=True)
        keys = numbers.astype(np.uint64) << POSITION_BITS | entered[:, 0]
        order = np.argsort(keys, kind="stable")
        asked = np.searchsorted(known, wanted).astype(np.uint64) << POSITION_BITS | positions
        found: Numbers = entered[order[np.searchsorted(keys[order], asked, "right") - 1], answer]
        return found


def assemble(
    records: bytes, runs: list[Ran], cpu: int, pages: Pages, switches: list[tuple[int, int]]
) -> tuple[Columns, Columns, Numbers]:
    """Instructions that were retired, and accesses of theirs, of one engine.

    Args:
        records: as `Recorder.read` gives them.
        runs: in order; the first begins at position 0.
        cpu: whose.
        pages: what its engine's pages are.
        switches: virtual time and thread, in order: the thread that is current from then on.

    Returns:
        Columns INSTRUCTIONS and ACCESSES, in the order of execution, and where the instructions lie (physical).
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
    return instructions, accesses, pages.physical(words[code, 0], np.nonzero(code)[0].astype(np.uint64))


def threads(counts: Numbers, switches: list[tuple[int, int]]) -> NDArray[np.int32]:
    """The thread that is current at each of these virtual times; 0 before there is one."""
    times = np.array([time for time, _ in switches], dtype=np.uint64)
    ids = np.array([0] + [thread for _, thread in switches], dtype=np.int64).astype(np.int32)
    found: NDArray[np.int32] = ids[np.searchsorted(times, counts, "left")]
    return found


def first_of_each(values: Numbers) -> list[int]:
    """Where each value comes first, in order."""
    numbers = pa.array(values).dictionary_encode().indices.to_numpy()  # values are numbered as they come
    most = np.maximum.accumulate(numbers)
    found: list[int] = np.flatnonzero(np.diff(most, prepend=-1)).tolist()
    return found


def sorted_together(parts: list[Columns]) -> Columns:
    """All rows by virtual time; rows of one time stay in order."""
    arrays = tuple(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True))
    order = np.argsort(arrays[0], kind="stable")
    return Columns(parts[0].names, tuple(array[order] for array in arrays))
