"""Who touches what: learned while moves are made, and relied upon to make fewer of them.

Things are named, and touched in one of four ways: read or written whole, or, of a frame, a word of it read or written
(then that word is read or written whole as well). Names and CPUs are the same in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

READ, WRITE, READ_IN, WRITE_IN = range(4)
Touch = tuple[str, int]
"""A thing's name, and the way in which it is touched."""
Masks = tuple[int, int, int, int]
"""CPUs, as bits, that touch a thing in each of the ways."""
Claim = tuple[str, int, int]
"""A thing's name, the way in which a CPU touches it, and the CPU."""

_CONFLICTS: Final = {
    READ: (WRITE, WRITE_IN),
    WRITE: (READ, WRITE, READ_IN, WRITE_IN),
    READ_IN: (WRITE,),
    WRITE_IN: (READ, WRITE),
}
_NOBODY: Final[Masks] = (0, 0, 0, 0)


class Locality:
    """Who touches what.

    Args:
        touched: by name, the CPUs that touch it.
        relied: claims, each with the CPUs (as bits) on whose not touching the same a search has relied.
    """

    def __init__(self, touched: Mapping[str, Masks] | None = None, relied: Mapping[Claim, int] | None = None) -> None:
        self.touched = dict(touched or {})
        self.relied = dict(relied or {})

    def conflicts(self, cpu: int, touches: Iterable[Touch]) -> int:
        """The other CPUs (as bits) that are known to touch any of this in a way that does not commute."""
        found = 0
        for name, way in touches:
            masks = self.touched.get(name)
            if masks is not None:
                for other in _CONFLICTS[way]:
                    found |= masks[other]
        return found & ~(1 << cpu)

    def touch(self, cpu: int, touches: Iterable[Touch]) -> None:
        """Learn what a CPU touches."""
        bit = 1 << cpu
        for name, way in touches:
            found = self.touched.get(name, _NOBODY)
            if not found[way] & bit:
                self.touched[name] = (*found[:way], found[way] | bit, *found[way + 1 :])  # type: ignore[assignment] # four

    def rely(self, cpu: int, touches: Iterable[Touch], others: int) -> None:
        """Note that other CPUs (as bits) were taken not to conflict with what a CPU touches."""
        for name, way in touches:
            claim = (name, way, cpu)
            self.relied[claim] = self.relied.get(claim, 0) | others

    def add(self, other: Locality) -> bool:
        """Take in what was learned elsewhere; whether anybody touches what he was not known to touch."""
        more = False
        for name, masks in other.touched.items():
            old = self.touched.get(name, _NOBODY)
            new = self.touched[name] = (old[0] | masks[0], old[1] | masks[1], old[2] | masks[2], old[3] | masks[3])
            more = more or new != old
        for claim, others in other.relied.items():
            self.relied[claim] = self.relied.get(claim, 0) | others
        return more

    @property
    def broken(self) -> bool:
        """Whether a CPU touches what it was relied upon not to touch."""
        return any(self.conflicts(cpu, ((name, way),)) & others for (name, way, cpu), others in self.relied.items())
