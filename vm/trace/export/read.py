"""A trace's tables, batch by batch, and its code."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kstack.trace.events import TraceEvent
from kstack.trace.store import Trace
from kstack.trace.text import disassembly, mnemonic

BATCH: Final = 1 << 16  # rows
DELIVERED: Final = ("fault", "interrupt", "nmi", "software")  # kinds of events for which a handler runs


class Instructions(NamedTuple):
    """Some rows of the table of instructions, in order; columns of equal length."""

    count: NDArray[np.uint64]  # type: ignore[assignment] # hides tuple.count, which nobody calls here
    cpu: NDArray[np.uint8]
    rip: NDArray[np.uint64]
    size: NDArray[np.uint8]
    ring: NDArray[np.uint8]
    rsp: NDArray[np.uint64]
    thread: NDArray[np.int32]


class AccessRow(NamedTuple):
    """One row of the table of accesses."""

    count: int  # type: ignore[assignment] # as above
    cpu: int
    store: bool
    model: bool
    size: int
    address: int
    physical: int
    value: int


def instructions(trace: Trace) -> Iterator[Instructions]:
    """All instructions in order, at most BATCH at once."""
    with pq.ParquetFile(trace.file("instructions")) as file:
        for batch in file.iter_batches(BATCH, columns=list(Instructions._fields)):
            yield Instructions(*(column.to_numpy(zero_copy_only=False) for column in batch.columns))


def accesses(trace: Trace) -> Iterator[AccessRow]:
    """All accesses in order."""
    for row in _rows(trace, "accesses", AccessRow._fields):
        yield AccessRow(*row)


def events(trace: Trace) -> Iterator[TraceEvent]:
    """All events in order."""
    for row in _rows(trace, "events", TraceEvent._fields):
        yield TraceEvent(*row)


def _rows(trace: Trace, table: str, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    with pq.ParquetFile(trace.file(table)) as file:
        for batch in file.iter_batches(BATCH, columns=list(columns)):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


class Version(NamedTuple):
    """Code at an address: from when on (virtual time), its bytes, and its width (bits; None where the trace is too old)."""

    count: int  # type: ignore[assignment] # as above
    code: bytes
    bits: int | None


class Code:
    """What code was where, and when.

    Args:
        trace: its table of code, which has a row an address and change, is kept.
    """

    def __init__(self, trace: Trace) -> None:
        self._versions: dict[int, list[Version]] = {}
        self._symbols: dict[int, str] = {}
        columns = ("rip", "symbol", "count", "code", *(["bits"] if trace.has_widths else []))
        for rip, symbol, count, code, *bits in _rows(trace, "code", columns):
            self._versions.setdefault(rip, []).append(Version(count, code, bits[0] if bits else None))
            self._symbols[rip] = symbol

    def __iter__(self) -> Iterator[int]:
        """All addresses, upwards."""
        return iter(sorted(self._versions))

    def _version(self, rip: int, count: int) -> Version:
        versions = self._versions.get(rip, [])
        place = bisect_right(versions, count, key=lambda version: version.count)
        return versions[max(place - 1, 0)] if versions else Version(0, b"", None)

    def at(self, rip: int, count: int) -> bytes:
        """The bytes of the instruction at an address as they were at a virtual time; none if none ran there."""
        return self._version(rip, count).code

    def text(self, rip: int, count: int) -> tuple[str, str]:
        """Name and operands of the instruction at an address, as it was at a virtual time."""
        version = self._version(rip, count)
        return disassembly(version.code, rip, version.bits)

    def name(self, rip: int, count: int) -> str:
        """Its name."""
        version = self._version(rip, count)
        return mnemonic(version.code, version.bits)

    def versions(self, rip: int) -> list[Version]:
        """All that has been at an address, in order."""
        return self._versions[rip]

    def symbol(self, rip: int) -> str:
        """`name+offset`, or the address in hex."""
        return self._symbols.get(rip, f"{rip:#x}")

    def having(self, *names: str) -> NDArray[np.uint64]:
        """Addresses at which one of these instructions ran at some time."""
        found = [rip for rip in self if any(mnemonic(one.code, one.bits) in names for one in self.versions(rip))]
        return np.array(found, dtype=np.uint64)

    def ends(self, wanted: Callable[[str], bool]) -> NDArray[np.uint64]:
        """Addresses after instructions whose name is wanted."""
        every = ((rip, one) for rip in self for one in self.versions(rip) if one.code)
        found = [rip + len(one.code) for rip, one in every if wanted(mnemonic(one.code, one.bits))]
        return np.array(sorted(found), dtype=np.uint64)
