"""Delta debugging: as much left out of a list as can be, while what is wanted still comes.

ddmin of Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28(2), 2002, figure 4,
without its reduction to a subset: that a small part is enough by itself is rare for a schedule, where most items are
needed to come to where it matters, and costs as many trials as the complements, which come to the same a little later.

The order of trials, and why:

1. Large pieces before small ones: halves, quarters, ... down to single items. Where much is irrelevant, a trial that
   leaves out half saves hundreds that leave out one.
2. From the front: what is early decides most of what comes behind it, so what is left out there makes all further
   trials shorter.
3. After a success the pieces stay about as large as they were (one fewer of them), and it begins at the front again: an
   item may have been needed only by one that is gone.

Nothing is drawn by chance and no clock is read: the same list and the same answers give the same result. There may be
several lists of which nothing can be left out; this is one of them, and need not be the shortest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Attempt = Callable[[list[T]], Sequence[T] | None]


def _never() -> bool:
    return False


def ddmin(items: Sequence[T], fails: Callable[[list[T]], bool], spent: Callable[[], bool] = _never) -> list[T]:
    """As many items left out as possible while it still fails.

    Args:
        items: with which it fails.
        fails: whether it does with some of them, in order.
        spent: whether to be content with what has been found; asked before each trial.

    Returns:
        Items of which no single one can be left out, unless it was spent before.
    """
    return reduced(items, lambda some: some if fails(some) else None, spent)


def reduced(items: Sequence[T], attempt: Attempt[T], spent: Callable[[], bool] = _never) -> list[T]:
    """The same where a trial may leave out more than it was asked to: what could not be used without the rest.

    Args:
        items: with which it fails.
        attempt: with some of them, in order: those that were used, if it failed, or None.
        spent: as in `ddmin`.

    Returns:
        As `ddmin`. If an attempt has left out so much that fewer items are left than there were to be pieces, it ends
        there, and single items have not been tried: ask again, with large pieces, until nothing changes.
    """
    found, pieces = list(items), 2
    while found and pieces <= max(2, len(found)) and not spent():
        size = max(1, -(-len(found) // pieces))
        for start in range(0, len(found), size):
            if spent():
                break
            used = attempt(found[:start] + found[start + size :])
            if used is not None:
                found, pieces = list(used), max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(found), 2 * pieces)
    return found
