"""Each check of each conformance kit is seen to fail, on a subject that breaks the promise it is for.

`BROKEN` holds the subjects. What a kit asserts is left out, one assertion at a time, and some subject passes then: no
assertion is there for nothing (with `KSTACK_LONG=1`, part of `make nightly`).
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from functools import cache

import pytest

import kstack.testing
from kstack.stacks import Policy
from kstack.testing import DeviceConformance, PolicyConformance
from kstack.testing.hooks import ORDERS, differences
from tests.support.broken_subjects import (
    BROKEN,
    ORDER,
    InFlight,
    InOrderOfAppearance,
    Latch,
    LostKit,
    StrayKit,
    Unfinished,
)
from tests.support.kit_assertions import KITS, LeftOut, checks, each_left_out, fails

ROWS = [(check, kit) for check, kits in BROKEN.items() for kit in kits]
ALIEN = "cannot be imported by another process: define it at the top of its module"
SAYS = {
    "it_says_who_proposed_it_and_where": r"^class \w+: (title|proposer|source) is ",
    "it_keeps_account_of_its_frames": r"^frame 0x\w+ is |^no run of ",
    "it_does_the_same_again": r"^two runs with one seed differ",
    "its_hooks_do_the_same_when_they_are_asked_again": r"asked again.* its answers alone$",
    "its_hooks_do_the_same_in_another_process": r"asked again.* its answers alone$",
    "it_goes_on_from_a_snapshot": r"restored in the middle of hooks|^seed \d: restored, it ",
    "it_goes_back_to_a_snapshot": r"restored from its end to slice \d+ with ",
    "it_takes_no_for_an_answer": r"where there is no page|is lost",
    "it_has_a_label": r"^its label is ",
    "reset_is_one_state": r"^a new device begins in another state|^its reset leaves something",
    "the_same_accesses_give_the_same_answers": r"^seed \d: the same accesses ",
    "another_process_gives_the_same_answers": r"^another process gives other answers",
    "two_that_were_restored_go_on_alone": r"is answered otherwise: another one was restored too$",
    "a_snapshot_is_a_plain_value_that_stays": r"^a snapshot holds a |^the snapshot has changed",
    "taking_a_snapshot_changes_nothing": r"looked at$",
    "no_access_raises_or_answers_out_of_range": r"^Access\(.* (raised \w+: .*no guest may|gave -?\d+$)",
    "two_of_them_never_influence_each_other": r"another knows$|where there is another one: ",
    "it_has_a_name": r"^its name is ",
    "it_chooses_a_cpu_that_can_run_for_at_least_one_unit": r"^asked of View\(.*: \w+Error: ",
    "a_seed_is_a_schedule": r"gave two schedules",
    "a_seed_is_the_same_schedule_in_another_process": r"^a seed is another schedule in another process",
    "it_leaves_other_schedules_alone": r"^another schedule of its class has changed it",
    "what_it_chose_can_be_replayed": r"^it (chose|gave) CPU|is somebody starved|^its choices (lead|do not)",
    "it_makes_sense": r"^fault drop-ipi: its trigger must be",
    "it_happens_exactly_once": r"it did not happen|it happened at \[|^a run with a fault has an injector",
    "it_does_something": r"in the states of one without it",
    "one_that_is_not_reached_says_so_and_changes_nothing": r"was not to happen$|^waiting for the fault has changed",
    "it_happens_at_the_same_time_again": r", and then at |ends otherwise$",
    "a_recording_with_it_replays_to_the_same_state": r"^the recording has lost|^replayed, |^its choices do not repeat",
}
"""What a check says, so that no accident is taken for a failure."""


def name_of(value: object) -> str:
    return value.__name__.removesuffix("Kit") if isinstance(value, type) else str(value).partition(".test_")[2]


def failure(check: str, kit: type) -> AssertionError:
    """By which a check fails on a kit's subject."""
    with pytest.raises(AssertionError) as caught:
        getattr(kit(), check.partition(".")[2])()
    return caught.value


@pytest.mark.parametrize(("check", "kit"), ROWS, ids=name_of)
def test_a_broken_subject_fails_the_check_that_is_for_it(check: str, kit: type) -> None:
    said = str(failure(check, kit))
    expected = ALIEN if kit.__name__ in UNKNOWN_ELSEWHERE else SAYS[name_of(check)]
    assert re.search(expected, said, re.MULTILINE), said


UNKNOWN_ELSEWHERE = (LostKit.__name__, StrayKit.__name__, "HiddenKit")


@pytest.mark.parametrize("check", checks(DeviceConformance))
def test_what_the_broken_devices_are_made_of_is_right(check: str) -> None:
    """The policies, schedules and faults that others are made of come with kstack, and conform."""
    getattr(LatchKit(), check)()


class LatchKit(DeviceConformance):
    size = 4

    def make(self, clock: kstack.testing.Clock) -> Latch:
        return Latch(clock)


def test_every_check_of_every_kit_has_a_subject_that_fails_it() -> None:
    public = [getattr(kstack.testing, name) for name in kstack.testing.__all__ if name.endswith("Conformance")]
    assert set(public) == set(KITS)
    assert {f"{kit.__name__}.{check}" for kit in KITS for check in checks(kit)} == set(BROKEN)


# --- assertions


@cache
def _lines(check: str, kit: type) -> frozenset[int]:
    """Lines of the kit's module at which a check fails."""
    file = inspect.getsourcefile(kit.__mro__[1])
    frames = traceback.extract_tb(failure(check, kit).__traceback__)
    return frozenset(frame.lineno or 0 for frame in frames if frame.filename == file)


def _rows(left_out: LeftOut) -> Iterator[tuple[str, type]]:
    """What may need an assertion; what fails by it first."""
    rows = [(check, kit) for check, kit in ROWS if kit.__mro__[1] is left_out.kit]
    rows = [(check, kit) for check, kit in rows if check.partition(".")[2] in left_out.concerns]
    yield from sorted(rows, key=lambda row: left_out.lines.isdisjoint(_lines(*row)))


@pytest.mark.long
@pytest.mark.parametrize("kit", KITS)
def test_every_assertion_of_a_kit_is_needed_by_a_subject(kit: type) -> None:
    for left_out in each_left_out(kit):
        needed = (not fails(left_out.without(broken), check.partition(".")[2]) for check, broken in _rows(left_out))
        assert any(needed), f"without line {min(left_out.lines)}, `{left_out.text}`, every broken subject still fails"


ONE_ORDER: dict[str, tuple[type[Policy], Callable[[], None]]] = {
    "in the opposite order": (InOrderOfAppearance, ORDER.clear),
    "half of it, then all of it, then once more, by one object": (Unfinished, Unfinished.begun.clear),
    "two at a time": (InFlight, lambda: None),
}
"""By order, a policy that shows in it alone, and what makes it forget."""


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_in_which_hooks_are_asked_again_is_needed_by_a_policy(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, forget = ONE_ORDER[order]
    kit = PolicyConformance()
    kit.policy = policy  # type: ignore[misc] # a class variable of the derived class, usually
    asked = kit._asked("exit-reuse")
    forget()
    assert differences(policy, asked)
    monkeypatch.delitem(ORDERS, order)
    forget()
    assert not differences(policy, asked)
