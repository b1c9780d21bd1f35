"""What commutes is made in one order: the same verdicts as with every move, and what it rests on is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.shootdown import VARIANTS, Shootdown, write_guest
from kstack.base.errors import ConfigError
from kstack.explore import breadth_first as stateful
from kstack.explore import may_access, persistent_sets
from kstack.explore.breadth_first import Bounds, Outcome, Problem, search
from kstack.explore.footprint import READ, READ_IN, WRITE, WRITE_IN, AccessMode, LocationAccess
from kstack.explore.may_access import FutureAccesses, LearnedAccesses, Reliances
from kstack.explore.nodes import Node
from kstack.explore.transitions import StateSpace
from kstack.hw.modes import Modes
from tests.support.memory_order import abstract, outcomes, parse, write_scenario

PAIRS = [
    ("litmus-laight", "entry-exit", Modes()),
    ("litmus-laight", "switch-sp-ipi", Modes()),
    ("litmus-migrate", "switch-sp-shared", Modes()),
    ("litmus-pressure", "sleeper-gc", Modes()),
    ("litmus-quiet", "accessed-latch", Modes()),
    ("litmus-quiet", "accessed-latch", Modes(speculation="keeps-accessed-clear")),
    ("litmus-walker", "accessed-plain", Modes(speculation="needs-accessed")),
    ("litmus-reuse", "fixed-16k", Modes()),
    ("litmus-laight", "switch-sp-deferred", Modes(memory_order="tso")),
    ("litmus-wilcox", "switch-sp-invlpgb", Modes(kernel_pages="pcid")),
]


def said(outcome: Outcome) -> tuple[object, ...]:
    exercised = outcome.exercised > 0 if outcome.verdict == "safe" else None
    return outcome.verdict, outcome.finding, outcome.path, outcome.shortest, outcome.stuck > 0, exercised


@pytest.mark.parametrize(("scenario", "policy", "modes"), PAIRS)
def test_it_says_what_every_move_says(scenario: str, policy: str, modes: Modes) -> None:
    problem = Problem(scenario, policy, modes)
    reduced, every = search(problem), search(problem, Bounds(every_move=True))
    assert said(reduced) == said(every)
    assert reduced.states < every.states if every.verdict == "safe" else reduced.states == every.states


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_cpus_need_a_tenth_of_the_states(variant: str, tmp_path: Path) -> None:
    policy = type("Variant", (Shootdown,), {"variant": variant})
    problem = Problem(str(write_guest(tmp_path, 2, 1)), policy, Modes())
    reduced, every = search(problem), search(problem, Bounds(every_move=True))
    assert said(reduced) == said(every)
    assert reduced.verdict == ("safe" if VARIANTS[variant] else "unsafe")
    if VARIANTS[variant]:
        assert reduced.states < every.states / 10


@pytest.mark.parametrize("mode", [READ, WRITE, READ_IN, WRITE_IN])
@pytest.mark.parametrize("other", [READ, WRITE, READ_IN, WRITE_IN])
def test_accesses_conflict_if_one_writes_but_for_two_that_are_compared_by_words(
    mode: AccessMode, other: AccessMode
) -> None:
    known = FutureAccesses()
    writes, words = {WRITE, WRITE_IN}, {READ_IN, WRITE_IN}
    conflicts = bool({mode, other} & writes) and not {mode, other} <= words
    assert (
        bool(
            known.bits([LocationAccess("frame", mode)]).conflicting
            & known.bits([LocationAccess("frame", other)]).accessed
        )
        == conflicts
    )


def test_a_cpu_that_would_take_an_ipi_depends_on_who_sends_it_one() -> None:
    """That holds for what it can do next, before it has done it; with interrupts off it does not look."""
    outcome = search(Problem("litmus-laight", "switch-sp-ipi", Modes()))
    space = StateSpace(Problem("litmus-laight", "switch-sp-ipi", Modes(), tuple(outcome.visible.frames)).world())
    seen, work, met = {space.root.key}, [space.root], set()
    while work and len(seen) < 150:
        node = work.pop(0)
        for enabled in space.enabled(node):
            space.world.become(space.table.state(node))
            takes = space.world.machine.cpus[enabled.cpu].registers.interrupt_flag
            assert (LocationAccess(f"ipi {enabled.cpu}", READ) in enabled.accesses) == takes
            met.add(takes)
        for move in space.moves(node):
            after = space.make(node, move).node
            if after.key not in seen:
                seen.add(after.key)
                work.append(after)
    assert met == {True, False}


def test_a_search_to_which_nothing_conflicts_misses_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = [parse("x=1; y=1"), parse("r y; r x")]
    toml = write_scenario(tmp_path, programs)
    monkeypatch.setattr(may_access, "_CONFLICTS", dict.fromkeys((READ, WRITE, READ_IN, WRITE_IN), ()))
    assert outcomes(toml, programs, "sc", every_move=False) < abstract(programs, buffered=False)


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nothing is known at first, so that a search relies on what is not so; how many states are expanded again, by layer."""
    found: list[int] = []
    take_in = persistent_sets.ReliantStates.take_in

    def counted(self: persistent_sets.ReliantStates, *args: Any) -> dict[int, Node]:
        states = take_in(self, *args)
        found.append(len(states))
        return states

    monkeypatch.setattr(persistent_sets, "WALKS", 0)
    monkeypatch.setattr(persistent_sets.ReliantStates, "take_in", counted)
    return found


def test_what_relies_on_what_is_not_so_is_expanded_again(again: list[int]) -> None:
    problem = Problem("litmus-pressure", "sleeper-gc", Modes())
    assert search(problem).verdict == "safe"
    assert sum(again) > 0


PROGRAMS = ["x=1; y=1; r z", "r y; r x; z=1"]


def test_outcomes_are_all_found_though_nothing_is_known_at_first(again: list[int], tmp_path: Path) -> None:
    programs = [parse(one) for one in PROGRAMS]
    toml = write_scenario(tmp_path, programs)
    assert outcomes(toml, programs, "sc", every_move=False) == abstract(programs, buffered=False)
    assert sum(again) > 0


def test_what_is_not_expanded_again_is_missed(
    again: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = [parse(one) for one in PROGRAMS]
    toml = write_scenario(tmp_path, programs)
    monkeypatch.setattr(may_access.Reliances, "broken", lambda *_: [])
    assert outcomes(toml, programs, "sc", every_move=False) < abstract(programs, buffered=False)


def test_a_bounded_depth_makes_every_move() -> None:
    assert Bounds().reduces
    assert not Bounds(depth=90).reduces
    problem = Problem("litmus-laight", "switch-sp-ipi", Modes())
    assert search(problem, Bounds(depth=1000)).states == search(problem, Bounds(every_move=True)).states


def test_a_finding_whose_shortest_way_is_cut_is_still_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second search is over its budget at once."""
    problem, ways = Problem("litmus-laight", "entry-exit", Modes()), []
    run = stateful._Search.run

    def hurried(self: stateful._Search, saved: stateful.SearchCheckpoint | None) -> Outcome:
        if self._sets is None:
            self._deadline = 0.0
        outcome = run(self, saved)
        ways.append(outcome)
        return outcome

    monkeypatch.setattr(stateful._Search, "run", hurried)
    found = search(problem, Bounds(budget=1000.0))
    assert ways[-1].verdict == "undecided"
    assert (found.verdict, found.shortest) == ("unsafe", False)
    assert found.finding is not None
    assert found.finding.kind.value == "stale-translation"


def test_a_checkpoint_of_a_search_with_every_move_is_of_another_search(tmp_path: Path) -> None:
    place, problem = tmp_path / "search", Problem("litmus-laight", "switch-sp-ipi", Modes())
    search(problem, Bounds(states=500, every_move=True), checkpoint=place)
    with pytest.raises(ConfigError, match="every move"):
        search(problem, checkpoint=place)


def news(known: FutureAccesses, *edges: tuple[int, int, list[tuple[str, AccessMode]]]) -> LearnedAccesses:
    """Moves from one place to another, each with what it touches."""
    found = {
        (here, there): known.bits([LocationAccess(*one) for one in accesses]).accessed
        for here, there, accesses in edges
    }
    return LearnedAccesses(list(known.names), found)


class TestFutureAccesses:
    """Places by number."""

    def test_from_a_place_all_may_be_accessed_that_is_accessed_behind_it(self) -> None:
        known = FutureAccesses()
        x, y = (known.bits([LocationAccess(name, WRITE)]).accessed for name in "xy")
        assert known.add(news(known, (1, 2, [("x", WRITE)]), (2, 3, [("y", WRITE)])))
        assert (known.future[1], known.future[2], known.future.get(3, 0)) == (x | y, y, 0)

    def test_what_is_learned_of_a_place_is_known_of_all_before_it(self) -> None:
        known = FutureAccesses()
        known.add(news(known, (1, 2, []), (2, 1, []), (0, 1, [("x", READ)])))
        assert sorted(known.add(news(known, (2, 3, [("y", READ)])))) == [0, 1, 2]
        assert known.future[1] == known.future[2] == known.bits([LocationAccess("y", READ)]).accessed

    def test_what_is_known_is_no_news(self) -> None:
        known = FutureAccesses()
        one = news(known, (1, 2, [("x", READ)]))
        assert known.add(one) == [1]
        assert known.add(one) == []

    def test_names_have_their_own_numbers_elsewhere(self) -> None:
        known, other = FutureAccesses(), FutureAccesses()
        known.bits([LocationAccess("x", READ)])
        other.bits([LocationAccess("y", READ), LocationAccess("x", READ)])
        known.add(news(other, (1, 2, [("y", WRITE)])))
        assert known.future[1] == known.bits([LocationAccess("y", WRITE)]).accessed


class TestReliances:
    def test_a_state_is_named_once_it_has_relied_on_what_is_not_so(self) -> None:
        known, relied = FutureAccesses(), Reliances()
        x, y = (known.bits([LocationAccess(name, WRITE)]).conflicting for name in "xy")
        relied.add(10, [(1, x)])
        relied.add(11, [(1, y), (2, x)])
        known.add(news(known, (1, 3, [("x", READ)])))
        assert relied.broken(known, [1]) == [10]
        assert relied.broken(known, [1]) == []
        assert list(relied) == [(11, 1, y), (11, 2, x)]


class TestClosed:
    """CPUs 0, 1, 2 by bits."""

    def test_who_conflicts_with_nobody_goes_alone(self) -> None:
        assert persistent_sets._fewest((1, 2, 1), (0, 0, 0), (0, 0, 0)) == (0b001, 0b110)

    def test_the_fewest_moves_are_taken(self) -> None:
        assert persistent_sets._fewest((3, 2, 1), (0b010, 0b001, 0), (0, 0, 0)) == (0b100, 0b011)

    def test_those_who_conflict_go_together(self) -> None:
        assert persistent_sets._fewest((1, 1, 3), (0b010, 0b001, 0), (0, 0, 0)) == (0b011, 0b100)

    def test_who_waits_does_nothing_until_somebody_can_wake_him(self) -> None:
        """CPUs 0 and 1 conflict with CPU 2, which waits: for nobody, for CPU 1, for both."""
        assert persistent_sets._fewest((1, 1, 0), (0b100, 0b100, 0b010), (0, 0, 0)) == (0b001, 0b010)
        assert persistent_sets._fewest((1, 1, 0), (0b100, 0b100, 0b010), (0, 0, 0b010)) == (0b010, 0b001)
        assert persistent_sets._fewest((1, 1, 0), (0b100, 0b100, 0b011), (0, 0, 0b011)) == (0b111, 0)
