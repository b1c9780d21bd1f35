"""Nobody looks into a container that records without its being recorded: each access is recorded, or impossible."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from collections.abc import Callable
from typing import Any, Final

import pytest

from kstack.explore.recorded import RecordedAreas, RecordedDict, RecordedPools, Unrecorded
from kstack.stacks import Thread
from kstack.stacks.area import Areas
from kstack.stacks.host.pool import PoolConfig, Pools

KEYS: Final = (1, 2)
LOOKS_IN: Final = {
    "__eq__",
    "__ne__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__reduce_ex__",
    "__reduce__",
    "__getstate__",
}
OF_EVERY_OBJECT: Final = frozenset(dir(object)) - LOOKS_IN | {"__hash__", "__class_getitem__"}
"""What does not look into an object; what compares or copies one does."""
COPIES: Final = (copy.copy, copy.deepcopy, pickle.dumps, json.dumps)

Use = Callable[[Any], object]
USES: Final[dict[str, Use]] = {
    "__contains__": lambda one: 1 in one,
    "__delitem__": lambda one: one.__delitem__(1),
    "__eq__": lambda one: one == {1: 10, 2: 20},
    "__ge__": lambda one: one >= {1: 10},
    "__getitem__": lambda one: one[1],
    "__getstate__": lambda one: one.__getstate__(),
    "__gt__": lambda one: one > {1: 10},
    "__ior__": lambda one: one.__ior__({1: 11}),
    "__iter__": lambda one: list(one),
    "__le__": lambda one: one <= {1: 10},
    "__len__": len,
    "__lt__": lambda one: one < {1: 10},
    "__ne__": lambda one: one != {1: 10, 2: 20},
    "__or__": lambda one: one | {3: 30},
    "__reduce__": lambda one: one.__reduce__(),
    "__reduce_ex__": lambda one: one.__reduce_ex__(2),
    "__reversed__": lambda one: list(reversed(one)),
    "__ror__": lambda one: {3: 30} | one,
    "__setitem__": lambda one: one.__setitem__(1, 11),
    "clear": lambda one: one.clear(),
    "copy": lambda one: one.copy(),
    "fromkeys": lambda one: one.fromkeys([1]),
    "get": lambda one: one.get(1),
    "items": lambda one: list(one.items()),
    "keys": lambda one: list(one.keys()),
    "pop": lambda one: one.pop(1),
    "popitem": lambda one: one.popitem(),
    "setdefault": lambda one: one.setdefault(1, 11),
    "update": lambda one: one.update({1: 11}),
    "values": lambda one: list(one.values()),
}
WHOLE: Final[dict[str, Use]] = {
    "dict(one)": dict,
    "{**one}": lambda one: {**one},
    "sorted(one)": sorted,
    "bool(one)": bool,
    "(lambda **_: None)(**one)": lambda one: dict.update({}, one),
    "one in (view of items)": lambda one: (1, 10) in one.items(),
    "one in (view of keys)": lambda one: 1 in one.keys(),  # noqa: SIM118 # the view is what is asked
    "one in (view of values)": lambda one: 10 in one.values(),
    "len(view)": lambda one: len(one.values()),
    "keys & keys": lambda one: one.keys() & {1},
    "match": lambda one: _matched(one),
    "del and membership of what is not there": lambda one: 1 in one or one.pop(1, None),
}


IMPOSSIBLE: Final = frozenset(
    "__ge__ __getstate__ __gt__ __ior__ __le__ __lt__ __or__ __reduce__ __reduce_ex__ __reversed__ __ror__ copy fromkeys".split()
)


def _matched(one: Any) -> object:
    match one:
        case {1: value}:
            return value
    return None


def recorded(told: list[int], **how: Any) -> RecordedDict[int, int]:
    return RecordedDict({1: 10, 2: 20}, told.append, **how)


def outcome(use: Use, one: Any, told: list[int]) -> str:
    """What comes of an access: `recorded`, or `impossible` with nothing learned."""
    try:
        use(one)
    except (Unrecorded, AttributeError, TypeError):
        return "impossible"
    return "recorded" if told else "missed"


def public(kind: type) -> set[str]:
    """All that can be asked of a container."""
    return set(dir(kind)) - OF_EVERY_OBJECT


def test_every_way_into_a_dictionary_is_looked_at() -> None:
    """A Python that has more of them is found here."""
    assert public(dict) == set(USES)


@pytest.mark.parametrize("name", USES)
def test_each_is_recorded_or_impossible(name: str) -> None:
    told: list[int] = []
    way = outcome(USES[name], recorded(told, all_keys=KEYS), told)
    assert way == ("impossible" if name in IMPOSSIBLE else "recorded")


@pytest.mark.parametrize("name", WHOLE)
def test_so_is_what_the_language_does_by_itself(name: str) -> None:
    told: list[int] = []
    assert outcome(WHOLE[name], recorded(told, all_keys=KEYS), told) == "recorded"


@pytest.mark.parametrize("copies", COPIES, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_copies_there_are_none(copies: Use) -> None:
    told: list[int] = []
    assert outcome(copies, recorded(told, all_keys=KEYS), told) == "impossible"


@pytest.mark.parametrize("name", [*USES, *WHOLE])
def test_where_nobody_may_ask_for_all_keys_what_is_not_recorded_is_impossible(name: str) -> None:
    told: list[int] = []
    assert outcome({**USES, **WHOLE}[name], recorded(told), told) != "missed"


def test_a_length_that_nothing_depends_on_is_all_that_goes_unrecorded() -> None:
    told: list[int] = []
    missed = {
        name
        for name, use in {**USES, **WHOLE}.items()
        if (told.clear(), outcome(use, recorded(told, has_length=True), told))[1] == "missed"
    }
    assert missed == {"__len__", "bool(one)", "len(view)"}


def test_it_does_what_a_dictionary_does() -> None:
    for name in set(USES) - IMPOSSIBLE:
        plain, one = {1: 10, 2: 20}, recorded([], all_keys=KEYS)
        assert (USES[name](one), dict(one)) == (USES[name](plain), plain)


def test_it_is_no_dictionary() -> None:
    """What is written in C takes a subclass for what it is, and asks none of its methods."""
    for kind in (RecordedDict, RecordedPools, RecordedAreas):
        assert not issubclass(kind, dict | list | set)


def test_no_module_of_exploring_has_a_subclass_of_a_container() -> None:
    importlib.import_module("kstack.explore.footprint")

    def all_of(kind: type) -> list[type]:
        return [one for sub in kind.__subclasses__() for one in (sub, *all_of(sub))]

    found = [one for kind in (dict, list, set) for one in all_of(kind)]
    assert [one for one in found if one.__module__.startswith("kstack.explore")] == []


# --- pools and areas


POOL_USES: Final[dict[str, Use]] = {
    "__contains__": lambda one: 0x1000 in one,
    "allocate": lambda one: one.allocate(),
    "give": lambda one: one.give(0, 0x9000),
    "level": lambda one: one.level(0),
    "take": lambda one: one.take(0),
}
AREA_USES: Final[dict[str, Use]] = {"find": lambda one: one.find({}, 0x4000)}
UNRECORDED: Final = {"add"}  # what a thread's stack is, is known of the thread


def told_of_pools(told: list[int]) -> RecordedPools:
    pools = Pools(PoolConfig(per_cpu=1), 1, [0x1000, 0x2000, 0x3000])
    return RecordedPools(pools, told.append, lambda: told.append(-1), told.append)


def told_of_areas(told: list[int]) -> RecordedAreas:
    return RecordedAreas(Areas(), told.append)


@pytest.mark.parametrize(
    ("inside", "make", "uses"),
    [
        (Pools(PoolConfig(), 1, [0x1000]), told_of_pools, POOL_USES),
        (Areas(), told_of_areas, AREA_USES),
    ],
    ids=["pools", "areas"],
)
def test_of_pools_and_areas_too(inside: object, make: Callable[[list[int]], object], uses: dict[str, Use]) -> None:
    names = {name for name in (*dir(inside), *vars(inside)) if not name.startswith("_")} | set(uses)
    for name in names - UNRECORDED:
        told: list[int] = []
        one = make(told)
        if name in uses:
            assert outcome(uses[name], one, told) == "recorded", name
        else:
            with pytest.raises(AttributeError):
                getattr(one, name)
    for copies in COPIES:
        assert outcome(copies, make([]), []) == "impossible"


def test_what_is_behind_pools_is_touched_where_one_is_empty() -> None:
    told: list[int] = []
    pools = told_of_pools(told)
    pools.take(0)
    assert told == [0]
    pools.take(0)
    assert told == [0, 0, -1]


def test_areas_are_added_to_without_a_record() -> None:
    told: list[int] = []
    areas = told_of_areas(told)
    thread = Thread(7, 0x4000, 0x4000)
    areas.add(thread)
    assert told == []
    assert areas.find({7: thread}, 0x5000) is thread
    assert told == [0x5000]
