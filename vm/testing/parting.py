"""Where two things that should be the same part, in words.

An assertion that compares long values has pytest compare them line by line, which takes minutes where it shows all of it (`-vv`,
and wherever `CI` is set).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

NOTHING: Final = object()


def parting(one: Sequence[object], other: Sequence[object]) -> str:
    """The first place at which two sequences differ; empty where they are the same.

    Args:
        one: as it should be.
        other: as it is.
    """
    for number, (expected, found) in enumerate(zip_longest(one, other, fillvalue=NOTHING)):
        if expected != found:
            return f"number {number} is {_shown(found)}, and was {_shown(expected)}"
    return ""


def _shown(value: object) -> str:
    return "missing" if value is NOTHING else repr(value)
