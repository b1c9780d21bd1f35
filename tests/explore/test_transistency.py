"""Transistency: litmus tests of page-table walks have exactly the outcomes that an abstract machine has, in every mode.

Each test is in three of the twelve modes here, so that each meets each memory order, with three of the speculations, and in
all of them by `python -m tests.nightly transistency`, with many more random programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from kstack.base.errors import ConfigError
from kstack.explore.model.lazy_tlb import How, LazyTlb, Option
from kstack.explore.model.store_buffers import StoreBuffers
from kstack.explore.world import World
from kstack.kernels.kstack.pages import Litmus
from kstack.testing.reachable import Guest, outcomes
from kstack.x86.entries import P
from tests.support.command import ROOT
from tests.support.shapes import ALWAYS, NEVER, SHAPES, SOURCES, WALKS_MEMORY, table
from tests.support.transistency import ORDERS, SPECULATIONS, Reading
from tests.support.transistency import outcomes as abstract
from tests.support.transistency_programs import MODES, compare, draw, shown, uncovered

SEEDS: Final = (*range(16), 78)  # 78: a store to an entry right behind an interrupt's return


def some_modes(number: int) -> Iterator[tuple[str, str]]:
    """Of the twelve, three: each memory order with another speculation."""
    for place, order in enumerate(ORDERS):
        yield order, SPECULATIONS[(number + place) % len(SPECULATIONS)]


@pytest.mark.parametrize("name", SHAPES)
def test_the_abstract_machine_finds_what_is_written_of_a_shape(name: str) -> None:
    shape = SHAPES[name]
    found = {mode: abstract(shape.litmus, Reading(*mode)) for mode in MODES}
    assert {term for terms in shape.terms for term, _ in terms} <= set(shape.litmus.names)
    assert shown(shape, found) == shape.allowed
    assert not uncovered(found)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_exactly_the_outcomes_of_the_abstract_machine(name: str) -> None:
    shape, number = SHAPES[name], list(SHAPES).index(name)
    with Guest(shape.litmus) as guest:
        for mode in some_modes(number):
            found = compare(guest, mode, every_move=mode[0] == ORDERS[number % 3])
            assert found.agrees, found


@pytest.mark.parametrize(
    ("otherwise", "shape", "modes"),
    [
        ({"apart": True}, "data after D", ALWAYS),
        ({"apart": True}, "A before load", ALWAYS),
        ({"apart": True}, "RBS, not awaited", ALWAYS),
        ({"drains_slowly": False}, "SB.TT.inv", NEVER),
        ({"hits_pass": False}, "SB.TR", WALKS_MEMORY),
        ({"forwards": True}, "SB.TR, forwarded", ".... xxxx ...."),
    ],
)
def test_the_other_readings_of_the_manual_are_told_apart_by_shapes(
    otherwise: dict[str, bool], shape: str, modes: str
) -> None:
    test = SHAPES[shape]
    found = {(order, kind): abstract(test.litmus, Reading(order, kind, **otherwise)) for order, kind in MODES}
    assert shown(test, found) == modes != test.allowed


def test_the_page_has_the_table_of_the_shapes() -> None:
    """Where not: put what `tests.support.shapes.table()` gives in its place."""
    page = (ROOT / "docs" / "litmus.md").read_text()
    assert table() in page
    assert all(name in SOURCES for shape in SHAPES.values() for name in _keys(shape.source))
    assert len(SHAPES) >= 31


def _keys(source: str) -> list[str]:
    """By what a shape's source is found in the list of sources."""
    return [part.strip().partition(" ")[0].strip(":,") for part in source.split(";")]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_program_has_exactly_the_outcomes_of_the_abstract_machine(seed: int) -> None:
    with Guest(draw(seed)) as guest:
        for mode in some_modes(seed):
            found = compare(guest, mode, every_move=seed % 2 == 0)
            assert found.agrees, found


def test_random_programs_use_all_there_is() -> None:
    tests = [draw(seed) for seed in range(300)]
    assert len({one.what for test in tests for program in test.programs for one in program}) == 15
    assert {flag for test in tests for program in test.programs for one in program for flag in [one.flag]} >= {
        "-P",
        "+W",
    }
    assert {test.global_pages for test in tests} == {True, False}


def test_a_guest_is_asked_in_any_order_of_modes() -> None:
    """A search leaves nothing behind for the next."""
    test = SHAPES["CoRT"].litmus
    with Guest(test) as guest:
        there = [compare(guest, mode, False) for mode in MODES]
        back = [compare(guest, mode, False) for mode in reversed(MODES)]
    assert there == back[::-1]
    assert all(found.agrees for found in there)


def _but_refused(inner: Callable[..., list[Option]]) -> Callable[..., list[Option]]:
    """The ways of an access, as if rights were not cached."""
    return lambda *words: [option for option in inner(*words) if option.how is not How.REFUSED]


BROKEN: Final = {
    # what is broken: where, its name, what there is instead, the shape and the mode that find it
    "nothing is kept": (LazyTlb, "_add", lambda *_, **__: None, "MP.RT", ("sc", "sets-accessed")),
    "INVLPG drops nothing": (LazyTlb, "invalidate", lambda *_: None, "ptwalk2", ("sc", "sets-accessed")),
    "CR3 drops nothing": (LazyTlb, "invalidate_own", lambda *_: None, "CR3", ("sc", "none")),
    "A is never pending": (LazyTlb, "is_pending", lambda *_: False, "unused, plain", ("sc", "sets-accessed")),
    "a plain store sees A": (LazyTlb, "entry_was", lambda *_: None, "unused, plain", ("sc", "sets-accessed")),
    "an access caches nothing": (LazyTlb, "took", lambda *_: None, "late write", ("sc", "none")),
    "no walk waits": (StoreBuffers, "holds_back", lambda *_: False, "CoWT.inv", ("tso", "none")),
    "what needs A is cached without": (
        LazyTlb,
        "_cacheable",
        lambda _, entry: entry & P,
        "unused, plain",
        ("sc", "needs-accessed"),
    ),
    "what needs A is not cached with it": (LazyTlb, "_cacheable", lambda *_: False, "MP.RT", ("sc", "needs-accessed")),
    "rights are not cached": (
        LazyTlb,
        "options",
        _but_refused(LazyTlb.options),
        "spurious fault",
        ("sc", "sets-accessed"),
    ),
    "interrupts do not come": (World, "interrupts_of", lambda *_: [], "RBS", ("sc", "none")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_machine_that_is_broken_has_other_outcomes(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is compared would not tell."""
    where, name, instead, shape, mode = BROKEN[what]
    with Guest(SHAPES[shape].litmus) as guest:
        assert compare(guest, mode, True).agrees
    monkeypatch.setattr(where, name, instead)
    with Guest(SHAPES[shape].litmus) as guest:
        assert not compare(guest, mode, True).agrees


# --- for users


def test_outcomes_are_asked_for_by_some_of_their_values() -> None:
    found = outcomes(["x=1; r y", "y=1; r x"], modes=["memory-order=tso"])
    assert (found.complete, found.stuck, len(found)) == (True, 0, 4)
    assert {"0:r y": 0, "1:r x": 0} in found
    assert {"0:r y": 2} not in found
    assert {"0:r y": 0, "1:r x": 0} not in outcomes(["x=1; r y", "y=1; r x"])
    with pytest.raises(ConfigError, match="outcome '0:r z' does not exist; there are '0:r y', '1:r x', 'x', 'y'"):
        {"0:r z": 0} in found  # noqa: B015 # it is refused


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave the policy out"):
        outcomes(["x=1"], policy="entry-exit")
    with pytest.raises(ConfigError, match="init and global_pages are for a test that is given by its programs"):
        outcomes(Litmus.of(["x=1"]), init={"x": 1})
    with pytest.raises(ConfigError, match="mode memory-order=weak"):
        outcomes(["x=1"], modes=["memory-order=weak"])


def test_a_cpu_without_a_program_answers_too() -> None:
    for programs in (["shoot x", ""], ["shoot x"], ["shoot x; x=1", "", "", ""]):
        found = outcomes(programs)
        assert (found.complete, found.stuck, len(found)) == (True, 0, 1)
