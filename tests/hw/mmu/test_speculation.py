"""What a fill that no instruction asked for does to Accessed, at each level, by each reading of SDM 4.10.2.3 and 4.10.3.1."""

from __future__ import annotations

from typing import Final

import pytest

from kstack.hw.mmu.mmu import Mmu
from kstack.hw.mmu.speculation import prefetch
from kstack.hw.modes import READINGS, Modes
from kstack.x86.entries import LEVELS, RW, A, D, P
from tests.support.long_mode import AREA, RAM, LongModeGuest

SIZES: Final = {"4K": 12, "2M": 21, "1G": 30}
CLEAR_AT: Final = [
    pytest.param(leaf, level, id=f"{size}-{LEVELS[level]}")
    for size, leaf in SIZES.items()
    for level in LEVELS
    if level >= leaf
]
"""A page size, and one of the levels that a walk to such a page passes."""
NEIGHBOUR: Final = AREA + 4096


def mapped(reading: str, leaf: int = 12, without: int | None = None) -> LongModeGuest:
    """A guest whose page at AREA, never touched, has A=1 and D=0, but A clear at one level."""
    guest = LongModeGuest(modes=Modes(speculation=reading))
    guest.map(AREA, 0 if leaf > 12 else guest.frame(7), P | RW | A, shift=leaf)
    if without is not None:
        clear_accessed(guest, without)
    return guest


def clear_accessed(guest: LongModeGuest, level: int) -> None:
    """A is cleared at a level, and nothing is invalidated."""
    where = guest.entry(AREA, level)
    guest.memory.write64(where, guest.memory.read64(where) & ~A)


def everything(guest: LongModeGuest) -> bytes:
    """All of memory."""
    return bytes(guest.memory.read(0, RAM))


def accessed(guest: LongModeGuest, level: int) -> bool:
    """Whether A is set at a level."""
    return bool(guest.memory.read64(guest.entry(AREA, level)) & A)


def mmu_of(guest: LongModeGuest) -> Mmu:
    """Of the guest's CPU."""
    return guest.machine.cpus[0].mmu


def caches(guest: LongModeGuest) -> bool:
    """Whether a translation of AREA is cached."""
    return mmu_of(guest).data.lookup(AREA, 0) is not None


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("leaf", SIZES.values(), ids=SIZES)
def test_where_every_level_has_accessed_a_fill_caches_and_changes_nothing(reading: str, leaf: int) -> None:
    guest = mapped(reading, leaf)
    before = everything(guest)
    assert prefetch(mmu_of(guest), AREA)
    assert caches(guest)
    assert everything(guest) == before, "D neither"


@pytest.mark.parametrize(("leaf", "level"), CLEAR_AT)
def test_where_it_needs_accessed_a_level_without_it_stops_a_fill_which_changes_nothing(leaf: int, level: int) -> None:
    guest = mapped("needs-accessed", leaf, without=level)
    before = everything(guest)
    assert not prefetch(mmu_of(guest), AREA)
    assert not caches(guest)
    assert everything(guest) == before
    assert guest.load(AREA) is not None
    assert accessed(guest, level), "an access sets it"


@pytest.mark.parametrize(("leaf", "level"), CLEAR_AT)
def test_where_it_sets_accessed_a_fill_sets_it_at_any_level_and_nothing_else(leaf: int, level: int) -> None:
    guest = mapped("sets-accessed", leaf)
    filled = everything(guest)
    clear_accessed(guest, level)
    assert prefetch(mmu_of(guest), AREA)
    assert caches(guest)
    assert everything(guest) == filled


@pytest.mark.parametrize(("leaf", "level"), CLEAR_AT)
def test_where_it_keeps_accessed_clear_a_fill_caches_and_changes_nothing(leaf: int, level: int) -> None:
    guest = mapped("keeps-accessed-clear", leaf, without=level)
    before = everything(guest)
    assert prefetch(mmu_of(guest), AREA)
    assert caches(guest)
    assert everything(guest) == before


@pytest.mark.parametrize("reading", READINGS)
def test_without_speculation_or_without_a_page_nothing_is_cached(reading: str) -> None:
    guest = mapped("none")
    assert not prefetch(mmu_of(guest), AREA)
    empty = LongModeGuest(modes=Modes(speculation=reading))
    empty.entry(AREA)
    before = everything(empty)
    assert not prefetch(mmu_of(empty), AREA)
    assert not caches(guest) | caches(empty)
    assert reading == "sets-accessed" or everything(empty) == before


# --- structure caches (4.10.3)


@pytest.mark.parametrize("level", [39, 30, 21])
def test_a_fill_that_begins_below_an_upper_entry_does_not_ask_what_it_says_by_now(level: int) -> None:
    """It was cached with A=1: 4.10.3.2 lets any walk begin behind it."""
    guest = mapped("needs-accessed")
    guest.map(NEIGHBOUR, guest.frame())
    assert guest.load(NEIGHBOUR) == 0
    clear_accessed(guest, level)
    before = everything(guest)
    assert prefetch(mmu_of(guest), AREA)
    assert everything(guest) == before


def test_of_a_page_whose_leaf_has_accessed_clear_structure_caches_do_not_help() -> None:
    guest = mapped("needs-accessed", without=12)
    guest.map(NEIGHBOUR, guest.frame())
    assert guest.load(NEIGHBOUR) == 0
    assert not prefetch(mmu_of(guest), AREA)
    assert not accessed(guest, 12)


@pytest.mark.parametrize("level", [39, 30, 21])
@pytest.mark.parametrize("reading", READINGS)
def test_an_upper_entry_is_cached_by_a_fill_as_a_translation_is(reading: str, level: int) -> None:
    """What is cached of an upper entry that was replaced since leads a later walk to the page that was there."""
    guest = mapped(reading, without=level)
    prefetch(mmu_of(guest), AREA)
    mmu_of(guest).data.drop_page(AREA, 0, True)
    assert guest.store(guest.entry(AREA, level), 0)
    assert (guest.load(AREA) is None) == (reading == "needs-accessed")


def test_upper_entries_with_accessed_are_cached_though_the_leaf_has_it_clear() -> None:
    guest = mapped("needs-accessed", without=12)
    assert not prefetch(mmu_of(guest), AREA)
    assert guest.store(guest.entry(AREA, 21), 0)
    assert guest.load(AREA) == 7


def test_a_clean_entry_stays_clean_until_a_store() -> None:
    guest = mapped("needs-accessed")
    assert prefetch(mmu_of(guest), AREA)
    assert not guest.memory.read64(guest.entry(AREA)) & D
    assert guest.store(AREA, 5)
    assert guest.memory.read64(guest.entry(AREA)) & D
