"""fw_cfg: what firmware and test kernels ask QEMU about the machine (QEMU docs/specs/fw_cfg).

A 16-bit write to the first port selects an item, byte reads from the second give its bytes in
turn. Only the items that kernels here ask for exist; all others, and bytes past an end, are 0.

Not modelled: the DMA interface (the ID says it is absent), the file directory, writing items.
"""

from __future__ import annotations

import enum
from typing import Final

FWCFG_PORT: Final = 0x510
FWCFG_PORTS: Final = 2


class Item(enum.IntEnum):
    """Selector keys."""

    SIGNATURE = 0x0000
    ID = 0x0001
    NB_CPUS = 0x0005
    MAX_CPUS = 0x000F


class _Port(enum.IntEnum):
    SELECTOR = 0
    DATA = 1


_TRADITIONAL_INTERFACE: Final = 1
_SELECTOR_BYTES: Final = 2


class FwCfg:
    """The selector and data ports of a machine with `cpus` CPUs, at most `max_cpus`."""

    label = "fw_cfg"
    port_sizes = (1, 2)

    def __init__(self, cpus: int, max_cpus: int | None = None) -> None:
        most = cpus if max_cpus is None else max_cpus
        self._items = {
            int(Item.SIGNATURE): b"QEMU",
            int(Item.ID): _TRADITIONAL_INTERFACE.to_bytes(4, "little"),
            int(Item.NB_CPUS): cpus.to_bytes(2, "little"),
            int(Item.MAX_CPUS): most.to_bytes(2, "little"),
        }
        self._selected = 0
        self._position = 0

    def read(self, offset: int, size: int) -> int:
        """The selected item's next byte, from the data port; other reads give 0."""
        if offset != _Port.DATA or size != 1:
            return 0
        item = self._items.get(self._selected, b"")
        if self._position >= len(item):
            return 0
        self._position += 1
        return item[self._position - 1]

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item from its start, by a 16-bit write to the selector; else ignored."""
        if offset == _Port.SELECTOR and size == _SELECTOR_BYTES:
            self._selected = value
            self._position = 0

    def snapshot(self) -> tuple[int, int]:
        """Selected key, position in the item (bytes)."""
        return self._selected, self._position

    def restore(self, state: tuple[int, int]) -> None:
        """Become what `snapshot` returned."""
        self._selected, self._position = state
