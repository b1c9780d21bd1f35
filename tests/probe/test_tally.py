"""From observations to counts: which trials are none, and when a line was in a cache."""

from __future__ import annotations

import pytest

from kstack.probe.bounds import Rate
from kstack.probe.questions import ALL, ARMS, CACHED, CLEAN, CLEAR, LOAD, NOTHING, REWALK, SET, Arm, order
from kstack.probe.recipe import NOT_FAULTED, Bits, Observation
from kstack.probe.tally import NO_FAULT, PAGE_FLAG, UNREADY, seen, spoiled, tallied, threshold

A, D, PAGE_A, PAGE_D, NONE = Bits.ACCESSED, Bits.DIRTY, Bits.PAGE_ACCESSED, Bits.PAGE_DIRTY, Bits(0)
NUMBER = {arm: number for number, arm in enumerate(ARMS)}


def observed(arm: Arm, before: Bits = NONE, after: Bits = NONE, cached: bool = False, ticks: int = 300) -> Observation:
    return Observation(NUMBER[arm], before, after, cached, ticks)


@pytest.mark.parametrize(
    ("arm", "before", "after", "why"),
    [
        (Arm("load", CLEAR), NONE, A, ""),
        (Arm("load", CLEAR), A, A, UNREADY),
        (Arm("load", CLEAR), PAGE_A, A, UNREADY),
        (Arm("load", CLEAR), D | PAGE_D, A | D | PAGE_D, ""),
        (Arm("load", CLEAR), NONE, A | PAGE_A, PAGE_FLAG),
        (Arm("load", SET), A, A, ""),
        (Arm("load", SET), NONE, A, UNREADY),
        (Arm("load", CLEAN), D, A, UNREADY),
        (Arm("load", CLEAN), NONE, A | PAGE_D, PAGE_FLAG),
        (Arm(REWALK.name, CACHED), A, A | D, UNREADY),
        (Arm(REWALK.name, CACHED), NONE, A | D, ""),
    ],
)
def test_a_trial_is_none_where_the_entry_was_not_ready_or_the_page_was_used_otherwise(
    arm: Arm, before: Bits, after: Bits, why: str
) -> None:
    assert spoiled(observed(arm, before, after), ARMS[arm]) == why


def test_what_should_fault_and_does_not_is_no_trial() -> None:
    assert spoiled(observed(Arm("write-fault", CLEAR), ticks=NOT_FAULTED), ARMS[Arm("write-fault", CLEAR)]) == NO_FAULT


def test_what_a_trial_has_seen() -> None:
    arm, clean = Arm("load", CLEAR), Arm("load", CLEAN)
    assert seen(observed(arm, ticks=200), ARMS[arm], 200) == {"data"}
    assert seen(observed(arm, after=A | D, cached=True, ticks=201), ARMS[arm], 200) == {"accessed", "entry"}
    assert seen(observed(clean, after=A | D, ticks=201), ARMS[clean], 200) == {"accessed", "dirty"}
    assert seen(observed(arm, ticks=0), ARMS[arm], 200) == set(), "a system call is not timed"


def test_a_tally_counts_what_was_seen_together() -> None:
    arm = Arm("ret-load", CLEAR)
    trials = [observed(arm, after=A, ticks=100), observed(arm, ticks=100), observed(arm), observed(arm, before=A)]
    found = tallied(trials, 200)[arm]
    assert found.rate("data") == Rate(2, 3) and found.rate("data", without=["accessed"]) == Rate(1, 3)
    assert found.some("accessed", "entry") == Rate(1, 3) and found.spoiled_by(UNREADY) == Rate(1, 4)
    assert found.as_dict() == {
        "trials": 3,
        "seen": {"accessed+data": 1, "data": 1, "nothing": 1},
        "spoiled": {"unready": 1},
    }


def test_the_threshold_is_between_lines_that_were_loaded_and_lines_that_were_not() -> None:
    hits = [observed(Arm(LOAD.name, CLEAR), ticks=100 + n) for n in range(100)]
    misses = [observed(Arm(NOTHING.name, SET), ticks=400 + n) for n in range(100)]
    found = threshold(hits + misses)
    assert (found.ticks, found.slow, found.quick) == (299.5, Rate(0, 100), Rate(0, 100))
    assert threshold(hits).slow == Rate(0, 0), "nothing was flushed: nothing can be told"


def test_a_timer_that_stands_still_tells_flushed_lines_to_be_in_a_cache() -> None:
    still = [observed(Arm(name, CLEAR), ticks=7) for name in (LOAD.name, NOTHING.name) for _ in range(50)]
    assert threshold(still).quick == Rate(50, 50)


def test_the_order_is_the_seeds_and_has_each_arm_as_often() -> None:
    drawn = list(order(5, 1))
    assert drawn == list(order(5, 1)) != list(order(5, 2))
    assert sorted(number for number, _ in drawn) == sorted([*range(len(ARMS))] * 5)
    assert len({rounds for _, rounds in drawn}) > 20


def test_questions_have_names_of_their_own() -> None:
    assert len({one.name for one in ALL}) == len(ALL)
    assert sum(len(one.arms) for one in ALL) == len(ARMS)
