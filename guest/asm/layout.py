"""Where sections go: virtual and physical addresses, permissions.

KERNEL_LAYOUT           virtual                 physical
.boot  .note            0x00100000 ...          the same
.text .rodata .data     0xffffffff80000000 +    next page after .boot ...
.bss                    (not in the file)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

PAGE = 4096
KERNEL_OFFSET = 0xFFFFFFFF80000000
"""Virtual minus physical address of the kernel's high half."""


class Access(Flag):
    """What a section's pages allow."""

    R = auto()
    W = auto()
    X = auto()


_RX = Access.R | Access.X
_RW = Access.R | Access.W
_RWX = _RX | Access.W


@dataclass(frozen=True)
class Placement:
    """One output section.

    It takes the input sections ``name`` and ``name.*``.  ``address`` is its virtual address in
    bytes, or None to follow the previous one (by physical address) at a multiple of ``align``;
    ``offset`` is virtual minus physical address; ``nobits`` sections take no room in the file.
    """

    name: str
    access: Access
    address: int | None = None
    offset: int = 0
    align: int = PAGE
    nobits: bool = False

    def takes(self, section: str) -> bool:
        """Whether an input section of this name belongs here."""
        return section == self.name or section.startswith(self.name + ".")


@dataclass(frozen=True)
class Layout:
    """Output sections in ascending physical order; the first needs an address.

    Sections that no placement takes go behind the last one that is not ``nobits``, with the
    access that their ``.section`` flags give them and that placement's offset.
    """

    placements: tuple[Placement, ...]

    @staticmethod
    def flat(address: int) -> Layout:
        """Everything in one run from ``address``, virtual = physical, all access allowed."""
        return Layout(
            (
                Placement(".text", _RWX, address, align=1),
                Placement(".rodata", _RWX, align=16),
                Placement(".data", _RWX, align=16),
                Placement(".bss", _RWX, align=16, nobits=True),
            )
        )


KERNEL_LAYOUT = Layout(
    (
        Placement(".boot", _RWX, 0x100000),
        Placement(".note", Access.R, align=4),
        Placement(".text", _RX, offset=KERNEL_OFFSET),
        Placement(".rodata", Access.R, offset=KERNEL_OFFSET),
        Placement(".data", _RW, offset=KERNEL_OFFSET),
        Placement(".bss", _RW, offset=KERNEL_OFFSET, nobits=True),
    )
)
"""The kernel's layout: boot code where it is loaded, the rest in the high half."""
