"""Values are told apart by their bytes, and nothing is told apart that is the same."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstack.base.encoding import encoded

scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner).map(tuple))


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Number(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    first: int
    second: int


@dataclass
class Record:
    first: int
    second: int


class Other:
    """Two of these say the same of themselves."""

    def __repr__(self) -> str:
        return "the same"


def exact(value: object) -> object:
    """A value with its types: 1 equals True, and is another value."""
    return (type(value), tuple(map(exact, value)) if isinstance(value, tuple) else value)


@given(values, values)
def test_values_have_the_same_bytes_if_they_are_the_same(one: object, other: object) -> None:
    assert (encoded(one) == encoded(other)) == (exact(one) == exact(other))


@given(values, values)
def test_none_is_the_beginning_of_another(one: object, other: object) -> None:
    assert encoded(one) == encoded(other) or not encoded(one).startswith(encoded(other))


def test_of_a_class_its_name_counts_too() -> None:
    different = [1, True, Number.ONE, Colour.RED, Colour.BLUE, (1, 2), Pair(1, 2), Pair(2, 1), Record(1, 2), "1", b"1"]
    different += [1.0, frozenset({1}), frozenset({1, 2}), {1: 2}, {2: 1}, None, (), ((),), ((), ()), (1, 2, 3, 4, 5)]
    different += [(1, 2, 3, 4, True), (1, 2, 3, 4, -5), (1, 2, 3, 4, 1 << 64), "", b""]
    for one, other in combinations(different, 2):
        assert encoded(one) != encoded(other), (one, other)


def test_no_order_shows_of_what_has_none() -> None:
    assert encoded({1: 2, 3: 4}) == encoded({3: 4, 1: 2})
    assert encoded(frozenset(range(100))) == encoded(frozenset(reversed(range(100))))


def test_what_nobody_knows_is_refused_whatever_it_says_of_itself() -> None:
    for value in (Other(), [1], {1}, (1, Other())):
        with pytest.raises(TypeError, match="a state holds a"):
            encoded(value)
