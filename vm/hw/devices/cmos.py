"""CMOS memory and its clock, ports 70H and 71H (Motorola MC146818 data sheet; no SDM section).

The clock stands still at one date, so that a run depends on nothing of the host. The cells where a
PC's firmware leaves the memory size are filled in.

Not modelled: time passing, alarms, periodic interrupts, the NMI mask in bit 7 of the index.
"""

from __future__ import annotations

import enum
from typing import Final

CMOS_PORT: Final = 0x70
CMOS_PORTS: Final = 2

_INDEX_BITS: Final = 0x7F
_CELLS: Final = 128
_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_BASE_MEMORY_KIB: Final = 640


class CmosRegister(enum.IntEnum):
    """Where things are; two-byte values have their low byte first."""

    SECONDS = 0x00
    MINUTES = 0x02
    HOURS = 0x04
    WEEKDAY = 0x06
    DAY = 0x07
    MONTH = 0x08
    YEAR = 0x09
    STATUS_A = 0x0A
    STATUS_B = 0x0B
    STATUS_C = 0x0C
    STATUS_D = 0x0D
    BASE_KIB = 0x15
    EXTENDED_KIB = 0x17
    EXTENDED_KIB_AGAIN = 0x30
    CENTURY = 0x32
    ABOVE_16M_64KIB = 0x34
    ABOVE_4G_64KIB = 0x5B


class _Port(enum.IntEnum):
    INDEX = 0
    DATA = 1


_READ_ONLY: Final = frozenset({CmosRegister.STATUS_C, CmosRegister.STATUS_D})
# Saturday 1 January 2000, 00:00:00, in BCD.
# Status A: 32.768 kHz base, 1024 Hz; B: 24 hours; D: valid.
_FIXED: Final = {
    CmosRegister.WEEKDAY: 0x07,
    CmosRegister.DAY: 0x01,
    CmosRegister.MONTH: 0x01,
    CmosRegister.CENTURY: 0x20,
    CmosRegister.STATUS_A: 0x26,
    CmosRegister.STATUS_B: 0x02,
    CmosRegister.STATUS_D: 0x80,
}


def _initial(memory: int) -> bytes:
    cells = bytearray(_CELLS)
    for cell, value in _FIXED.items():
        cells[cell] = value

    def put(cell: CmosRegister, value: int, width: int) -> None:
        most = (1 << 8 * width) - 1
        cells[cell : cell + width] = min(max(value, 0), most).to_bytes(width, "little")

    low = min(memory, 4 * _GIB)
    extended = min((low - _MIB) // _KIB, 0xFFFF)
    put(CmosRegister.BASE_KIB, _BASE_MEMORY_KIB, 2)
    put(CmosRegister.EXTENDED_KIB, extended, 2)
    put(CmosRegister.EXTENDED_KIB_AGAIN, extended, 2)
    put(CmosRegister.ABOVE_16M_64KIB, (low - 16 * _MIB) // (64 * _KIB), 2)
    put(CmosRegister.ABOVE_4G_64KIB, (memory - 4 * _GIB) // (64 * _KIB), 3)
    return bytes(cells)


class Cmos:
    """The index and data ports of a machine with `memory` bytes of RAM."""

    label = "cmos"

    def __init__(self, memory: int) -> None:
        self._cells = _initial(memory)
        self._index = 0

    def read(self, offset: int, size: int) -> int:
        """The selected cell, from the data port; the index port cannot be read."""
        return self._cells[self._index] if offset == _Port.DATA else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a cell, or store a byte in it."""
        if offset == _Port.INDEX:
            self._index = value & _INDEX_BITS
        elif offset == _Port.DATA and self._index not in _READ_ONLY:
            at = self._index
            self._cells = self._cells[:at] + bytes([value & 0xFF]) + self._cells[at + 1 :]

    def snapshot(self) -> tuple[int, bytes]:
        """Index and cells."""
        return self._index, self._cells

    def restore(self, state: tuple[int, bytes]) -> None:
        """Become what `snapshot` returned."""
        self._index, self._cells = state
