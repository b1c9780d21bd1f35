"""The adversary of a guest without a policy: it speculates on the pages whose entries have changed lately."""

from __future__ import annotations

import random
import struct
from copy import copy
from typing import Final

import pytest

from kstack.hw.memory import PhysicalMemory
from kstack.hw.modes import Modes
from kstack.run.changed_entries import MOST_PAGES, MOST_TABLES, ChangedEntries
from kstack.run.session import Session
from kstack.x86.addresses import PAGE, canonical
from kstack.x86.entries import PS, RW, A, D, P
from tests.support.probes import session_of
from tests.support.whole import everything

ROOT, POINTERS, DIRECTORY, LEAVES = (number * PAGE for number in (1, 2, 3, 4))
FRAME: Final = 0x40000
ADVERSARIAL = Modes(tlb="adversarial", speculation="keeps-accessed-clear")


class Tables:
    """One path of tables down to one table of leaves, in memory of its own; linear address 0 is its first page."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(1 << 20)
        self.seen = ChangedEntries(self.memory)
        for table, below in ((ROOT, POINTERS), (POINTERS, DIRECTORY), (DIRECTORY, LEAVES)):
            self.store(table, 0, below | RW | P)

    def store(self, table: int, index: int, entry: int) -> None:
        self.memory.write(table + index * 8, struct.pack("<Q", entry))

    def pages(self, *roots: int) -> tuple[int, ...]:
        self.seen.look(roots or (ROOT,))
        return self.seen.pages


def test_a_page_counts_when_its_entry_has_changed_the_last_one_at_the_end() -> None:
    tables = Tables()
    assert tables.pages() == ()
    for index in (5, 3, 5):
        tables.store(LEAVES, index, FRAME + index * PAGE | P)
        tables.pages()
        tables.store(LEAVES, index, FRAME | P)
    assert tables.pages() == (3 * PAGE, 5 * PAGE)


def test_what_a_walk_sets_is_no_change_and_what_is_cleared_is() -> None:
    tables = Tables()
    tables.store(LEAVES, 1, FRAME | P)
    tables.store(LEAVES, 2, FRAME | P | A | D)
    assert tables.pages() == (PAGE, 2 * PAGE)
    tables.store(LEAVES, 1, FRAME | P | A | D)
    assert tables.pages() == (PAGE, 2 * PAGE)
    tables.store(LEAVES, 1, FRAME | P | A)
    assert tables.pages() == (2 * PAGE, PAGE)
    tables.store(LEAVES, 2, FRAME | P | D)
    assert tables.pages() == (PAGE, 2 * PAGE)


def test_what_is_not_present_any_more_is_no_change() -> None:
    tables = Tables()
    tables.store(LEAVES, 1, FRAME | P)
    tables.store(LEAVES, 2, FRAME | P)
    tables.pages()
    tables.store(LEAVES, 1, 0)
    assert tables.pages() == (PAGE, 2 * PAGE)


def test_large_pages_and_tables_that_are_put_in_count_too() -> None:
    tables = Tables()
    tables.pages()
    tables.store(DIRECTORY, 7, PS | P)
    assert tables.pages() == (7 << 21,)
    tables.store(LEAVES + PAGE, 9, FRAME | P)
    assert tables.pages() == (7 << 21,), "nobody points there"
    tables.store(DIRECTORY, 8, LEAVES + PAGE | P)
    assert tables.pages() == (7 << 21, 8 << 21 | 9 * PAGE)
    tables.store(ROOT, 511, POINTERS | P)
    assert tables.pages() == (7 << 21, 8 << 21 | 9 * PAGE), "where they are reached first"
    tables.store(ROOT, 0, 0)
    assert tables.pages()[-2:] == (canonical(511 << 39 | 7 << 21), canonical(511 << 39 | 8 << 21 | 9 * PAGE))


def test_only_so_many_pages_count() -> None:
    tables = Tables()
    for index in range(MOST_PAGES + 3):
        tables.store(LEAVES, index, FRAME | P)
    assert tables.pages() == tuple(index * PAGE for index in range(3, MOST_PAGES + 3))


def test_tables_without_end_and_outside_of_ram_are_no_trouble() -> None:
    tables = Tables()
    for index in range(512):
        tables.store(ROOT, index, ROOT | P)
    tables.store(ROOT, 1, 1 << 30 | P)
    tables.pages(ROOT, ROOT, 1 << 40)
    assert [table.shift for table, _ in tables.seen.save().tables] == [39, 30, 21, 12]


def test_only_so_many_tables_are_looked_at() -> None:
    tables = Tables()
    for index in range(200):
        tables.store(POINTERS, index, (index + 8) * PAGE | P)
        tables.store((index + 8) * PAGE, 0, (index % 40 + 210) * PAGE | P)
    tables.pages()
    assert len(tables.seen.save().tables) == 2 + 200 + 40
    for index in range(200):
        tables.store((index + 8) * PAGE, 1, (index % 16 + 8) * PAGE | P)
    tables.pages()
    assert len(tables.seen.save().tables) == MOST_TABLES


def test_it_goes_on_from_what_was_saved() -> None:
    """Also in another machine, which has looked at other moments."""
    first, second = Tables(), Tables()
    rng = random.Random(1)
    for _ in range(200):
        index, entry = rng.randrange(512), rng.choice((0, FRAME | P, FRAME | P | A))
        for tables in (first, second):
            tables.store(LEAVES, index, entry)
        first.pages()
        if rng.random() < 0.3:
            second.seen.load(first.seen.save())
        if rng.random() < 0.1:
            second.pages()
    second.seen.load(first.seen.save())
    for tables in (first, second):
        tables.store(LEAVES, 511, FRAME | PAGE | P)
    assert first.pages() == second.pages()
    assert first.seen.save() == second.seen.save()


# --- a run


def run_out(session: Session) -> object:
    result = session.run()
    return result.serial, result.time, session.choices, session.machine.state_hash()


@pytest.mark.parametrize("slices", [300, 2000])
def test_a_run_that_was_saved_goes_on_to_the_same_end(slices: int) -> None:
    session = session_of("speculation", ADVERSARIAL)
    for _ in range(slices):
        assert session.step(1 << 40) is None
    state, there, schedule = session.save(), everything(session), copy(session.scheduler)
    assert state is not None and state.adversary is not None and state.adversary.changed.pages
    end = run_out(session)
    fresh = session_of("speculation", ADVERSARIAL)
    for _ in range(slices // 2):
        fresh.step(1 << 40)
    fresh.load(state)
    fresh.scheduler = schedule
    assert everything(fresh) == there
    assert run_out(fresh) == end


def test_the_seed_decides_and_repeats() -> None:
    runs = [session_of("speculation", ADVERSARIAL, seed=seed).run() for seed in (0, 0, 1)]
    assert runs[0].serial == runs[1].serial != runs[2].serial


def test_without_the_adversary_nobody_speculates() -> None:
    retained = session_of("speculation", Modes(speculation="keeps-accessed-clear")).run()
    assert "refuted" not in retained.serial
