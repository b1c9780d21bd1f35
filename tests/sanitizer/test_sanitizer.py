"""A sanitizer on a bare guest: no policy, no hypercalls, frames that a dictionary knows."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest

from kstack.load import Symbols
from kstack.sanitizer.findings import Finding, Kind
from kstack.sanitizer.frames import Frame, FrameState
from kstack.sanitizer.history import AnyOccurrence, Dropped, Filled, Used
from kstack.sanitizer.sanitizer import Sanitizer
from tests.support.long_mode import AREA, LongModeGuest


class Area(NamedTuple):
    """A page of somebody's."""

    name: str

    @property
    def label(self) -> str:
        return f"page of {self.name}"


class Book:
    """Frames by hand, and one page that somebody owns."""

    def __init__(self) -> None:
        self.frames: dict[int, Frame[Area]] = {}

    def life(self, frame: int) -> Frame[Area] | None:
        return self.frames.get(frame)

    def owner_at(self, address: int) -> Area | None:
        return Area("A") if address >> 12 == AREA >> 12 else None


@pytest.fixture
def guest() -> LongModeGuest:
    return LongModeGuest()


def watched(guest: LongModeGuest) -> tuple[Sanitizer, Book, int, int]:
    """A sanitizer, its book, and a page's leaf entry and frame, which has been read."""
    book, frame = Book(), guest.frame(7)
    sanitizer = Sanitizer(guest.machine, Symbols([]), book)
    guest.machine.instruments.add(sanitizer)
    leaf = guest.map(AREA, frame)
    book.frames[frame] = Frame(FrameState.MAPPED, Area("A"))
    assert guest.load(AREA) == 7
    return sanitizer, book, leaf, frame


def kinds(sanitizer: Sanitizer) -> list[Kind]:
    return [found.kind for found in sanitizer.findings]


@pytest.mark.parametrize(
    ("life", "now", "kind"),
    [
        (Frame(FrameState.POOL, None, Area("A"), "somebody"), "in the pool", Kind.USE_AFTER_FREE),
        (Frame(FrameState.MAPPED, Area("B"), Area("A")), "now page of B", Kind.STALE_TRANSLATION),
    ],
)
def test_the_use_of_a_translation_whose_frame_has_gone_is_found(
    guest: LongModeGuest, life: Frame[Area], now: str, kind: Kind
) -> None:
    sanitizer, book, leaf, frame = watched(guest)
    guest.memory.write64(leaf, 0)
    book.frames[frame] = life
    assert guest.load(AREA) == 7, "through what is cached"
    (found,) = sanitizer.findings
    assert (found.kind, found.frame, found.freed_by) == (kind, frame, life.freed_by)
    assert (
        f"read page of A at {AREA:#x} through its cached translation to frame {frame:#x}, which is {now}" in found.text
    )
    assert [type(one) for one in found.history] == [Filled, Used]


def test_a_translation_that_is_dropped_in_time_is_no_finding_and_the_drop_is_history(guest: LongModeGuest) -> None:
    sanitizer, book, leaf, frame = watched(guest)
    guest.memory.write64(leaf, 0)
    guest.run("invlpg [rbx]", rbx=AREA)
    book.frames[frame] = Frame(FrameState.POOL, None, Area("A"))
    assert guest.load(AREA) is None
    assert kinds(sanitizer) == []
    assert [one.text for one in sanitizer.occurrences[AREA]] == [
        f"TLB fill: page of A -> frame {frame:#x}",
        f"TLB drop: page of A -> frame {frame:#x} (INVLPG)",
    ]


def test_nobody_s_frames_are_nobody_s_business(guest: LongModeGuest) -> None:
    sanitizer, book, leaf, frame = watched(guest)
    book.frames.clear()
    guest.memory.write64(leaf, 0)
    assert guest.load(AREA) == 7
    assert kinds(sanitizer) == []
    assert sanitizer.last_stale is not None


def test_an_access_that_could_have_gone_two_ways_is_exercised(guest: LongModeGuest) -> None:
    sanitizer, _, leaf, _ = watched(guest)
    assert sanitizer.exercised == 0
    guest.memory.write64(leaf, guest.memory.read64(leaf) ^ 0x100000)
    guest.run("invlpg [rbx]", rbx=AREA)
    guest.load(AREA)
    assert sanitizer.exercised == 1


def test_occurrences_keep_their_kinds_in_files() -> None:
    history: tuple[AnyOccurrence, ...] = (
        Filled(1, 0, AREA, "page of A", 0x1000),
        Dropped(2, 0, AREA, "page of A", 0x1000, "INVLPG"),
    )
    found = Finding(Kind.LEAK, 0, "s", 0, 3, "t", history=history)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Finding) == found
