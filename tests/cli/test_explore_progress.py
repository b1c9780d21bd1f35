"""The line that says how far a search is promises nothing that it cannot know."""

from __future__ import annotations

from kstack.cli.explore import LAYERS, left


def test_as_long_as_layers_grow_no_end_is_in_sight() -> None:
    assert left([5]) == "at least 5 left, and no end in sight"
    assert left([1, 2, 4, 8, 16, 32]) == "at least 32 left, and no end in sight"
    assert "no end in sight" in left([90, 80, 70, 71, 60, 50])


def test_when_they_shrink_the_last_shares_give_a_range() -> None:
    layers = [3200, 1600, 800, 400, 200, 150]
    assert len(layers) == LAYERS + 1
    assert left(layers) == "300 to 600 left if it goes on like this"
