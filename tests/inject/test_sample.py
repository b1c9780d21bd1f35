"""A sample of the nightly campaign: each systematic fault at a first and a last site, and what holds of every policy."""

from __future__ import annotations

import pytest

from kstack.inject import SYSTEMATIC
from tests.nightly import injected

SURVIVED = ("nmi", "duplicate-ipi", "delay-ipi", "delay-ack")


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    ["switch-sp-ipi", *(pytest.param(policy, marks=pytest.mark.long) for policy in ("accessed-latch", "fault-ist"))],
)
def test_what_holds_of_every_policy(policy: str) -> None:
    tried = set()
    for batch in injected.work([policy], 2):
        outcomes = batch.tried()
        assert not isinstance(outcomes, str), outcomes
        for one in outcomes:
            tried.add(one.fault.what)
            assert one.fired is not None, "every site is of this run"
            assert (one.outcome, one.by) != ("detected", "nobody")
            if one.fault.what in SURVIVED:
                assert one.outcome == "masked", (batch.pair, one)
            if one.fault.what == "raise":
                assert (one.outcome, one.by) == ("detected", "policy")
            if one.fault.what in ("spurious-fault", "machine-check"):
                assert one.outcome == "detected", (batch.pair, one)
    assert tried >= set(SYSTEMATIC) - {"early-ack", "lose-ack", "delay-ack", "narrow-flush", "corrupt-page"}


def test_the_nightly_campaign_has_as_many_sites_as_it_says() -> None:
    work = injected.work(["switch-sp-ipi"])
    limits = {what: batch.limit for batch in work for what in batch.systematic}
    assert {limits[what] for what in injected.EVERYWHERE} == {500}
    assert set(limits) == set(SYSTEMATIC)
    assert len({batch.pair.scenario for batch in work}) == 4
