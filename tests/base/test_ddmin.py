"""ddmin: what is left is needed, in its order, after few trials; and it ends when it is told to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kstack.base.ddmin import ddmin, reduced


@given(st.lists(st.integers(0, 9), max_size=12), st.sets(st.integers(0, 9), max_size=3))
def test_what_is_needed_is_left_and_nothing_else(items: list[int], needed: set[int]) -> None:
    needed &= set(items)
    found = ddmin(items, lambda some: needed <= set(some))
    assert sorted(found) == sorted(needed)


def test_the_order_stays_and_it_stops_when_it_is_spent() -> None:
    tried: list[list[int]] = []

    def fails(some: list[int]) -> bool:
        tried.append(some)
        return 3 in some and 11 in some

    assert ddmin(list(range(16)), fails) == [3, 11]
    tried.clear()
    found = ddmin(list(range(16)), fails, lambda: len(tried) >= 3)
    assert len(tried) == 3
    assert set(found) >= {3, 11}


def test_large_pieces_are_left_out_first_and_from_the_front() -> None:
    tried: list[list[int]] = []

    def fails(some: list[int]) -> bool:
        tried.append(some)
        return 5 in some

    assert ddmin(range(8), fails) == [5]
    assert tried == [[4, 5, 6, 7], [6, 7], [4, 5], [5], []]


def test_pieces_stay_as_small_as_they_had_to_be() -> None:
    tried: list[str] = []

    def fails(some: list[str]) -> bool:
        tried.append("".join(some))
        return {"a", "f"} <= set(some)

    assert ddmin("abcdef", fails) == ["a", "f"]
    assert tried == ["def", "abc", "cdef", "abef", "ef", "ab", "bef", "aef", "ef", "af", "f", "a"]


def test_it_goes_on_with_what_was_used() -> None:
    tried: list[list[int]] = []

    def used(some: list[int]) -> list[int] | None:
        tried.append(some)
        return [item for item in some if item > 5] if 7 in some else None

    assert reduced(range(8), used) == [7]
    assert tried == [[4, 5, 6, 7], [7], []]


def test_what_could_not_be_used_is_left_out_with_what_it_needed() -> None:
    """Items are used as long as they are one more than the one before."""
    trials = 0

    def used(some: list[int]) -> list[int] | None:
        nonlocal trials
        trials += 1
        kept = [item for place, item in enumerate(some) if place == 0 or item <= some[place - 1] + 1]
        return kept if 9 in kept else None

    once = reduced(range(10), used)
    while (again := reduced(once, used)) != once:
        once = again
    assert once == [9]
    assert trials < 10
