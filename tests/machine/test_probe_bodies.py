"""What a probe takes for an event that refutes a value, `kstack explore` finds in no interleaving of the same body under it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest

from kstack.explore.outcomes import outcomes
from kstack.explore.problem import REFERENCE, Problem
from kstack.guest.images import PROBES
from kstack.hw.modes import VALUES, Modes
from kstack.x86.entries import A
from tests.support.probes import EVENTS

WORD_A, WORD_NEW = 0x1111, 0x3333
FIRST, SECOND = 1 << 0, 1 << 1  # faults of accesses 0 and 1
Final = Mapping[str, int]


class Body(NamedTuple):
    """A body, and what of its final values is an event.

    Attributes:
        scenario: that has the body.
        mode, event: in EVENTS; no event for what a rule forbids or allows in each.
        happens: whether final values are the event.
        everywhere: where there is no event: whether all values allow it.
    """

    scenario: str
    mode: str
    event: str
    happens: Callable[[Final], bool]
    everywhere: bool = False


STALE, MARKED, SILENT = EVENTS["speculation"]
BOTH_0, _IPI, OLD_WALK = EVENTS["memory-order"]
BODIES = {
    "stale": Body("taken-used", "speculation", STALE, lambda f: f["read"] == WORD_A),
    "marked": Body("taken-unused", "speculation", MARKED, lambda f: bool(f["before"] & A)),
    "silent": Body("taken-unused", "speculation", SILENT, lambda f: f["read"] == WORD_A and not f["before"] & A),
    "buffered": Body("buffered", "memory-order", BOTH_0, lambda f: f["found_0"] == f["found_1"] == 0),
    "entered": Body("entered", "memory-order", OLD_WALK, lambda f: bool(f["faults"])),
    "clean write": Body("clean", "speculation", "", lambda f: f["first"] == WORD_NEW),
    "fault behind the message": Body("appear", "speculation", "", lambda f: bool(f["faults"] & SECOND)),
    "fault before it": Body("appear", "speculation", "", lambda f: bool(f["faults"] & FIRST), everywhere=True),
    "two spurious faults": Body("grow", "speculation", "", lambda f: f["faults"] == FIRST | SECOND),
    "one spurious fault": Body("grow", "speculation", "", lambda f: f["faults"] == FIRST, everywhere=True),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, body in BODIES.items() for value in VALUES[body.mode]]
)
def test_an_event_is_in_some_interleaving_where_it_is_allowed_and_in_none_where_it_is_not(
    name: str, value: str
) -> None:
    body = BODIES[name]
    scenario = str(PROBES / "litmus" / f"{body.scenario}.toml")
    found = outcomes(Problem(scenario, REFERENCE, Modes().with_option(f"{body.mode}={value}")))
    assert found.complete and found.outcomes and not found.stuck
    happens = any(body.happens(dict(zip(found.names, values, strict=True))) for values in found.outcomes)
    assert happens == (value in EVENTS[body.mode][body.event] if body.event else body.everywhere)


def test_each_litmus_scenario_is_asked() -> None:
    assert {path.stem for path in (PROBES / "litmus").glob("*.toml")} == {body.scenario for body in BODIES.values()}
