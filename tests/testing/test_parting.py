"""Where two sequences part."""

from __future__ import annotations

import pytest

from kstack.testing.parting import parting


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ([], [], ""),
        ([1, 2], [1, 2], ""),
        ([1, 2, 3], [1, 5, 6], "number 1 is 5, and was 2"),
        ([1, 2], [1], "number 1 is missing, and was 2"),
        ([1], [1, None], "number 1 is None, and was missing"),
        (["a"], ["b"], "number 0 is 'b', and was 'a'"),
    ],
)
def test_the_first_place_at_which_they_differ(one: list[object], other: list[object], said: str) -> None:
    assert parting(one, other) == said
