"""What lies where in RAM: the parts of an image at their addresses, and what its loader hands over beside them.

An image chooses its addresses, a loader finds room for its own structures outside all of them. It looks where firmware
and loaders of PCs have theirs and kernels expect none of their own, in this order:

    0x9000 up to 0x9fc00      the first choice; behind 0x8000, where many kernels start their other CPUs
    0x1000 up to 0x9000       the lowest that is free
    0x100000 up to RAM's end  the highest that is free: what follows an image is what its allocator begins with

    0 to 0x1000               never: the interrupt vector table
    0x9fc00 to 0x100000       never: a PC has firmware's data, video memory and ROMs there
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kstack.base.errors import ImageError
from kstack.hw.memory import MAX_RAM
from kstack.machine import Machine
from kstack.x86.addresses import PAGE

FIRST: Final = 0x9000
LOW_END: Final = 0x9FC00  # of the RAM below 1 MiB, as firmware reports it
HIGH: Final = 0x100000
_RESERVED: Final = ((0, PAGE), (LOW_END, HIGH))


class ImagePart(NamedTuple):
    """A part of an image: physical address, bytes, and size in memory; what is behind the bytes is zero."""

    address: int
    data: bytes
    size: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size


class Layout:
    """An image in RAM.

    Args:
        machine: fresh; nothing is written to it where an error is raised.
        name: what to call the image in errors.
        parts: in any order; those of size 0 are nowhere.

    Raises:
        ImageError: a part does not fit into RAM, or two overlap.
    """

    def __init__(self, machine: Machine, name: str, parts: Iterable[ImagePart]) -> None:
        self._memory, self._name = machine.memory, name
        self._parts = sorted(part for part in parts if part.size)
        self._taken = [*_RESERVED]
        for part in self._parts:
            self._check(part)
            self._taken.append((part.address, part.end))
        for before, after in zip(self._parts, self._parts[1:], strict=False):
            if before.end > after.address:
                raise ImageError(
                    f"{name}: two segments overlap in memory, {before.address:#x} to {before.end:#x} and "
                    f"{after.address:#x} to {after.end:#x}; give them addresses of their own"
                )
        for part in self._parts:
            self._memory.write(part.address, part.data)

    def _check(self, part: ImagePart) -> None:
        where = f"from {part.address:#x} to {part.end:#x}"
        if part.end > MAX_RAM:
            raise ImageError(
                f"{self._name}: is to be loaded {where}, and no machine has RAM there; give its segments physical "
                f"addresses below {MAX_RAM:#x} (in a linker script: AT)"
            )
        if part.end > self._memory.size:
            raise ImageError(
                f"{self._name}: needs RAM {where}, but the machine has {self._memory.size:#x} bytes; give more with --ram"
            )

    def entry(self, address: int) -> int:
        """`address`, if it is in the image.

        Raises:
            ImageError: it is in none of its parts.
        """
        if not any(part.address <= address < part.end for part in self._parts):
            raise ImageError(f"{self._name}: its entry {address:#x} is in none of the segments that are loaded")
        return address

    def room(self, size: int, what: str) -> int:
        """The address of pages outside the image and all that was given out before.

        Args:
            size: bytes, at least.
            what: it is for, in the error.

        Raises:
            ImageError: there is none.
        """
        size = _up(size)
        pieces = [(_up(start), end) for start, end in self._free() if _up(start) + size <= end]
        if not pieces:
            raise ImageError(f"{self._name}: leaves no room for {size:#x} bytes of {what} beside it; give more --ram")
        low = [start for start, end in pieces if end <= LOW_END]
        if any(start <= FIRST and FIRST + size <= end for start, end in pieces):
            at = FIRST
        elif low:
            at = next((start for start in low if start > FIRST), low[0])
        else:
            at = pieces[-1][1] - size & -PAGE
        self._taken.append((at, at + size))
        return at

    def _free(self) -> Iterator[tuple[int, int]]:
        """Start and end of each piece of RAM that nobody has."""
        at = 0
        for start, end in sorted(self._taken):
            if start > at:
                yield at, start
            at = max(at, end)
        if at < self._memory.size:
            yield at, self._memory.size


def _up(address: int) -> int:
    return address + PAGE - 1 & -PAGE
