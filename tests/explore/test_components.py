"""Components have names that no other has, and values are told apart where anybody could tell them apart."""

from __future__ import annotations

from itertools import combinations

from kstack.explore.components import Component, ComponentState, Decomposition
from kstack.sanitizer.frames import Frame
from kstack.x86.addresses import PAGE

NAMES = [
    Component("threads"),
    Component("cpu", 1),
    Component("pool", 1),
    Component("may", (1, 2)),
    Component("ever", (1, 2)),
    Component("lock", "a"),
    Component("lock", "a, 1"),
    Component("variable", ("a", 1)),
    Component("variable", ("a", (1,))),
    Component("variable", ("a, 1", 1)),
    Component("variable", ("a", (1, 1))),
    Component("variable", ("1", 1)),
]
FRAME, VARIABLE, LIFE = Component("frame", 7), Component("variable", ("a", 0)), Component("life", 0x1000)


def test_no_two_components_have_one_label() -> None:
    for one, other in combinations(NAMES, 2):
        assert one.label != other.label


def test_what_a_policy_has_made_is_told_apart_by_its_type_too() -> None:
    states = Decomposition({}, {})
    seen = [states.identity(ComponentState(VARIABLE, value, value)) for value in (1, True, 1, (1,), (True,), "1")]
    assert seen[0] == seen[2]
    assert len(set(seen)) == 5


def test_what_is_as_at_the_root_or_is_not_there_adds_nothing_to_a_key() -> None:
    data = b"\1" * PAGE
    states = Decomposition({7: data}, {0x1000: Frame()})
    for component in (FRAME, VARIABLE, LIFE, Component("may", (0, 7)), Component("lock", "a")):
        assert states.share(component, states.identity(states.absent(component))) == 0
    assert states.share(FRAME, data) == 0
    assert states.share(FRAME, bytes(PAGE)) != states.share(Component("frame", 8), bytes(PAGE)) == 0
    assert states.share(Component("ipis"), states.identity(ComponentState(Component("ipis"), (), ()))) != 0
