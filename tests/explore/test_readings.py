"""What can be reached where fills need Accessed can be reached by each other reading, and what can be without speculation, by all.

So it is with findings and with outcomes. It is not with the states from which no end can be reached, since an end may need what only
a fill brings about, nor with `exercised`, which asks what might have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

import pytest

from kstack.explore.model.lazy_tlb import LazyTlb
from kstack.explore.problem import Bounds, Problem
from kstack.hw.modes import READINGS, VALUES, Modes
from kstack.report.decisions import FILE, read_decisions
from kstack.stacks.loading.registry import policies
from kstack.testing.reachable import Guest
from kstack.x86.entries import P
from tests.nightly import decisions
from tests.nightly.decisions import not_included
from tests.support.all_findings import Found, all_findings
from tests.support.transistency import INCLUDED, ORDERS, SPECULATIONS, Reading
from tests.support.transistency import outcomes as abstract
from tests.support.transistency_programs import draw, uncovered

UNTOUCHED: Final = "litmus-quiet"
"""Nobody has accessed the page in question there: what is found needs a fill through an entry with A clear."""
SMALL: Final = ("litmus-twice", "litmus-walker", "litmus-unwinder")
QUICK: Final = ("accessed-plain", "accessed-atomic", "dirty-atomic", "switch-sp-shared", "entry-exit")
PAIRS: Final = [(policy, scenario) for policy in QUICK for scenario in (UNTOUCHED, *SMALL)]
MORE: Final = (*SMALL, "litmus-laight", "litmus-pages", "litmus-same")


def found_in(policy: str, scenario: str, speculation: str) -> frozenset[Found]:
    """All findings of a pair."""
    return all_findings(Problem(scenario, policy, decisions.modes_of(speculation)))


def lacking(found: Mapping[str, Set[Any]]) -> list[tuple[str, str]]:
    """Of `INCLUDED`, where the first has what the second has not."""
    return [(less, more) for less, more in INCLUDED if not found[less] <= found[more]]


def test_every_value_of_the_mode_is_compared() -> None:
    assert VALUES["speculation"] == SPECULATIONS
    assert {reading for pair in INCLUDED for reading in pair} == set(SPECULATIONS)


# --- findings


@pytest.mark.parametrize(("policy", "scenario"), PAIRS)
def test_what_is_found_where_fills_need_accessed_is_found_by_each_other_reading(policy: str, scenario: str) -> None:
    found = {speculation: found_in(policy, scenario, speculation) for speculation in SPECULATIONS}
    assert not lacking(found)
    assert scenario != UNTOUCHED or not found["needs-accessed"]


@pytest.mark.long
@pytest.mark.parametrize(
    "policy", [name for name in policies() if name != "fixed-4k"]
)  # it fails before there is a move
def test_so_it_is_with_every_policy_in_small_programs(policy: str) -> None:
    for scenario in MORE:
        found = {speculation: found_in(policy, scenario, speculation) for speculation in SPECULATIONS}
        assert not lacking(found), scenario


def test_the_readings_are_told_apart_by_these_programs() -> None:
    """Else that one includes the other would say nothing."""
    found = {reading: found_in("accessed-plain", "litmus-walker", reading) for reading in READINGS}
    assert found["needs-accessed"]
    assert found["needs-accessed"] < found["sets-accessed"]
    assert found["needs-accessed"] < found["keeps-accessed-clear"]
    silent = {reading: found_in("accessed-atomic", "litmus-walker", reading) for reading in READINGS}
    assert [bool(silent[reading]) for reading in READINGS] == [False, False, True]


def test_a_machine_that_caches_without_accessed_finds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is compared would not tell."""
    right = {one: found_in("accessed-atomic", "litmus-walker", one) for one in SPECULATIONS}
    monkeypatch.setattr(LazyTlb, "_cacheable", lambda _, entry: bool(entry & P))
    broken = right | {"needs-accessed": found_in("accessed-atomic", "litmus-walker", "needs-accessed")}
    assert lacking(right) == []
    assert lacking(broken) == [("needs-accessed", "sets-accessed")]


# --- what is shipped


def test_the_shipped_decisions_have_every_reading_and_no_finding_that_another_reading_proves_away() -> None:
    shipped = read_decisions()
    if shipped is None:
        pytest.skip(f"{FILE.name} is of other code than what is here: python -m tests.nightly decisions --write")
    assert [Modes.of(one.modes) for one in shipped.readings] == [decisions.modes_of(reading) for reading in READINGS]
    for one in shipped.readings:
        assert [(of.policy, of.scenario) for of in one.decisions] == decisions.pairs([], [])
        assert any(of.kind for of in one.decisions)
    assert not not_included(shipped.readings)


# --- outcomes of random programs


def outcomes_of(guest: Guest, order: str, speculation: str) -> set[Any]:
    """All of them, on the explored machine."""
    found = guest.outcomes(Modes(memory_order=order, speculation=speculation), Bounds())
    assert found.complete
    return {tuple(one.items()) for one in found}


@pytest.mark.parametrize("seed", [2, 3, 5, 30, 33])
def test_what_a_random_program_comes_to_where_fills_need_accessed_it_does_by_each_other_reading(seed: int) -> None:
    with Guest(draw(seed)) as guest:
        assert not uncovered({(order, one): outcomes_of(guest, order, one) for order in ORDERS for one in SPECULATIONS})


def test_so_it_is_with_the_abstract_machine_where_each_reading_differs_in_some_program() -> None:
    differ = set()
    for seed in range(300):
        found = {("sc", one): abstract(draw(seed), Reading("sc", one)) for one in SPECULATIONS}
        assert not uncovered(found)
        differ |= {(less, more) for less, more in INCLUDED if found["sc", less] != found["sc", more]}
    assert differ == set(INCLUDED)
