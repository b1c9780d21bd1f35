"""From an engine's records to columns: which instruction each belongs to, at what virtual time, at which address.

Everything here is arithmetic on whole arrays; what happened in which order is said by the positions of records.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kstack.hw.engine.tracing import STORE, TAG_CPL, TAG_CS32, TAG_CS64, Records
from kstack.x86.registers import Gpr

Numbers = NDArray[np.uint64]
Places = NDArray[np.int64]
"""Positions of records in their buffer."""
PAGE: Final = np.uint64(0xFFF)
FRAME_SHIFT: Final = np.uint64(12)
POSITION_BITS: Final = np.uint64(24)  # of a record in its buffer
MOST_FRAMES: Final = 1 << 21  # beyond which frames are looked up by searching
_FRAME, _PAGE = 2, 3  # places in what is entered
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)  # makes one number of two


class Ran(NamedTuple):
    """One run of an engine: virtual time at its start, instructions retired, and the position behind theirs."""

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
REGISTERS: Final = ("count", "cpu", *(register.name.lower() for register in Gpr))
ACCESSES: Final = ("count", "cpu", "store", "model", "size", "address", "physical", "value")


class Pages:
    """Which frames an engine has been given for which linear pages, in the order of its records.

    A frame has one page at a time there (`Tracer` drops the other one first), so a physical address that is recorded
    has one linear address.
    """

    def __init__(self) -> None:
        self.page_of: dict[int, int] = {}  # frame number -> linear page, in bytes
        self._frame_of: dict[int, int] = {}
        self._entered: list[tuple[int, int, int, int]] = []  # accesses and instructions before, frame, page
        self._at_first: tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]]] = ([], [])
        self._moved = False  # a frame or page has had two meanings since the buffer's start

    def entered(self, frame: int, positions: tuple[int, int], page: int) -> None:
        """From so many accesses and instructions on."""
        old = self.page_of.get(frame), self._frame_of.get(page)
        if old != (page, frame):
            self._moved = self._moved or old != (None, None)
            self._entered.append((*positions, frame, page))
            self.page_of[frame], self._frame_of[page] = page, frame

    def next_buffer(self) -> None:
        """Positions begin again: what is entered is so from the start."""
        self._at_first = (
            [(0, 0, frame, page) for frame, page in self.page_of.items()],
            [(0, 0, frame, page) for page, frame in self._frame_of.items()],
        )
        self._entered.clear()
        self._moved = False

    def physical_now(self, linear: int) -> int | None:
        """Where a linear address lies at present; None if the engine has no page for it."""
        frame = self._frame_of.get(linear & ~0xFFF)
        return None if frame is None else frame << 12 | linear & 0xFFF

    def linear(self, physical: Numbers, accesses: Places) -> Numbers:
        """Linear addresses of recorded physical ones, by the places of the accesses."""
        frames = physical >> FRAME_SHIFT
        most = max(self.page_of, default=0)
        if self._moved or most > MOST_FRAMES:
            return self._latest(frames, accesses, _FRAME, _PAGE) | physical & PAGE
        table = np.zeros(most + 1, dtype=np.uint64)
        table[list(self.page_of)] = list(self.page_of.values())
        found: Numbers = table[frames] | physical & PAGE
        return found

    def physical(self, linear: Numbers, instructions: Places) -> Numbers:
        """Physical addresses of linear ones that were executed, by the places of the instructions."""
        return self._latest(linear & ~PAGE, instructions, _PAGE, _FRAME) << FRAME_SHIFT | linear & PAGE

    def first_of_each(self, linear: Numbers, instructions: Places) -> Places:
        """Where each linear address comes first, in each place that it has had; in order."""
        return first_of_each(linear * _ODD + self.physical(linear, instructions) if self._moved else linear)

    def _latest(self, wanted: Numbers, places: Places, key: int, answer: int) -> Numbers:
        """For each wanted key what was entered with it last, at its place or before."""
        if not len(wanted):
            return wanted
        position = 0 if key == _FRAME else 1
        entered = np.array(self._at_first[position] + self._entered, dtype=np.uint64)
        known, numbers = np.unique(entered[:, key], return_inverse=True)
        keys = numbers.astype(np.uint64) << POSITION_BITS | entered[:, position]
        order = np.argsort(keys, kind="stable")
        asked = np.searchsorted(known, wanted).astype(np.uint64) << POSITION_BITS | places.astype(np.uint64)
        found: Numbers = entered[order[np.searchsorted(keys[order], asked, "right") - 1], answer]
        return found


def assemble(
    records: Records, runs: list[Ran], cpu: int, pages: Pages, switches: list[tuple[int, int]]
) -> tuple[Columns, Columns, Columns, Places, NDArray[np.uint8]]:
    """Instructions that were retired, accesses of theirs, and registers before some, of one engine.

    Args:
        records: as `Recorder.read` gives them.
        runs: in order; the first begins at position 0.
        cpu: whose.
        pages: what its engine's pages are.
        switches: virtual time and thread, in order: the thread that is current from then on.

    Returns:
        Columns INSTRUCTIONS, ACCESSES and REGISTERS, in the order of execution; the places of the instructions' records, and
        the width of each one's code in bits.
    """
    placed = _Placed.of(runs)
    rip, tag, rsp = (np.array(column, dtype=np.uint64) for column in records[:3])
    physical, kind, value, owner = (np.array(column, dtype=np.uint64) for column in records[3:7])
    of = _placed_at(owner, records.first) - 1
    blocks = [np.array(column, dtype=np.uint64) for column in records.blocks]
    places, reached = np.arange(len(rip), dtype=np.int64), np.arange(len(physical), dtype=np.int64)
    if placed.kept is not None:
        kept, theirs = placed.kept, placed.kept[of]
        rip, tag, rsp, places = rip[kept], tag[kept], rsp[kept], places[kept]
        physical, kind, value, of, reached = physical[theirs], kind[theirs], value[theirs], of[theirs], reached[theirs]
    counts = placed.counts[places]
    sizes, rings = tag.view(np.uint8)[0::8], tag.view(np.uint8)[1::8] & np.uint8(TAG_CPL >> 8)
    widths = np.where(tag & np.uint64(TAG_CS64), 64, np.where(tag & np.uint64(TAG_CS32), 32, 16)).astype(np.uint8)
    instructions = (counts, _same(cpu, counts), rip, sizes, rings, rsp, threads(counts, switches))
    kinds, bytes_of = kind.view(np.uint8)[0::8], kind.view(np.uint8)[1::8]
    made = (placed.counts[of], _same(cpu, of), kinds == STORE, np.zeros(len(of), np.bool_), bytes_of)
    accesses = (*made, pages.linear(physical, reached), physical, value)
    registers = _registers(placed, blocks, records.first, cpu)
    return Columns(INSTRUCTIONS, instructions), Columns(ACCESSES, accesses), registers, places, widths


class _Placed(NamedTuple):
    """Of each instruction's record: its virtual time, and whether it was retired (None where all were)."""

    counts: Numbers
    kept: NDArray[np.bool_] | None

    @classmethod
    def of(cls, runs: list[Ran]) -> _Placed:
        """By the runs that made them."""
        ends = np.array([run.end for run in runs], dtype=np.int64)
        starts = np.concatenate(([0], ends[:-1]))
        begun, retired = ends - starts, np.array([run.retired for run in runs], dtype=np.int64)
        times = np.array([run.time for run in runs], dtype=np.uint64)
        places = np.arange(int(ends[-1]), dtype=np.int64)
        counts = np.repeat(times - starts.astype(np.uint64), begun) + places.astype(np.uint64)
        if not (begun > retired).any():
            return cls(counts, None)
        return cls(counts, places - np.repeat(starts, begun) < np.repeat(retired, begun))


def _placed_at(addresses: Numbers, first: int) -> Places:
    """Places of records from their host addresses."""
    return (addresses - np.uint64(first) >> np.uint64(3)).astype(np.int64)


def _registers(placed: _Placed, blocks: list[Numbers], first: int, cpu: int) -> Columns:
    """Registers before the first instruction of each block of which it was retired; no rows if not recorded."""
    if not blocks:
        return Columns(REGISTERS, tuple(np.array([], dtype=np.uint64) for _ in REGISTERS))
    places = _placed_at(blocks[0], first)
    own = slice(None) if placed.kept is None else placed.kept[places]
    counts = placed.counts[places][own]
    return Columns(REGISTERS, (counts, _same(cpu, counts), *(column[own] for column in blocks[1:])))


def _same(cpu: int, rows: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.full(len(rows), cpu, np.uint8)


def threads(counts: Numbers, switches: list[tuple[int, int]]) -> NDArray[np.int32]:
    """The thread that is current at each of these virtual times, which ascend; 0 before there is one."""
    times = np.array([time for time, _ in switches], dtype=np.uint64)
    ids = np.array([0] + [thread for _, thread in switches], dtype=np.int64).astype(np.int32)
    changes = np.concatenate(([0], np.searchsorted(counts, times, "right"), [len(counts)]))
    found: NDArray[np.int32] = np.repeat(ids, np.diff(changes))
    return found


def first_of_each(values: Numbers) -> Places:
    """Where each value comes first, in order."""
    if not len(values):
        return np.array([], dtype=np.int64)
    least = values.min()
    span = int(values.max() - least) + 1
    if span > len(values):
        numbers = pa.array(values).dictionary_encode().indices.to_numpy()  # values are numbered as they come
        return np.flatnonzero(np.diff(np.maximum.accumulate(numbers), prepend=-1))
    first = np.full(span, -1, dtype=np.int64)
    first[(values - least)[::-1]] = np.arange(len(values) - 1, -1, -1)  # of equal ones the last to be assigned stays
    return np.sort(first[first >= 0])


def sorted_together(parts: list[Columns]) -> Columns:
    """All rows by virtual time; rows of one time stay in order."""
    some = [part for part in parts if len(part)] or parts[:1]
    if len(some) == 1:
        return some[0]
    arrays = tuple(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in some), strict=True))
    if (arrays[0][1:] >= arrays[0][:-1]).all():
        return Columns(parts[0].names, arrays)
    order = np.argsort(arrays[0], kind="stable")
    return Columns(parts[0].names, tuple(array[order] for array in arrays))
