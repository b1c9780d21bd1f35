"""What trials refute: of processors that are made up, so that what they do is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstack.hw.modes import VALUES
from kstack.probe.bounds import Rate
from kstack.probe.controls import ProbeControl
from kstack.probe.result import ProbeResult, judged
from kstack.probe.verdict import LIMIT, ModeVerdict, verdict
from tests.support.probed import READINGS, THROUGH, MadeUp, observe, probed

READING = pytest.mark.parametrize("reading", READINGS)
REFUTED = {
    "none": [],
    "needs-accessed": ["none"],
    "sets-accessed": ["none", "needs-accessed", "keeps-accessed-clear"],
    "keeps-accessed-clear": ["none", "needs-accessed", "sets-accessed"],
}
CHANCES = st.dictionaries(st.sampled_from(["accessed", "data", "entry"]), st.floats(0, 1))


def of(found: ProbeResult, mode: str = "speculation") -> ModeVerdict:
    return next(one for one in found.verdicts if one.mode == mode)


@READING
def test_of_a_processor_that_does_as_a_reading_says_that_reading_is_not_refuted(reading: str) -> None:
    found = of(probed(READINGS[reading]))
    assert sorted(found.refuted) == sorted(REFUTED[reading])
    assert reading in found.left
    assert found.value == (None if reading == "none" else reading)
    assert all(control.held for control in found.controls)


def test_a_processor_that_shows_nothing_is_not_taken_for_one_that_does_nothing() -> None:
    found = of(probed(READINGS["none"]))
    assert found.left == list(VALUES["speculation"]) and not found.conclusive
    assert found.why == "nothing that was tried shows what it does"


def test_what_was_never_seen_is_bounded_and_not_refuted() -> None:
    found = of(probed(READINGS["needs-accessed"], 1000))
    assert set(found.bounded) == {"sets-accessed", "keeps-accessed-clear"} < set(found.left)
    assert 0.0038 < found.bounded["sets-accessed"] < 0.004, "0 of 1,000, seen in nearly every trial where A is set"
    assert 0.0044 < found.bounded["keeps-accessed-clear"] < LIMIT, "an entry is seen in 85 % of these"


def test_too_few_trials_point_nowhere_but_refute_what_they_have_seen() -> None:
    found = of(probed(READINGS["needs-accessed"], 100))
    assert found.value is None and list(found.refuted) == ["none"]
    assert found.why.startswith("too little is excluded: sets-accessed may be as often as 4.")


def test_gadgets_that_hardly_get_through_say_nothing_by_their_silence() -> None:
    found = of(probed(MadeUp(through={"data": 0.3}), 1000))
    assert list(found.refuted) == ["none"] and found.value is None and found.asked_of == []


def test_what_a_processor_lacks_does_not_stand_in_the_way() -> None:
    found = of(probed(MadeUp(through=THROUGH, lacks=("next-page", "ret-store"))))
    assert found.value == "needs-accessed"
    assert len(found.asked_of) == 4 and "hardware prefetch, next page" not in found.asked_of


def test_events_as_rare_as_noise_are_not_believed_and_leave_it_open() -> None:
    found = of(probed(MadeUp({"accessed": 0.012}, THROUGH, noise={"accessed": 0.008})))
    assert list(found.refuted) == ["none"]
    assert found.value is None, "more than one in a hundred is not hardly ever"


def test_what_was_seen_too_seldom_to_tell_from_noise_leaves_no_value() -> None:
    found = of(probed(MadeUp({"accessed": 0.0005}, THROUGH), 1000))
    assert list(found.refuted) == ["none"] and found.value is None
    assert found.why.startswith(
        "it may be noise, and may be none: load, mispredicted RET: A is set in 1 of 1000 trials;"
    )


def test_gadgets_that_do_different_things_leave_no_value() -> None:
    found = of(probed(MadeUp({"accessed": 0.5, "data": 1.0}, THROUGH)))
    assert found.left == [] and not found.conclusive
    assert found.why == "every value is refuted: this processor does not do one thing"


@pytest.mark.parametrize(
    ("rewalks", "value", "refuted"), [(1.0, "yes", ["no"]), (0.0, "no", ["yes"]), (0.5, None, ["no", "yes"])]
)
def test_a_store_through_a_cached_clean_entry_walks_again_or_not(
    rewalks: float, value: str | None, refuted: list[str]
) -> None:
    found = of(probed(MadeUp(through=THROUGH, rewalks=rewalks)), "dirty-rewalk")
    assert (found.value, sorted(found.refuted)) == (value, refuted)


def test_what_was_interrupted_refutes_what_it_saw_and_has_no_value() -> None:
    measured = observe(READINGS["needs-accessed"], 1000)
    measured.complete = False
    found = of(judged(measured, 1000, 0))
    assert list(found.refuted) == ["none"] and (found.value, found.why) == (None, "interrupted")


@settings(max_examples=25)
@given(clear=CHANCES, through=CHANCES, noise=st.floats(0, 0.003), seed=st.integers(0, 1000))
def test_whatever_a_processor_does_no_reading_that_allows_all_of_it_is_refuted(
    clear: dict[str, float], through: dict[str, float], noise: float, seed: int
) -> None:
    chances = dict.fromkeys(("accessed", "data", "entry"), noise)
    found = of(probed(MadeUp({**chances, **clear}, {**chances, **through}, noise=chances), 60, seed))
    marks = clear.get("accessed", 0) > 0
    unmarked = clear.get("data", 0) + clear.get("entry", 0) > 0 and clear.get("accessed", 0) < 1
    allowed = {
        "none": not marks and not unmarked and not through,
        "needs-accessed": not marks and not unmarked,
        "sets-accessed": not unmarked,
        "keeps-accessed-clear": not marks,
    }
    assert not [reading for reading, is_allowed in allowed.items() if is_allowed and reading in found.refuted]


@settings(max_examples=100)
@given(
    reading=st.sampled_from(sorted(READINGS)),
    rate=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    limit=st.floats(0.01, 0.99),
    floor=st.booleans(),
    complete=st.booleans(),
)
def test_where_a_control_fails_there_is_no_verdict(
    reading: str, rate: tuple[int, int], limit: float, floor: bool, complete: bool
) -> None:
    good = _GOOD[reading]
    control = ProbeControl("made-up", "something was seen", Rate(min(rate), max(rate)), limit, floor)
    found = verdict("speculation", good.evidence, (*good.controls, control), complete)
    if control.held:
        assert dict(found.refuted) == dict(good.refuted)
    else:
        assert (found.value, dict(found.refuted), found.left, dict(found.bounded)) == (None, {}, [], {})
        assert "control made-up failed" in found.why


_GOOD = {reading: of(probed(made_up, 100)) for reading, made_up in READINGS.items()}


@READING
def test_another_order_of_the_same_processors_trials_comes_to_the_same(reading: str) -> None:
    one, other = (probed(READINGS[reading], 400, seed) for seed in (1, 2))
    assert [(found.mode, found.value, found.left) for found in one.verdicts] == [
        (found.mode, found.value, found.left) for found in other.verdicts
    ]


def test_a_measurement_that_failed_has_no_verdict() -> None:
    measured = observe(READINGS["needs-accessed"], 10)
    measured.failure = "the measuring process was killed by SIGSYS after 510 trials"
    for found in judged(measured, 10, 0).verdicts:
        assert (found.value, found.left, found.why) == (None, [], measured.failure)
