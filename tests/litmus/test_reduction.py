"""What commutes is made in one order: the same verdicts as with every move, and what it rests on is held."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.shootdown import VARIANTS, Shootdown, write_guest
from tests.support.memory_order import abstract, outcomes, parse, write_scenario
from vm.errors import ConfigError
from vm.explore import locality, reduction, stateful
from vm.explore.locality import READ, READ_IN, WRITE, WRITE_IN, Locality
from vm.explore.memo import Memo
from vm.explore.stateful import Bounds, Outcome, Problem, search
from vm.hw.modes import Modes

PAIRS = [
    ("litmus-laight", "entry-exit", Modes()),
    ("litmus-laight", "switch-sp-ipi", Modes()),
    ("litmus-migrate", "switch-sp-shared", Modes()),
    ("litmus-pressure", "sleeper-gc", Modes()),
    ("litmus-quiet", "accessed-latch", Modes()),
    ("litmus-quiet", "accessed-latch", Modes(speculation="keeps-accessed-clear")),
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


@pytest.mark.parametrize("way", [READ, WRITE, READ_IN, WRITE_IN])
@pytest.mark.parametrize("other", [READ, WRITE, READ_IN, WRITE_IN])
def test_touches_conflict_if_one_writes_but_for_two_that_are_compared_by_words(way: int, other: int) -> None:
    known = Locality()
    known.touch(1, [("frame", other)])
    writes, words = {WRITE, WRITE_IN}, {READ_IN, WRITE_IN}
    conflicts = bool({way, other} & writes) and not {way, other} <= words
    assert known.conflicts(0, [("frame", way)]) == (2 if conflicts else 0)


def test_a_cpu_that_would_take_an_ipi_depends_on_who_sends_it_one() -> None:
    """That holds for what it can do next, before it has done it; with interrupts off it does not look."""
    outcome = search(Problem("litmus-laight", "switch-sp-ipi", Modes()))
    memo = Memo(Problem("litmus-laight", "switch-sp-ipi", Modes(), tuple(outcome.visible.frames)).world())
    seen, work, met = {memo.root.key}, [memo.root], set()
    while work and len(seen) < 150:
        node = work.pop(0)
        for ways in memo.ways(node):
            memo.world.become(memo.cells.state(node))
            takes = memo.world.machine.cpus[ways.cpu].registers.interrupt_flag
            assert ((f"ipi {ways.cpu}", READ) in ways.touches) == takes
            met.add(takes)
        for move in memo.moves(node):
            after = memo.make(node, move).node
            if after.key not in seen:
                seen.add(after.key)
                work.append(after)
    assert met == {True, False}


def test_a_reduction_to_which_nothing_conflicts_misses_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = [parse("x=1; y=1"), parse("r y; r x")]
    toml = write_scenario(tmp_path, programs)
    monkeypatch.setattr(locality, "_CONFLICTS", dict.fromkeys((READ, WRITE, READ_IN, WRITE_IN), ()))
    assert outcomes(toml, programs, "sc", known=Locality()) < abstract(programs, buffered=False)


def test_what_turns_out_otherwise_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known at first, so a search relies on what is not so; without the check it stays with that."""
    attempts: list[int] = []
    take_in = reduction.Reduction.take_in

    def counted(self: reduction.Reduction) -> None:
        try:
            take_in(self)
        except reduction.Shared:
            attempts.append(sum(mask.bit_count() for masks in self.known.touched.values() for mask in masks))
            raise

    monkeypatch.setattr(reduction.Reduction, "take_in", counted)
    assert search(Problem("litmus-laight", "switch-sp-ipi", Modes())).verdict == "safe"
    assert attempts
    assert attempts == sorted(set(attempts)), "each attempt knows more"


def test_a_bounded_depth_makes_every_move() -> None:
    assert Bounds().reduces
    assert not Bounds(depth=90).reduces
    problem = Problem("litmus-laight", "switch-sp-ipi", Modes())
    assert search(problem, Bounds(depth=1000)).states == search(problem, Bounds(every_move=True)).states


def test_a_finding_whose_shortest_way_is_cut_is_still_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second search is over its budget at once."""
    problem, ways = Problem("litmus-laight", "entry-exit", Modes()), []
    run = stateful._Search.run

    def hurried(self: stateful._Search, saved: stateful.Checkpoint | None) -> Outcome:
        if self._reduction is None:
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


class TestLocality:
    def test_reads_commute_and_writes_do_not(self) -> None:
        known = Locality()
        known.touch(0, [("x", READ), ("y", WRITE)])
        assert known.conflicts(1, [("x", READ)]) == 0
        assert known.conflicts(1, [("x", WRITE)]) == 0b01
        assert known.conflicts(1, [("y", READ)]) == 0b01
        assert known.conflicts(0, [("y", WRITE)]) == 0, "not with itself"

    def test_words_of_a_frame_commute_with_each_other_but_not_with_the_whole(self) -> None:
        known = Locality()
        known.touch(0, [("frame 7", WRITE_IN), ("frame 7+0x8", WRITE)])
        assert known.conflicts(1, [("frame 7", READ_IN), ("frame 7+0x10", READ)]) == 0
        assert known.conflicts(1, [("frame 7", READ_IN), ("frame 7+0x8", READ)]) == 0b01
        assert known.conflicts(1, [("frame 7", READ)]) == 0b01
        assert known.conflicts(1, [("frame 7", WRITE_IN), ("frame 7+0x10", WRITE)]) == 0
        known.touch(2, [("frame 7", READ)])
        assert known.conflicts(1, [("frame 7", WRITE_IN), ("frame 7+0x10", WRITE)]) == 0b100

    def test_a_reliance_breaks_when_one_of_those_touches_the_same(self) -> None:
        known = Locality()
        known.rely(0, [("x", WRITE)], 0b010)
        known.touch(2, [("x", READ)])
        assert not known.broken, "nobody has relied on CPU 2"
        known.touch(1, [("x", READ)])
        assert known.broken

    def test_what_others_learned_is_news_once(self) -> None:
        known, other = Locality(), Locality()
        other.touch(1, [("x", READ)])
        assert known.add(other)
        assert not known.add(other)
        assert known.conflicts(0, [("x", WRITE)]) == 0b10


class TestClosed:
    """CPUs 0, 1, 2 by bits."""

    def test_who_conflicts_with_nobody_goes_alone(self) -> None:
        assert reduction._fewest((1, 2, 1), (0, 0, 0), (0, 0, 0)) == (0b001, 0b110)

    def test_the_fewest_moves_are_taken(self) -> None:
        assert reduction._fewest((3, 2, 1), (0b010, 0b001, 0), (0, 0, 0)) == (0b100, 0b011)

    def test_those_who_conflict_go_together(self) -> None:
        assert reduction._fewest((1, 1, 3), (0b010, 0b001, 0), (0, 0, 0)) == (0b011, 0b100)

    def test_who_waits_does_nothing_until_somebody_can_wake_him(self) -> None:
        """CPUs 0 and 1 conflict with CPU 2, which waits: for nobody, for CPU 1, for both."""
        assert reduction._fewest((1, 1, 0), (0b100, 0b100, 0b010), (0, 0, 0)) == (0b001, 0b010)
        assert reduction._fewest((1, 1, 0), (0b100, 0b100, 0b010), (0, 0, 0b010)) == (0b010, 0b001)
        assert reduction._fewest((1, 1, 0), (0b100, 0b100, 0b011), (0, 0, 0b011)) == (0b111, 0)
