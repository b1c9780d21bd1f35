"""What a test's item has run guests on, kept with the item: the plugin tells of it when the test fails.

Imports nothing but pytest, as the plugin that every run of the environment loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from kstack.testing.bench import Bench

_BENCH: Final = pytest.StashKey["Bench"]()


def watch(item: pytest.Item, bench: Bench) -> None:
    """Let an item's failure tell of what a bench has run."""
    item.stash[_BENCH] = bench


def bench_of(item: pytest.Item) -> Bench | None:
    """The bench of an item, if it has run anything."""
    return item.stash.get(_BENCH, None)
