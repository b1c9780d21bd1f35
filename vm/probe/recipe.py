"""How a trial is made, and what it comes to: all that the measuring process and the one that asks it share.

The measuring process (`child.py`) is told recipes by number, in an order that the seed has drawn: it knows of no question,
and judges nothing.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final, NamedTuple, TypedDict

CODE: Final = "code"
FRESH: Final = "fresh"
"""Pages: one that is full of RET, and one that is made anew for each trial, so that Dirty is clear in a writable entry."""

WRITE: Final = "write"
VMSPLICE: Final = "vmsplice"
SYSTEM_CALLS: Final = (WRITE, VMSPLICE)
"""Attacks by the kernel: it copies from the page by its address; it takes hold of the page (get_user_pages)."""


class Recipe(NamedTuple):
    """How one trial is made.

    Attributes:
        attack: a routine of gadgets.s, or one of `SYSTEM_CALLS`.
        page: `CODE` or `FRESH`.
        accessed: the entry has A set when the attack begins.
        aimed: at the page; else the same attack goes to another page, and nothing asks for this one.
        cached: the entry's translation is in the TLB when the attack begins, with A set: A was cleared behind it.
        follow: routine that accesses the page architecturally in the end, with A clear: it stays clear where the attack had
            left a translation in the TLB.  "" for none.
        sealed: attacked is a mapping that may be read and nothing else.
    """

    attack: str
    page: str = CODE
    accessed: bool = False
    aimed: bool = True
    cached: bool = False
    follow: str = ""
    sealed: bool = False


class Bits(IntFlag):
    """What the kernel says of a page's entry.

    `Referenced` and dirty in smaps are each the entry's bit *or* a flag of the page. A second entry of the same page, which
    nothing uses, shows the flag.
    """

    ACCESSED = 1
    DIRTY = 2
    PAGE_ACCESSED = 4
    PAGE_DIRTY = 8


NOT_FAULTED: Final = (1 << 64) - 1
"""In place of the ticks: what should have faulted has not (gadgets.s)."""


class Observation(NamedTuple):
    """What was seen of one trial.

    Attributes:
        recipe: its number.
        before: bits when the attack begins.
        after: bits when it is over.
        cached: the access that follows left A clear; False where none follows.
        ticks: that the reload of the line took; 0 after a system call, which is not timed.
    """

    recipe: int
    before: Bits
    after: Bits
    cached: bool
    ticks: int


class Job(TypedDict):
    """What the process is told.

    Attributes:
        code: the routines, in hexadecimal digits.
        at: offset of each, by name.
        cpu: to run on; None for the last that may be used.
        recipes: as lists.
        trials: recipe and rounds of training, in order.
        naive: lines are flushed and reloaded by the very entry that is asked about: what the method is kept from.
    """

    code: str
    at: dict[str, int]
    cpu: int | None
    recipes: list[list[object]]
    trials: list[tuple[int, int]]
    naive: bool
