"""Who touches what from where on: learned while moves are made, and relied upon to make fewer of them.

Things are named, and touched in one of four ways: read or written whole, or, of a frame, a word of it read or written
(then that word is read or written whole as well). Each way of touching a thing is a bit. Where a CPU stands is a number
(`Memo.control`); what it can touch from there on is what is touched by the moves that were seen to lead on from there.
Names and numbers are the same in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

READ, WRITE, READ_IN, WRITE_IN = range(4)
Touch = tuple[str, int]
"""A thing's name, and the way in which it is touched."""
Edge = tuple[int, int]
"""Where a CPU stood, and where it stands after a move."""

_WAYS: Final = 4
_CONFLICTS: Final = {
    READ: (WRITE, WRITE_IN),
    WRITE: (READ, WRITE, READ_IN, WRITE_IN),
    READ_IN: (WRITE,),
    WRITE_IN: (READ, WRITE),
}


class Bits(NamedTuple):
    """Touches as bits: what is touched, and all that conflicts with that."""

    touched: int
    conflicting: int


class News(NamedTuple):
    """What is to be added to a `Locality`.

    Attributes:
        names: in the order of their bits.
        edges: what is touched, as bits, on the way from one place to another.
    """

    names: Sequence[str]
    edges: Mapping[Edge, int]


class Locality:
    """Who touches what from where on.

    Attributes:
        names: of things, each with the number of its first bit.
        future: by place: all that a CPU that stands there is known to touch from there on, as bits.
        edges: what is touched, as bits, on the way from one place to another.
    """

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.future: dict[int, int] = {}
        self.edges: dict[Edge, int] = {}
        self._before: dict[int, list[int]] = {}

    def bits(self, touches: Iterable[Touch]) -> Bits:
        """Touches as bits; new names get the next ones."""
        touched = conflicting = 0
        for name, way in touches:
            first = self.names.setdefault(name, _WAYS * len(self.names))
            touched |= 1 << first + way
            for other in _CONFLICTS[way]:
                conflicting |= 1 << first + other
        return Bits(touched, conflicting)

    def add(self, news: News) -> list[int]:
        """Take in what was learned; the places from which more can be touched than was known."""
        grown: dict[int, None] = {}
        numbers = [self.names.setdefault(name, _WAYS * len(self.names)) for name in news.names]
        as_here = numbers == list(range(0, _WAYS * len(numbers), _WAYS))
        for edge, found in news.edges.items():
            self._connect(edge, found if as_here else _renumbered(found, numbers), grown)
        return list(grown)

    def _connect(self, edge: Edge, touched: int, grown: dict[int, None]) -> None:
        """A move leads from one place to another; note from where more can be touched by that."""
        here, there = edge
        if edge not in self.edges:
            self._before.setdefault(there, []).append(here)
        self.edges[edge] = self.edges.get(edge, 0) | touched
        work = [(here, touched | self.future.get(there, 0))]
        while work:
            place, found = work.pop()
            old = self.future.get(place, 0)
            if found & ~old:
                grown[place] = None
                self.future[place] = old | found
                work += [(before, old | found) for before in self._before.get(place, ())]


class Reliances:
    """Which states' expansions rely on what CPUs do not touch from where they stand."""

    def __init__(self) -> None:
        self._found: dict[int, dict[int, list[int]]] = {}  # by place and bits: states

    def add(self, state: int, relied: Iterable[tuple[int, int]]) -> None:
        """A state's expansion relies on it that a CPU at each of these places does not touch any of these bits."""
        for place, bits in relied:
            self._found.setdefault(place, {}).setdefault(bits, []).append(state)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Each state, with the place and the bits."""
        for place, relied in self._found.items():
            for bits, states in relied.items():
                for state in states:
                    yield state, place, bits

    def broken(self, known: Locality, places: Iterable[int]) -> list[int]:
        """Take out the states that have relied on what is not so.

        Args:
            known: who touches what.
            places: from where more can be touched than was known.
        """
        found: dict[int, None] = {}
        for place in places:
            relied, future = self._found.get(place, {}), known.future[place]
            for bits in [bits for bits in relied if bits & future]:
                found.update(dict.fromkeys(relied.pop(bits)))
        return sorted(found)


def _renumbered(bits: int, numbers: list[int]) -> int:
    """Bits by names' places in a list, as bits by the numbers of their first bits."""
    found, mask = 0, (1 << _WAYS) - 1
    for at, first in enumerate(numbers):
        found |= (bits >> _WAYS * at & mask) << first
    return found
