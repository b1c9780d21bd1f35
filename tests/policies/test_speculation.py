"""The dispute of June 2026: one image, one policy, and only the mode changes."""

from __future__ import annotations

import pytest

from kstack.hw.modes import READINGS, Modes
from kstack.judge.verdict import Judgement
from kstack.stacks.oracle import Kind
from tests.support.boots import verdict

SCHEDULES = 60


def judged_under(policy: str, speculation: str, scenario: str = "shallow-then-deep") -> Judgement:
    modes = Modes(tlb="adversarial", speculation=speculation)
    return verdict(policy, scenario, SCHEDULES, modes)


@pytest.mark.parametrize("policy", ["accessed-plain", "accessed-atomic", "dirty-atomic", "switch-sp-ipi"])
def test_without_speculation_nothing_of_a_page_never_touched_is_cached(policy: str) -> None:
    assert not judged_under(policy, "none").findings


@pytest.mark.parametrize("policy", ["accessed-plain", "accessed-atomic", "dirty-atomic", "switch-sp-shared"])
def test_nor_is_it_where_a_fill_needs_accessed(policy: str) -> None:
    assert not judged_under(policy, "needs-accessed").findings


def test_but_a_page_that_somebody_has_touched_is_cached_by_others_there() -> None:
    assert not judged_under("switch-sp-shared", "none", "quiet-then-deep-migrate").findings
    found = judged_under("switch-sp-shared", "needs-accessed", "quiet-then-deep-migrate").finding
    assert found is not None
    assert any("speculative TLB fill" in moment.text for moment in found.history)


def test_an_atomic_reclaim_is_clean_where_a_fill_sets_accessed_first() -> None:
    assert not judged_under("accessed-atomic", "sets-accessed").findings


@pytest.mark.parametrize("policy", ["accessed-plain", "accessed-atomic"])
def test_a_reclaim_by_accessed_is_unsafe_where_a_fill_leaves_it_clear(policy: str) -> None:
    found = judged_under(policy, "keeps-accessed-clear")
    assert found.safe is False
    assert found.finding is not None
    assert found.finding.kind in (Kind.STALE_TRANSLATION, Kind.USE_AFTER_FREE)


def test_a_plain_store_loses_against_a_walker_that_comes_between() -> None:
    found = judged_under("accessed-plain", "sets-accessed")
    assert found.safe is False
    assert found.finding is not None
    assert any("speculative TLB fill" in moment.text for moment in found.finding.history)


def test_dirty_says_nothing_of_clean_cached_translations() -> None:
    assert judged_under("dirty-atomic", "sets-accessed").safe is False


@pytest.mark.parametrize("speculation", READINGS)
def test_a_broadcast_is_clean_in_each_reading(speculation: str) -> None:
    found = judged_under("switch-sp-ipi", speculation)
    assert found.safe is True
    assert found.exercised > 0


def test_the_seed_of_the_adversary_decides_and_repeats() -> None:
    assert (
        judged_under("accessed-plain", "keeps-accessed-clear").hits
        == judged_under("accessed-plain", "keeps-accessed-clear").hits
    )
