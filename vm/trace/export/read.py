"""A trace's tables, batch by batch, and its code."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from capstone import CS_ARCH_X86, CS_MODE_16, CS_MODE_32, CS_MODE_64, Cs
from numpy.typing import NDArray

from vm.trace.events import Event
from vm.trace.store import Trace

BATCH: Final = 1 << 16  # rows
DELIVERED: Final = ("fault", "interrupt", "nmi", "software")  # kinds of events for which a handler runs
_ERETS, _ERETU = bytes.fromhex("f20f01ca"), bytes.fromhex("f30f01ca")  # FRED specification 6.2; Capstone 5 has none


class Instructions(NamedTuple):
    """Some rows of the table of instructions, in order; columns of equal length."""

    count: NDArray[np.uint64]  # type: ignore[assignment] # hides tuple.count, which nobody calls here
    cpu: NDArray[np.uint8]
    rip: NDArray[np.uint64]
    size: NDArray[np.uint8]
    ring: NDArray[np.uint8]
    rsp: NDArray[np.uint64]
    thread: NDArray[np.int32]


class Access(NamedTuple):
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


def accesses(trace: Trace) -> Iterator[Access]:
    """All accesses in order."""
    for row in _rows(trace, "accesses", Access._fields):
        yield Access(*row)


def events(trace: Trace) -> Iterator[Event]:
    """All events in order."""
    for row in _rows(trace, "events", Event._fields):
        yield Event(*row)


def _rows(trace: Trace, table: str, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    with pq.ParquetFile(trace.file(table)) as file:
        for batch in file.iter_batches(BATCH, columns=list(columns)):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


class Code:
    """What code was where, and when.

    Args:
        trace: its table of code, which has a row an address and change, is kept.
    """

    def __init__(self, trace: Trace) -> None:
        self._versions: dict[int, list[tuple[int, bytes]]] = {}
        self._symbols: dict[int, str] = {}
        for rip, count, code, symbol in _rows(trace, "code", ("rip", "count", "code", "symbol")):
            self._versions.setdefault(rip, []).append((count, code))
            self._symbols[rip] = symbol

    def __iter__(self) -> Iterator[int]:
        """All addresses, upwards."""
        return iter(sorted(self._versions))

    def at(self, rip: int, count: int) -> bytes:
        """The bytes of the instruction at an address as they were at a virtual time; none if none ran there."""
        versions = self._versions.get(rip, [])
        place = bisect_right(versions, count, key=lambda version: version[0])
        return versions[max(place - 1, 0)][1] if versions else b""

    def versions(self, rip: int) -> list[bytes]:
        """All that has been at an address, in order."""
        return [code for _, code in self._versions[rip]]

    def symbol(self, rip: int) -> str:
        """`name+offset`, or the address in hex."""
        return self._symbols.get(rip, f"{rip:#x}")

    def having(self, *names: str) -> NDArray[np.uint64]:
        """Addresses at which one of these instructions ran at some time."""
        found = [rip for rip in self if any(mnemonic(code) in names for code in self.versions(rip))]
        return np.array(found, dtype=np.uint64)

    def ends(self, wanted: Callable[[str], bool]) -> NDArray[np.uint64]:
        """Addresses after instructions whose name is wanted."""
        found = [rip + len(code) for rip in self for code in self.versions(rip) if code and wanted(mnemonic(code))]
        return np.array(sorted(found), dtype=np.uint64)


@lru_cache(maxsize=1)
def _disassemblers() -> list[Any]:
    return [Cs(CS_ARCH_X86, mode) for mode in (CS_MODE_64, CS_MODE_32, CS_MODE_16)]


@lru_cache(maxsize=65536)
def disassembly(code: bytes, rip: int = 0) -> tuple[str, str]:
    """Name and operands of one instruction; `.byte` where Capstone knows none.

    The CPU's mode is in no trace: it is the first of 64, 32 and 16 bits in which the instruction has all its bytes.
    """
    if code in (_ERETS, _ERETU):
        return ("erets" if code == _ERETS else "eretu"), ""
    for disassembler in _disassemblers():
        for _, size, name, operands in disassembler.disasm_lite(code, rip, 1):
            if size == len(code):
                return name, operands
    return ".byte", ", ".join(f"{byte:#04x}" for byte in code)


def mnemonic(code: bytes) -> str:
    """The name of one instruction."""
    return disassembly(code)[0].removeprefix("rep ")
