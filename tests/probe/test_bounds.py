"""What counts say of a rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstack.probe.bounds import STRICT, Rate

RATES = st.integers(1, 5000).flatmap(lambda of: st.integers(0, of).map(lambda count: Rate(count, of)))


def test_none_of_a_thousand_is_less_than_four_in_a_thousand() -> None:
    assert 0.0038 < Rate(0, 1000).at_most() < 0.004
    assert Rate(0, 1000).at_least() == 0


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (1, 10, 0.0179, 0.4042), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilsons_interval_is_the_one_in_the_literature(count: int, of: int, low: float, high: float) -> None:
    """The last two are of Newcombe, Statistics in Medicine 17 (1998), table I."""
    assert Rate(count, of).bounds() == pytest.approx((low, high), abs=1e-4)


def test_no_trials_say_nothing() -> None:
    assert Rate(0, 0).bounds() == (0, 1)
    assert not Rate(0, 0).exceeds(Rate(0, 1000)) and not Rate(1000, 1000).exceeds(Rate(0, 0))


@given(RATES)
def test_the_share_is_between_its_bounds_and_stricter_ones_are_wider(rate: Rate) -> None:
    low, high = rate.bounds()
    wide = rate.bounds(STRICT)
    assert 0 <= wide[0] <= low <= rate.share <= high <= wide[1] <= 1


@given(RATES, RATES)
def test_of_two_rates_one_exceeds_the_other_at_the_most(one: Rate, two: Rate) -> None:
    assert not (one.exceeds(two) and two.exceeds(one))
    assert not one.exceeds(two) or one.share > two.share


def test_few_events_are_not_told_from_noise_and_many_are() -> None:
    assert not Rate(5, 1000).exceeds(Rate(0, 1000))
    assert Rate(30, 1000).exceeds(Rate(0, 1000))
    assert not Rate(30, 1000).exceeds(Rate(20, 1000))
