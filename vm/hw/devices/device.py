"""What a device is: a narrow part behind a port range or an MMIO range.

A device knows neither CPUs nor the bus it hangs on; whoever maps it turns guest accesses into
`read` and `write` with offsets from the start of its range.
"""

from __future__ import annotations

from typing import Any, Protocol


class Device(Protocol):
    """A part that guests reach by IN/OUT or by loads and stores."""

    label: str

    def read(self, offset: int, size: int) -> int:
        """The value at `offset` (bytes from the range's start), `size` bytes (1, 2, 4 or 8)."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Store `value` (unsigned, `size` bytes) at `offset`."""
        ...

    def snapshot(self) -> Any:
        """The whole state as an immutable value: nested tuples, ints, bytes, strings."""
        ...

    def restore(self, state: Any) -> None:
        """Become what `snapshot` returned."""
        ...
