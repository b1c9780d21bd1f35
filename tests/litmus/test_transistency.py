"""Transistency: litmus tests of page-table walks have exactly the outcomes that an abstract machine has, in every mode.

Each test is in three of the nine modes here, so that each meets each memory order and each speculation, and in all of them
by `python -m tests.nightly transistency`, with many more random programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.shapes import SHAPES
from tests.support.transistency import ORDERS, SPECULATIONS, Reading
from tests.support.transistency import outcomes as abstract
from tests.support.transistency_programs import MODES, STRICTER, compare, draw, expected_of, explorer, shown
from vm.errors import ConfigError
from vm.hw.lazy import LazyTlb
from vm.testing.pages import Litmus
from vm.testing.reachable import Guest, outcomes

SEEDS: Final = range(16)


def some_modes(number: int) -> Iterator[tuple[str, str]]:
    """Of the nine, three: each memory order with another speculation."""
    for place, order in enumerate(ORDERS):
        yield order, SPECULATIONS[(number + place) % 3]


@pytest.mark.parametrize("name", SHAPES)
def test_the_abstract_machine_finds_what_is_written_of_a_shape(name: str) -> None:
    shape = SHAPES[name]
    found = {mode: abstract(shape.litmus, Reading(*mode)) for mode in MODES}
    assert {term for terms in shape.terms for term, _ in terms} <= set(shape.litmus.names)
    assert shown(shape, found) == shape.allowed


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_exactly_the_outcomes_of_the_abstract_machine(name: str) -> None:
    shape, number = SHAPES[name], list(SHAPES).index(name)
    with Guest(shape.litmus) as guest:
        for mode in some_modes(number):
            found = compare(guest, mode, every_move=mode[0] == ORDERS[number % 3])
            assert found.agrees, found


def test_where_the_machine_is_stricter_than_the_manual_is_known() -> None:
    stricter = []
    for name, shape in SHAPES.items():
        if "xxx" not in shape.allowed and name not in STRICTER:
            continue  # it is stricter with stores in buffers alone
        seen = shown(shape, {mode: abstract(shape.litmus, explorer(*mode)) for mode in MODES})
        assert seen == expected_of(name), name
        stricter += [name] if seen != shape.allowed else []
    assert stricter == list(STRICTER)


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


def test_a_tlb_that_forgets_to_keep_what_was_there_has_fewer_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is compared would not tell."""
    with Guest(SHAPES["MP.RT"].litmus) as guest:
        assert compare(guest, ("sc", "sets-accessed"), True).agrees
    monkeypatch.setattr(LazyTlb, "_add", lambda *_, **__: None)
    with Guest(SHAPES["MP.RT"].litmus) as guest:
        found = compare(guest, ("sc", "sets-accessed"), True)
    assert found.missing and not found.more


def test_a_guest_is_asked_in_any_order_of_modes() -> None:
    """A search leaves nothing behind for the next."""
    test = SHAPES["CoRT"].litmus
    with Guest(test) as guest:
        there = [compare(guest, mode, False) for mode in MODES]
        back = [compare(guest, mode, False) for mode in reversed(MODES)]
    assert there == back[::-1]
    assert all(found.agrees for found in there)


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
