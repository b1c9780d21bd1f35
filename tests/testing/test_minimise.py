"""A simpler schedule that fails alike: found by counting alone, within bounds, and really failing alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.fault import Fault, Moment
from kstack.kernels.kstack.litmus import write_guest
from kstack.run.options import RunOptions
from kstack.schedule import Choice, RandomSchedule, RoundRobin
from kstack.stacks.loading.registry import find_policy
from kstack.testing.guests import GuestRun, Start
from kstack.testing.minimise import SIMPLE, deferred, merged, minimise
from kstack.testing.schedulers import Following


def test_choices_of_one_cpu_in_a_row_are_one() -> None:
    assert merged([Choice(0, 1), Choice(0, 2), Choice(1, 5), Choice(0, 4)]) == [
        Choice(0, 3),
        Choice(1, 5),
        Choice(0, 4),
    ]
    assert merged([]) == []


RACE = """
.text
program_0:
    mov ecx, 60
.Lfirst:
    dec ecx
    jnz .Lfirst
    mov qword ptr [r15], 1
    mov qword ptr [r15], 0
    jmp litmus_end
program_1:
    mov ecx, 40
.Lsecond:
    cmp qword ptr [r15], 0
    jne litmus_wrong
    dec ecx
    jnz .Lsecond
    jmp litmus_end
"""
SEED = 42  # of a schedule that lets CPU 1 look between the two stores


def start(policy: str, *faults: Fault, scenario: str = "laight", limit: int = 200_000) -> Start:
    return Start(scenario, 2, 64 << 20, policy=find_policy(policy), options=RunOptions(limit), faults=faults)


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Lost only where CPU 1 comes between two stores: under none of the round robins that are tried first."""
    toml = write_guest(tmp_path_factory.mktemp("race"), RACE, 2, 0)
    found = start("fixed-16k", scenario=str(toml))
    assert all(found.run(RoundRobin(quantum)).passed for quantum in SIMPLE)
    return found


@pytest.fixture(scope="module")
def lost(race: Start) -> GuestRun:
    run = race.run(RandomSchedule(SEED))
    assert run.failure is not None, "choose another seed"
    return run


def test_a_race_that_no_round_robin_loses_needs_four_stretches(lost: GuestRun) -> None:
    best = minimise(lost)
    assert best.kept is not None
    assert len(best.kept) == 4 < len(merged(lost.choices)) / 4
    assert best.run.failure == lost.failure
    assert best.complete


def test_none_of_them_can_be_left_out(race: Start, lost: GuestRun) -> None:
    kept = minimise(lost).kept or ()
    for place in range(len(kept)):
        assert race.run(Following(kept[:place] + kept[place + 1 :])).failure is None, place


def test_it_makes_no_more_runs_than_it_may(lost: GuestRun) -> None:
    whole = minimise(lost)
    assert minimise(lost, runs=whole.tried + 1).tried == whole.tried
    best = minimise(lost, runs=8)
    assert (best.tried, best.complete) == (8, False)
    assert best.run.failure == lost.failure


def test_it_runs_for_no_more_units_than_it_may(lost: GuestRun) -> None:
    units = sum(choice.quantum for choice in lost.choices)
    assert minimise(lost, units=10 * units).tried < minimise(lost).tried


def test_the_same_run_is_made_simpler_in_the_same_way(race: Start, lost: GuestRun) -> None:
    one, other = minimise(lost), minimise(race.run(RandomSchedule(SEED)))
    assert (one.kept, one.tried, one.run.choices) == (other.kept, other.tried, other.run.choices)


def test_no_run_leaves_it_as_it_was(lost: GuestRun) -> None:
    best = minimise(lost, runs=0)
    assert (best.kept, best.tried, best.run.choices) == (None, 0, lost.choices)


def test_a_run_that_fails_in_another_way_is_not_taken_for_it(tmp_path: Path) -> None:
    """Where the race is not lost CPU 0 sleeps for ever."""
    first, _, rest = RACE.partition("    jmp litmus_end")
    here = start("fixed-16k", scenario=str(write_guest(tmp_path, f"{first}    cli\n    hlt{rest}", 2, 0)))
    other, run = here.run(RoundRobin(1000)).failure, here.run(RandomSchedule(SEED))
    assert other is not None
    assert run.failure is not None
    assert other.kind != run.failure.kind == "wrong-data"
    best = minimise(run)
    assert best.run.failure == run.failure
    assert best.kept


def test_what_is_left_out_is_made_up_for() -> None:
    stretches = [Choice(0, 5), Choice(1, 7), Choice(0, 2), Choice(1, 1)]
    assert deferred(stretches, [0, 1, 2, 3]) == stretches
    assert deferred(stretches, [1, 2]) == [Choice(1, 7), Choice(0, 7)], "what comes behind the last one is lost"
    assert deferred(stretches, [2, 3]) == [Choice(0, 7), Choice(1, 8)]


@pytest.mark.parametrize(
    ("faults", "limit", "kind"), [((Fault("hang", Moment(80_000), cpu=1),), 200_000, "deadlock"), ((), 10_000, "bound")]
)
def test_a_guest_that_hangs_is_made_simpler_too(faults: tuple[Fault, ...], limit: int, kind: str) -> None:
    run = start("switch-sp-ipi", *faults, limit=limit).run(RandomSchedule(0))
    assert run.failure is not None
    assert run.failure.kind == kind
    best = minimise(run)
    assert (best.kept, best.tried) == ((), 1)
    assert best.run.start.faults == faults
    assert best.run.failure is not None
    assert best.run.failure.kind == kind


def test_the_run_ends_with_the_instruction_that_brings_the_finding() -> None:
    run = start("entry-exit").run(RandomSchedule(1))
    best = minimise(run)
    assert best.run.result.ended == "finding"
    assert best.run.result.time - best.run.findings[0].time <= 1 < run.result.time - run.findings[0].time
