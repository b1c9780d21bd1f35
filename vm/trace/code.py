"""Which bytes an instruction had when it was executed: code can change, and be another one in another address space.

An engine tells of each block that it has translated before that runs for the first time; what it has translated it
executes until somebody stores there, when it translates anew. So bytes are known by physical address, and a change
is told before the first instruction that has it. The same bytes are other code where the CPU's mode is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kstack.trace.columns import INSTRUCTIONS, Columns, Numbers, Pages, Places
from kstack.x86.addresses import PAGE

Row = tuple[int, int, bytes, int]
"""Virtual time from which on, linear address, bytes, width of the code in bits."""
_COUNT, _RIP, _SIZE = (INSTRUCTIONS.index(name) for name in ("count", "rip", "size"))


class _Change(NamedTuple):
    """From instruction `position` of the buffer on there is other code at a physical address."""

    position: int
    address: int
    before: bytes
    after: bytes


class Translated:
    """Code that one engine has translated, as it was when it did."""

    def __init__(self) -> None:
        self._frames: dict[int, tuple[bytearray, bytearray]] = {}  # by frame number: bytes, and which are known
        self._changes: list[_Change] = []

    def add(self, position: int, address: int, data: bytes) -> None:
        """A block has been translated; all of it lies in one frame.

        Args:
            position: instructions in the buffer before it.
            address: physical (bytes).
            data: its code.
        """
        code, known = self._frame(address)
        at, end = address & PAGE - 1, (address & PAGE - 1) + len(data)
        before, sure = bytes(code[at:end]), known[at:end]
        if before == data and all(sure):
            return
        if any(sure) and any(one != other for one, other, is_known in zip(before, data, sure, strict=True) if is_known):
            self._changes.append(_Change(position, address, before, data))
        code[at:end] = data
        known[at:end] = b"\1" * len(data)

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a physical address, all in one frame; zeros where nothing was translated."""
        at = address & PAGE - 1
        return bytes(self._frame(address)[0][at : at + size])

    def _frame(self, address: int) -> tuple[bytearray, bytearray]:
        frame = self._frames.get(address >> 12)
        if frame is None:
            frame = self._frames[address >> 12] = bytearray(PAGE), bytearray(PAGE)
        return frame

    def stretches(self, end: int) -> Iterator[tuple[int, int]]:
        """Stretches of the buffer in which no code has changed, the last one first: positions, the end not included.

        While one is looked at, `read` gives what was there then. All have to be asked for.
        """
        for position, address, before, _ in reversed(self._changes):
            yield position, end
            self._put(address, before)
            end = position
        yield 0, end
        for _, address, _, after in self._changes:
            self._put(address, after)
        self._changes.clear()

    def _put(self, address: int, data: bytes) -> None:
        at = address & PAGE - 1
        self._frame(address)[0][at : at + len(data)] = data


class _Stretch(NamedTuple):
    """Instructions of one CPU, of one width, between which no code has changed.

    Attributes:
        counts, rips, places: of each; places are those in the buffer.
        pages: of the CPU.
        bits: width.
        code: RIP and physical address -> bytes.
    """

    counts: Numbers
    rips: Numbers
    places: Places
    pages: Pages
    bits: int
    code: dict[tuple[int, int], bytes]


class Codes:
    """The table of code of a trace, part by part."""

    def __init__(self) -> None:
        self._now: dict[int, tuple[bytes, int]] = {}  # RIP -> what was in the table last
        self._several: set[int] = set()  # addresses that have had more than one code
        self._rows: list[Row] = []
        self._stretches: list[_Stretch] = []

    def executed(
        self,
        instructions: Columns,
        places: Places,
        widths: NDArray[np.uint8],
        pages: Pages,
        translated: Translated,
    ) -> None:
        """What one CPU's engine has executed in this part.

        Args:
            instructions: columns INSTRUCTIONS.
            places: where their records were.
            widths: of the code of each, in bits.
            pages: of the engine.
            translated: by it.
        """
        counts, rips, sizes = (instructions.arrays[column] for column in (_COUNT, _RIP, _SIZE))
        end = int(places[-1]) + 1 if len(places) else 0
        for begin, behind in translated.stretches(end):
            rows = slice(*np.searchsorted(places, (begin, behind)))
            for bits in np.unique(widths[rows]).tolist():
                own = np.flatnonzero(widths[rows] == bits) + rows.start
                self._stretch(counts[own], rips[own], sizes[own], places[own], bits, pages, translated)

    def _stretch(
        self,
        counts: Numbers,
        rips: Numbers,
        sizes: NDArray[np.uint8],
        places: Places,
        bits: int,
        pages: Pages,
        translated: Translated,
    ) -> None:
        first = pages.first_of_each(rips, places)
        ends = rips[first] + sizes[first].astype(np.uint64) - np.uint64(1)
        physical, last = (pages.physical(linear, places[first]) for linear in (rips[first], ends))
        code = {}
        for at, start, end, of_last in zip(
            first.tolist(), physical.tolist(), ends.tolist(), last.tolist(), strict=True
        ):
            rip, size = int(rips[at]), int(sizes[at])
            within = min(size, PAGE - (start & PAGE - 1))
            data = translated.read(start, within)
            if within < size:
                data += translated.read(of_last & ~(PAGE - 1), (end & PAGE - 1) + 1)
            code[rip, start] = data
            self._rows.append((int(counts[at]), rip, data, bits))
        self._stretches.append(_Stretch(counts, rips, places, pages, bits, code))

    def emulated(self, count: int, rip: int, data: bytes, bits: int) -> None:
        """An instruction that Python has carried out."""
        self._rows.append((count, rip, data, bits))

    def take(self) -> list[Row]:
        """The part's rows, by time and RIP: wherever the code at an address is another one than before."""
        codes: dict[int, tuple[bytes, int]] = {}
        for row in self._rows:
            rip, what = row[1], row[2:]
            if codes.setdefault(rip, what) != what or self._now.get(rip, what) != what:
                self._several.add(rip)
        if self._several:
            self._rows += self._of_several()
        new = []
        for row in sorted(set(self._rows)):
            if self._now.get(row[1]) != row[2:]:
                self._now[row[1]] = row[2:]
                new.append(row)
        self._rows.clear()
        self._stretches.clear()
        return new

    def _of_several(self) -> list[Row]:
        """Each execution of an address that has had several codes, on any CPU, that may not be as the one before."""
        wanted = np.array(sorted(self._several), dtype=np.uint64)
        found: list[Row] = []
        for counts, rips, places, pages, bits, code in self._stretches:
            at = np.flatnonzero(np.isin(rips, wanted))
            physical = pages.physical(rips[at], places[at])
            rows = zip(counts[at].tolist(), rips[at].tolist(), physical.tolist(), strict=True)
            found += [(count, rip, code[rip, start], bits) for count, rip, start in rows]
        return found
