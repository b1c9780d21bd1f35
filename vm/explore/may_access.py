"""What each CPU may access from where it stands: learned while moves are made, and relied upon to make fewer of them.

Locations are named, and accessed in one of four modes: read or written whole, or, of a frame, a word of it read or written
(then that word is read or written whole as well). Each mode of accessing a location is a bit. Where a CPU stands is a number
(`StateSpace.stands`); what it may access from there on is what is accessed by the moves that were seen to lead on from there.
Names and numbers are the same in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from kstack.explore.footprint import READ, READ_IN, WRITE, WRITE_IN, AccessMode, LocationAccess

Edge = tuple[int, int]
"""Where a CPU stood, and where it stands after a move."""

_MODES: Final = len(AccessMode)
_CONFLICTS: Final[Mapping[AccessMode, tuple[AccessMode, ...]]] = {
    READ: (WRITE, WRITE_IN),
    WRITE: (READ, WRITE, READ_IN, WRITE_IN),
    READ_IN: (WRITE,),
    WRITE_IN: (READ, WRITE),
}


class AccessBits(NamedTuple):
    """Accesses as bits: what is accessed, and all that conflicts with that."""

    accessed: int
    conflicting: int


class LearnedAccesses(NamedTuple):
    """What is to be added to `FutureAccesses`.

    Attributes:
        names: of locations, in the order of their bits.
        edges: what is accessed, as bits, on the way from one place to another.
    """

    names: Sequence[str]
    edges: Mapping[Edge, int]


class FutureAccesses:
    """What CPUs may access from where they stand.

    Attributes:
        names: of locations, each with the number of its first bit.
        future: by place: all that a CPU that stands there is known to access from there on, as bits.
        edges: what is accessed, as bits, on the way from one place to another.
    """

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.future: dict[int, int] = {}
        self.edges: dict[Edge, int] = {}
        self._before: dict[int, list[int]] = {}

    def bits(self, accesses: Iterable[LocationAccess]) -> AccessBits:
        """Accesses as bits; new names get the next ones."""
        accessed = conflicting = 0
        for name, mode in accesses:
            first = self.names.setdefault(name, _MODES * len(self.names))
            accessed |= 1 << first + mode
            for other in _CONFLICTS[mode]:
                conflicting |= 1 << first + other
        return AccessBits(accessed, conflicting)

    def add(self, learned: LearnedAccesses) -> list[int]:
        """Take in what was learned; the places from which more may be accessed than was known."""
        grown: dict[int, None] = {}
        numbers = [self.names.setdefault(name, _MODES * len(self.names)) for name in learned.names]
        as_here = numbers == list(range(0, _MODES * len(numbers), _MODES))
        for edge, found in learned.edges.items():
            self._connect(edge, found if as_here else _renumbered(found, numbers), grown)
        return list(grown)

    def _connect(self, edge: Edge, accessed: int, grown: dict[int, None]) -> None:
        """A move leads from one place to another; note from where more may be accessed by that."""
        here, there = edge
        if edge not in self.edges:
            self._before.setdefault(there, []).append(here)
        self.edges[edge] = self.edges.get(edge, 0) | accessed
        work = [(here, accessed | self.future.get(there, 0))]
        while work:
            place, found = work.pop()
            old = self.future.get(place, 0)
            if found & ~old:
                grown[place] = None
                self.future[place] = old | found
                work += [(before, old | found) for before in self._before.get(place, ())]


class Reliances:
    """Which states' expansions rely on what CPUs do not access from where they stand."""

    def __init__(self) -> None:
        self._found: dict[int, dict[int, list[int]]] = {}  # by place and bits: states

    def add(self, state: int, relied: Iterable[tuple[int, int]]) -> None:
        """A state's expansion relies on it that a CPU at each of these places does not access any of these bits."""
        for place, bits in relied:
            self._found.setdefault(place, {}).setdefault(bits, []).append(state)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Each state, with the place and the bits."""
        for place, relied in self._found.items():
            for bits, states in relied.items():
                for state in states:
                    yield state, place, bits

    def broken(self, known: FutureAccesses, places: Iterable[int]) -> list[int]:
        """Take out the states that have relied on what is not so.

        Args:
            known: what CPUs may access.
            places: from where more may be accessed than was known.
        """
        found: dict[int, None] = {}
        for place in places:
            relied, future = self._found.get(place, {}), known.future[place]
            for bits in [bits for bits in relied if bits & future]:
                found.update(dict.fromkeys(relied.pop(bits)))
        return sorted(found)


def _renumbered(bits: int, numbers: list[int]) -> int:
    """Bits by names' places in a list, as bits by the numbers of their first bits."""
    found, mask = 0, (1 << _MODES) - 1
    for at, first in enumerate(numbers):
        found |= (bits >> _MODES * at & mask) << first
    return found
