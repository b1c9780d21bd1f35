"""Names of a guest's addresses: symbol+offset, both ways."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Symbol(NamedTuple):
    """A named address; `size` in bytes, 0 where unknown."""

    name: str
    address: int
    size: int
    is_code: bool


class Symbols:
    """The symbol table of one image.

    Args:
        symbols: in any order.
    """

    def __init__(self, symbols: Sequence[Symbol]) -> None:
        self._sorted = sorted(symbols, key=lambda symbol: (symbol.address, symbol.name))
        self._addresses = [symbol.address for symbol in self._sorted]
        self._by_name = {symbol.name: symbol for symbol in self._sorted}

    def __len__(self) -> int:
        return len(self._sorted)

    def address(self, name: str) -> int | None:
        """The address of `name`, None if there is no such symbol."""
        symbol = self._by_name.get(name)
        return None if symbol is None else symbol.address

    def near(self, address: int, within: int = 1 << 12) -> list[int]:
        """Addresses of symbols from `within` bytes below an address up to it."""
        first, last = bisect_left(self._addresses, address - within), bisect_right(self._addresses, address)
        return sorted(set(self._addresses[first:last]))

    def name(self, address: int, within: int = 1 << 16) -> str:
        """`symbol+offset` for an address, or its hex form if no symbol is near (`within` bytes)."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0 or address - self._addresses[at] >= within:
            return f"{address:#x}"
        symbol = self._sorted[at]
        offset = address - symbol.address
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name
