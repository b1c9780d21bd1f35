"""The dispute of June 2026: one image, one policy, and only the mode changes."""

from __future__ import annotations

import pytest

from kstack.hw.modes import Modes
from kstack.judge.verdict import Judgement, Portfolio, judge
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.run.spec import boot
from kstack.sanitizer.findings import Kind
from kstack.stacks.loading.registry import find_policy

SCHEDULES = 60


def verdict(policy: str, speculation: str) -> Judgement:
    modes = Modes(tlb="adversarial", speculation=speculation)
    scenario = find_scenario("shallow-then-deep")
    return judge(find_policy(policy), scenario, boot(scenario, modes=modes), Portfolio(SCHEDULES), modes)


@pytest.mark.parametrize("policy", ["accessed-plain", "accessed-atomic", "dirty-atomic", "switch-sp-ipi"])
def test_without_speculation_nothing_of_a_page_never_touched_is_cached(policy: str) -> None:
    assert not verdict(policy, "none").findings


def test_an_atomic_reclaim_is_clean_where_a_fill_sets_accessed_first() -> None:
    assert not verdict("accessed-atomic", "sets-accessed").findings


@pytest.mark.parametrize("policy", ["accessed-plain", "accessed-atomic"])
def test_a_reclaim_by_accessed_is_unsafe_where_a_fill_leaves_it_clear(policy: str) -> None:
    found = verdict(policy, "keeps-accessed-clear")
    assert found.safe is False
    assert found.finding is not None
    assert found.finding.kind in (Kind.STALE_TRANSLATION, Kind.USE_AFTER_FREE)


def test_a_plain_store_loses_against_a_walker_that_comes_between() -> None:
    found = verdict("accessed-plain", "sets-accessed")
    assert found.safe is False
    assert found.finding is not None
    assert any("speculative TLB fill" in moment.what for moment in found.finding.history)


def test_dirty_says_nothing_of_clean_cached_translations() -> None:
    assert verdict("dirty-atomic", "sets-accessed").safe is False


@pytest.mark.parametrize("speculation", ["sets-accessed", "keeps-accessed-clear"])
def test_a_broadcast_is_clean_in_both_readings(speculation: str) -> None:
    found = verdict("switch-sp-ipi", speculation)
    assert found.safe is True
    assert found.exercised > 0


def test_the_seed_of_the_adversary_decides_and_repeats() -> None:
    assert (
        verdict("accessed-plain", "keeps-accessed-clear").hits == verdict("accessed-plain", "keeps-accessed-clear").hits
    )
