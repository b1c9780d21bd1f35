"""Branch sizes: every branch starts short and grows until all reach their targets.

The passes are those of GNU as (``relax_segment``), so that the outcome is the same also where
alignment lets more than one assignment of sizes stand.  A branch to another section is near.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kstack.guest.asm.encode import Branch
from kstack.guest.asm.errors import AsmError
from kstack.guest.asm.expr import Linear
from kstack.guest.asm.section import Align, Chunk, Item, Jump, Label, Section, Space

_PASSES = 1000
_MOST_SPACE = 64 << 20

Locate = Callable[[str], tuple[Label, int] | None]
"""A symbol's position and the bytes after it, or None when it is no label."""


@dataclass
class Relaxed:
    """A section whose sizes are settled.

    ``offsets[i]`` is where item ``i`` begins, in bytes from the section's start; the last entry
    is the section's size.  ``near[i]`` tells whether a branch took its near form.
    """

    section: Section
    offsets: list[int]
    near: list[bool]


def length(branch: Branch, near: bool) -> int:
    """Size in bytes of a branch in its near or its short form."""
    return len(branch.near) + branch.near_size if near else len(branch.short) + 1


class Relaxer:
    """One section being relaxed."""

    def __init__(self, section: Section, locate: Locate) -> None:
        self.section, self.items, self._locate = section, section.items, locate
        self.near = [False] * len(self.items)
        self._targets: dict[int, tuple[int, int]] = {}
        self._regions = self._number_regions()
        for i, item in enumerate(self.items):
            if isinstance(item, Jump):
                target = self._target(item.branch.target)
                if target is None:
                    self.near[i] = True
                else:
                    self._targets[i] = target
        self.sizes = [self._first_size(i) for i in range(len(self.items))]
        self.offsets = [0] * (len(self.items) + 1)

    def _number_regions(self) -> list[int]:
        regions, region = [], 0
        for item in self.items:
            regions.append(region)
            region += isinstance(item, Align)
        return [*regions, region]

    def _target(self, value: Linear) -> tuple[int, int] | None:
        """The item before which a branch target lies and the bytes after it; None if elsewhere."""
        if len(value.terms) != 1 or value.terms[0][1] != 1:
            return None
        found = self._locate(value.terms[0][0])
        if found is None or found[0].section != self.section.name:
            return None
        return found[0].index, found[1] + value.const

    def _first_size(self, i: int) -> int:
        item = self.items[i]
        if isinstance(item, Chunk):
            return len(item.data)
        if isinstance(item, Jump):
            return length(item.branch, self.near[i])
        return 0

    def run(self) -> Relaxed:
        """Settle all sizes.

        Raises AsmError where they never settle, or a reserved space is negative.
        """
        self._lay_out()
        for _ in range(_PASSES):
            if not self._pass():
                return Relaxed(self.section, self.offsets, self.near)
        raise AsmError(self.section.place, f"{self.section.name}: sizes that depend on each other never settle")

    def _lay_out(self) -> None:
        """First addresses: branches short, alignment as it falls."""
        address = 0
        for i, item in enumerate(self.items):
            self.offsets[i] = address
            if isinstance(item, Align):
                self.sizes[i] = padding(item, address)
            address += self.sizes[i]
        self.offsets[-1] = address

    def _pass(self) -> bool:
        """One pass over the items; whether any size changed."""
        stretch, changed = 0, False
        for i, item in enumerate(self.items):
            self.offsets[i] += stretch
            size = self._size(i, item, stretch)
            if size != self.sizes[i]:
                stretch += size - self.sizes[i]
                self.sizes[i] = size
                changed = True
        self.offsets[-1] += stretch
        return changed

    def _size(self, i: int, item: Item, stretch: int) -> int:
        if isinstance(item, Align):
            return padding(item, self.offsets[i])
        if isinstance(item, Space):
            return self._space(item)
        if isinstance(item, Jump) and not self.near[i]:
            self.near[i] = not self._reaches(i, item.branch, stretch)
            return length(item.branch, self.near[i])
        return self.sizes[i]

    def _reaches(self, i: int, branch: Branch, stretch: int) -> bool:
        index, extra = self._targets[i]
        target = self.offsets[index] + extra
        end = self.offsets[i] + length(branch, near=False)
        if stretch and index > i:
            # The target has not been reached in this pass: assume that it moves as we did,
            # unless alignment between may absorb that.
            if stretch < 0 or self._regions[index] == self._regions[i]:
                target += stretch
            elif target < end:
                return True
        return -128 <= target - end <= 127

    def _space(self, item: Space) -> int:
        total = item.count.const
        for name, factor in item.count.terms:
            found = self._locate(name)
            if found is None or found[0].section != self.section.name:
                raise AsmError(item.place, "this count must come from labels of the same section")
            total += factor * (self.offsets[found[0].index] + found[1])
        if not 0 <= total <= _MOST_SPACE:
            raise AsmError(item.place, f"this would reserve {total} bytes: what precedes it is too long")
        return total


def padding(item: Align, address: int) -> int:
    """Bytes that an alignment takes at an address."""
    count = -address % item.boundary
    return count if count <= item.most else 0
