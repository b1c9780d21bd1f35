"""Each control fails where what it is for goes wrong, and then no mode has a verdict."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from kstack.probe.bounds import Rate
from kstack.probe.controls import ProbeControl
from kstack.probe.questions import CLEAN, HELD, KEPT, LOAD, NOTHING, STORE, Arm
from kstack.probe.recipe import NOT_FAULTED, Bits, Observation, Recipe
from kstack.probe.result import ProbeResult
from tests.support.probed import HIT, MISS, READINGS, Spoil, but, probed

USUAL = READINGS["needs-accessed"]
Change = Callable[[Observation], Observation]


def where(condition: Callable[[Arm, Recipe], bool], change: Change) -> Spoil:
    """Something is wrong in some trials."""
    return lambda arm, recipe, one: change(one) if condition(arm, recipe) else one


def sometimes(change: Change, every: int = 10) -> Change:
    """Something is wrong now and then."""
    number = count()
    return lambda one: change(one) if next(number) % every == 0 else one


def without(bits: Bits) -> Change:
    return lambda one: one._replace(after=one.after & ~bits)


def with_bits(bits: Bits) -> Change:
    return lambda one: one._replace(after=one.after | bits)


def of(*questions: str) -> Callable[[Arm, Recipe], bool]:
    return lambda arm, recipe: arm.question in questions


def everywhere(arm: Arm, recipe: Recipe) -> bool:
    return True


def idle(arm: Arm, recipe: Recipe) -> bool:
    return not recipe.aimed


WRONG: dict[str, Spoil] = {
    "timer-slow": where(of(LOAD.name), sometimes(lambda one: one._replace(ticks=MISS))),
    "timer-quick": where(of(NOTHING.name), sometimes(lambda one: one._replace(ticks=HIT))),
    "load-marks": where(of(LOAD.name), sometimes(without(Bits.ACCESSED))),
    "fetch-marks": where(of("fetch"), sometimes(without(Bits.ACCESSED))),
    "idle-marks": where(idle, sometimes(with_bits(Bits.ACCESSED), 40)),
    "idle-data": where(idle, sometimes(lambda one: one._replace(ticks=HIT))),
    "idle-entry": where(idle, sometimes(lambda one: one._replace(cached=True))),
    "ageing": where(lambda arm, recipe: recipe.accessed, sometimes(without(Bits.ACCESSED), 50)),
    "unready": where(everywhere, sometimes(lambda one: one._replace(before=one.before ^ Bits.ACCESSED))),
    "page-flag": where(everywhere, sometimes(with_bits(Bits.ACCESSED | Bits.PAGE_ACCESSED))),
    "no-fault": where(everywhere, sometimes(lambda one: one._replace(ticks=NOT_FAULTED))),
    "held": where(of(HELD.name), sometimes(without(Bits.PAGE_ACCESSED))),
}
WRONG_FOR_DIRTY: dict[str, Spoil] = {
    "store-dirties": where(of(STORE.name), sometimes(without(Bits.DIRTY))),
    "load-dirties": where(lambda arm, recipe: arm == Arm(LOAD.name, CLEAN), sometimes(with_bits(Bits.DIRTY))),
    "kept": where(of(KEPT.name), with_bits(Bits.ACCESSED)),
}


def failed(found: ProbeResult, mode: int) -> list[str]:
    return [one.name for one in found.verdicts[mode].controls if not one.held]


@pytest.mark.parametrize("name", WRONG)
def test_a_control_of_all_questions_fails_and_there_is_no_verdict(name: str) -> None:
    found = probed(but(USUAL, WRONG[name]), 200)
    assert name in failed(found, 0)
    for verdict in found.verdicts:
        assert (verdict.value, verdict.left, dict(verdict.refuted)) == (None, [], {})
        assert verdict.why.startswith("control ")


@pytest.mark.parametrize("name", WRONG_FOR_DIRTY)
def test_a_control_of_questions_about_dirty_fails_and_leaves_the_others_alone(name: str) -> None:
    speculation, dirty = probed(but(USUAL, WRONG_FOR_DIRTY[name]), 500).verdicts
    assert [one.name for one in dirty.controls if not one.held] == [name] and dirty.value is None
    assert speculation.value == "needs-accessed"


def test_each_control_is_seen_to_fail() -> None:
    both = probed(USUAL, 10).verdicts[1].controls
    assert [one.name for one in both] == [*WRONG, *WRONG_FOR_DIRTY]
    assert all(one.held for one in both)
    flagged = next(one for one in both if one.name == "page-flag")
    assert flagged.rate.count == 0, "the page that the kernel takes hold of is counted apart"


def test_what_was_not_tried_does_not_hold() -> None:
    found = probed(USUAL, 0)
    assert [one.name for one in found.controls if one.held] == []


def test_a_control_says_what_was_counted_and_what_must_be() -> None:
    control = ProbeControl("load-marks", "a load that retires set A", Rate(90, 100), 0.95, True)
    assert str(control) == "a load that retires set A in 90 of 100 trials; it must be at least 95%"
    assert control.as_dict() == {
        "held": False,
        "text": "a load that retires set A",
        "count": 90,
        "of": 100,
        "at_least": 0.95,
    }
    assert "at_most" in control._replace(floor=False).as_dict()
