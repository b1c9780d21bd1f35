"""Schedules: deterministic by seed, fair where they say so, scripts followed in guest events."""

from __future__ import annotations

import random

import pytest

from kstack.base.errors import ConfigError, RecordingError
from kstack.schedule import (
    Choice,
    PctSchedule,
    RandomSchedule,
    ReplaySchedule,
    RoundRobin,
    Scheduler,
    Script,
    ScriptedSchedule,
    ScriptStep,
    View,
    parse,
)
from kstack.schedule.scripted import STEP_LIMIT

BOTH = View((0, 1), frozenset(), 0)


def choices(scheduler: Scheduler, count: int, runnable: tuple[int, ...] = (0, 1, 2)) -> list[Choice]:
    time, made = 0, []
    for _ in range(count):
        choice = scheduler.choose(View(runnable, frozenset(), time))
        made.append(choice)
        time += choice.quantum
    return made


def test_round_robin_gives_every_runnable_cpu_its_turn() -> None:
    assert [choice.cpu for choice in choices(RoundRobin(5), 6)] == [0, 1, 2, 0, 1, 2]
    turns = RoundRobin(5)
    turns.choose(View((0, 1, 2), frozenset(), 0))
    assert turns.choose(View((0, 2), frozenset(), 5)).cpu == 2, "a CPU that cannot run is passed over"


@pytest.mark.parametrize("make", [RandomSchedule, lambda seed: PctSchedule(seed, 3)])
def test_a_seed_gives_one_schedule_and_another_seed_another(make) -> None:
    assert choices(make(1), 200) == choices(make(1), 200)
    assert choices(make(1), 200) != choices(make(2), 200)


def test_random_quanta_reach_from_single_instructions_to_the_longest() -> None:
    quanta = {choice.quantum for choice in choices(RandomSchedule(1, 64), 2000)}
    assert 1 in quanta
    assert max(quanta) == 64


def test_pct_lets_nobody_starve() -> None:
    cpus = [choice.cpu for choice in choices(PctSchedule(4, 2), 2000)]
    assert set(cpus) == {0, 1, 2}


def test_a_script_runs_one_cpu_until_its_event_then_the_next() -> None:
    schedule = ScriptedSchedule(Script((ScriptStep(0, "a"), ScriptStep(1, "b"))))
    assert schedule.choose(BOTH).cpu == 0
    schedule.event(1, "a")
    assert schedule.choose(BOTH).cpu == 0, "the event of another CPU is not meant"
    schedule.event(0, "a")
    assert schedule.choose(BOTH).cpu == 1
    schedule.event(1, "b")
    assert schedule.finished
    assert {schedule.choose(BOTH).cpu for _ in range(4)} == {0, 1}, "after the script everybody runs"


def test_a_script_lets_the_others_run_while_its_cpu_waits_for_them() -> None:
    schedule = ScriptedSchedule(Script((ScriptStep(0, "a"),)))
    blocked = View((0, 1), frozenset({0}), 0)
    assert {schedule.choose(blocked).cpu for _ in range(4)} == {0, 1}
    assert schedule.choose(View((1,), frozenset(), 0)).cpu == 1, "its CPU sleeps"


def test_a_script_that_is_not_followed_says_where() -> None:
    schedule = ScriptedSchedule(Script((ScriptStep(0, "a"), ScriptStep(1, "b"))))
    schedule.choose(BOTH)
    schedule.event(0, "a")
    schedule.choose(BOTH._replace(time=10))
    schedule.choose(BOTH._replace(time=11 + STEP_LIMIT))
    assert schedule.stuck is not None
    assert "step 2" in schedule.stuck
    assert "'b'" in schedule.stuck


def test_a_replay_refuses_to_go_another_way() -> None:
    with pytest.raises(RecordingError, match="CPU 1 cannot run"):
        ReplaySchedule([Choice(1, 5)]).choose(View((0,), frozenset(), 7))
    schedule = ReplaySchedule([Choice(1, 5)])
    assert schedule.choose(BOTH) == Choice(1, 5)
    with pytest.raises(RecordingError, match="after the 1 slices"):
        schedule.choose(BOTH)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("round-robin", RoundRobin), ("round-robin:7", RoundRobin), ("random", RandomSchedule), ("pct:3", PctSchedule)],
)
def test_schedules_have_names_on_the_command_line(text: str, kind: type) -> None:
    assert isinstance(parse(text), kind)


@pytest.mark.parametrize("text", ["", "round-robin:0", "round-robin:x", "pct", "scripted", "scripted:2", "fifo"])
def test_a_schedule_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_a_random_schedule_draws_what_randrange_draws() -> None:
    """So that recordings and seeds of before mean the same."""
    for seed in range(20):
        schedule, rng = RandomSchedule(seed), random.Random(seed)
        for turn in range(100):
            cpus = 1 + turn % 3
            choice = schedule.choose(View(tuple(range(cpus)), frozenset(), 0))
            cpu, scale = rng.randrange(cpus), 1 << rng.randrange(7)
            assert choice == (cpu, min(64, rng.randrange(scale, 2 * scale)))
