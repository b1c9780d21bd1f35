"""What the strategies draw is what they say, reaches all there is, and shrinks to the plainest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from kstack.base.errors import ConfigError
from kstack.explore.breadth_first import Problem, search
from kstack.fault import ACTIONS, At, Fault, Injector, Moment
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.walk import Attempt, PagingControl, TableEntry, WalkRules, walk
from kstack.hw.modes import Modes
from kstack.kernels.kstack.litmus import STACK, Operation, Visit, write_scenario, write_visits
from kstack.schedule import Choice, RoundRobin, Scheduler
from kstack.stacks import Thread, map_pages
from kstack.stacks.loading.registry import find_policy
from kstack.testing.schedulers import Following
from kstack.testing.strategies import Tables, choices, faults, operations, page_tables, schedulers, visits
from kstack.x86.entries import RW, US, D, P

CONTROL = PagingControl(write_protect=True, no_execute=True, smep=False)
LOOK = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])


def reaches(strategy: st.SearchStrategy[Any], what: Any) -> Any:
    """The plainest that is drawn of which this holds."""
    return find(strategy, what, settings=settings(max_examples=5000, database=None))


def drawn(strategy: st.SearchStrategy[Any], of: Any) -> list[Any]:
    """What there is among a few hundred that are drawn, in order."""
    seen = set()

    @settings(max_examples=600, database=None, derandomize=True)
    @given(strategy)
    def note(one: Any) -> None:
        seen.add(of(one))

    note()
    return sorted(seen)


# --- page tables


def translated(tables: Tables, address: int, attempt: Attempt | None, rules: WalkRules = WalkRules()) -> Any:
    memory = PhysicalMemory(1 << 20)
    tables.write(memory)
    return walk(memory, TableEntry(tables.root, RW | US), 39, address, attempt, CONTROL, rules)


@LOOK
@given(page_tables(valid=True))
def test_valid_tables_translate_as_they_say(tables: Tables) -> None:
    for mapping in tables.mappings:
        found = translated(tables, mapping.address, None).translation
        assert (found.frame, found.shift) == (mapping.frame, mapping.shift)
        assert (found.writable, found.user, found.no_execute) == (mapping.writable, mapping.user, mapping.no_execute)


@LOOK
@given(page_tables())
def test_a_mapping_says_whether_it_is_valid(tables: Tables) -> None:
    for mapping in tables.mappings:
        found = translated(tables, mapping.address, None)
        assert (found.error is None) == mapping.valid
        assert [where for where, _ in found.path] == [where for where, _ in mapping.entries][: len(found.path)]


def test_a_walk_that_does_not_gather_rights_is_found_by_them() -> None:
    broken = reaches(
        page_tables(valid=True),
        lambda tables: any(
            translated(tables, one.address, None, WalkRules(combine=False)).translation.writable != one.writable
            for one in tables.mappings
        ),
    )
    assert len(broken.mappings) == 1, "it shrinks to one page"


def test_tables_shrink_to_one_page_with_every_right() -> None:
    plain = reaches(page_tables(), lambda tables: True)
    assert [(one.address, one.shift, one.frame) for one in plain.mappings] == [(0, 12, 0x200000)]
    assert all(entry & 0xFFF == P | RW | US for _, entry in plain.words)


def features(tables: Tables) -> tuple[str, ...]:
    first, frames = tables.mappings[0], [one.frame for one in tables.mappings]
    leaf = first.entries[-1][1]
    found = {
        "aliases": len(set(frames)) < len(frames),
        "2 MiB": first.shift == 21,
        "1 GiB": first.shift == 30,
        "negative": bool(first.address >> 63) and first.address >= 0xFFFF_FF80_0000_0000,
        "not present": not leaf & P,
        "reserved bit above": bool(first.entries[0][1] >> 40 & 0xFFF),
        "dirty": bool(leaf & D),
        "read-only above": not first.entries[0][1] & RW,
    }
    return tuple(name for name, there in found.items() if there)


def test_tables_reach_what_there_is() -> None:
    seen = {name for one in drawn(page_tables(), features) for name in one}
    assert len(seen) == 8, sorted(seen)


@given(page_tables(valid=True, large=False))
def test_what_is_left_out_is_not_drawn(tables: Tables) -> None:
    assert all(one.valid and one.shift == 12 for one in tables.mappings)


# --- schedules


@given(choices(3, most=10, longest=7))
def test_choices_are_in_range(drawn: list[Choice]) -> None:
    assert len(drawn) <= 10
    assert all(0 <= cpu < 3 and 1 <= units <= 7 for cpu, units in drawn)


def test_schedules_are_of_every_kind_and_shrink_to_none_at_all() -> None:
    assert drawn(schedulers(2), lambda one: type(one).__name__) == [
        "Following",
        "PctSchedule",
        "RandomSchedule",
        "RoundRobin",
    ]
    assert isinstance(reaches(schedulers(2), lambda one: True), Following)
    assert reaches(choices(2), lambda one: True) == []


@pytest.mark.policy("switch-sp-ipi")
@FEW
@given(scheduler=schedulers(2))
def test_a_safe_policy_passes_under_all_of_them(guest: Any, scheduler: Scheduler) -> None:
    assert guest("laight", schedule=scheduler).passed


# --- faults


@LOOK
@given(faults(2, places=["schedule"], addresses=[0x1000, 0x2000], steps=["WritePte"], latest=100))
def test_a_fault_makes_sense(fault: Fault) -> None:
    assert fault.checked(2) is fault
    assert not isinstance(fault.when, Moment) or fault.when.time <= 100


def test_faults_are_of_every_kind() -> None:
    assert drawn(faults(2, places=["schedule"]), lambda fault: fault.what) == sorted(ACTIONS)
    triggers = {name for what in ACTIONS.values() for kind in what.triggers for name in [kind.__name__]}
    assert drawn(faults(2, places=["schedule"]), lambda fault: type(fault.when).__name__) == sorted(triggers)
    assert drawn(faults(2, what=["nmi", "skip"]), lambda fault: fault.what) == ["nmi"], "skip needs a place"


@given(faults(2))
def test_without_places_nothing_waits_for_an_instruction(fault: Fault) -> None:
    assert not isinstance(fault.when, At)
    assert fault.what != "skip"


def test_a_fault_shrinks_to_its_first_moment() -> None:
    assert reaches(faults(2, what=["drop-ipi"]), lambda fault: True).when.nth == 1
    assert reaches(faults(2, what=["nmi"]), lambda fault: isinstance(fault.when, Moment)) == Fault("nmi", Moment(0))


@FEW
@given(fault=faults(2, places=["schedule", "laight_watch"], latest=100_000))
def test_an_injector_takes_all_of_them(guest: Any, fault: Fault) -> None:
    session = guest("laight").start.session(RoundRobin(100))
    assert Injector(session, [fault]).fired == [None]


# --- programs


@FEW
@given(programs=operations(2, most=2))
def test_memory_operations_make_a_scenario_that_can_be_explored(
    programs: list[tuple[Operation, ...]], tmp_path: Path
) -> None:
    toml = write_scenario(tmp_path, programs)
    assert search(Problem(str(toml), "fixed-16k", Modes())).verdict == "safe"


def test_operations_are_of_every_kind() -> None:
    kinds = drawn(operations(), lambda programs: programs[0][0].what if programs[0] else "")
    assert kinds == ["", "exchange", "fence", "load", "lock", "store"]
    assert reaches(operations(3), lambda drawn: True) == [(), (), ()]


@FEW
@given(programs=visits(2, most=2))
def test_visits_are_safe_under_a_safe_policy(guest: Any, programs: list[list[Visit]], tmp_path: Path) -> None:
    run = guest(write_visits(tmp_path, programs), policy="switch-sp-ipi")
    assert run.passed, run.failure


class Discards(find_policy("switch-sp-ipi")):  # type: ignore[misc] # a class found at run time
    """Gives a sleeper's pages away up to the top one, whatever it has there."""

    id = "discards"

    def switch_out(self, cpu: int, thread: Thread) -> Any:
        yield from super().switch_out(cpu, replace(thread, saved_rsp=thread.top.address + 4088))

    def switch_in(self, cpu: int, thread: Thread) -> Any:
        yield from map_pages(thread.pages)


def test_a_policy_that_discards_what_is_in_use_is_found_by_two_visits(guest: Any, tmp_path: Path) -> None:
    found = []
    for depth, sleeps in ((64, True), (4104, True), (4104, False)):
        run = guest(write_visits(tmp_path, [[Visit(0, depth, sleeps), Visit(0, depth)], []]), policy=Discards)
        found.append(run.passed)
    assert found == [True, False, True], "only what a sleeper has below its top page is lost"


def test_visits_that_no_kernel_makes_are_refused(tmp_path: Path) -> None:
    for wrong in ([[Visit(0, 64)], [Visit(0, 64)]], [[Visit(0, 63)]], [[Visit(0, STACK + 8)]], [[Visit(8, 64)]]):
        with pytest.raises(ConfigError, match="give"):
            write_visits(tmp_path, wrong)
