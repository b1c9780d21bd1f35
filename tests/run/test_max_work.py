"""`--max-work`: a bound on what a guest makes the host do, which ends a run at the same place everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from kstack.debug.forks import recording_of
from kstack.debug.origin import Origin
from kstack.debug.timeline import Timeline
from kstack.hw.cpu.state import SliceEnd
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.kernels.scenario import USUAL_WORK, usual_work
from kstack.load import load
from kstack.machine import FOR_EVER, Machine, MachineConfig
from kstack.recording import read_recording
from kstack.run.options import RunOptions
from kstack.run.result import WORK
from kstack.run.session import Session
from kstack.run.spec import boot, replay_session
from kstack.run.writes import RegisterChange
from kstack.schedule import RoundRobin
from kstack.stacks.loading.registry import find_policy
from tests.support.command import kstack, kstack_process

STORM: Final = bytes.fromhex("31c08ed88ed0bc007c c7061800157c c7061a000000 0f0b cf".replace(" ", ""))
"""Boot code: a handler for #UD that returns to where it was, and UD2. Each round is a fault, its delivery, and an IRET."""
AN_END: Final = bytes.fromhex("b010e6f4ebfe")  # to the debug-exit port; a branch behind it
CPUID: Final = b"\x0f\xa2"


@pytest.fixture
def storm(tmp_path: Path) -> Path:
    image = tmp_path / "storm.bin"
    image.write_bytes(STORM)
    return image


def run_document(image: Path, *words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kstack("run", image, "--format", "flat", "--json", *words).stdout)
    return found


def bare_session(code: bytes, max_work: int | None, quantum: int = 100) -> Session:
    machine = Machine(MachineConfig(1, 1 << 20))
    symbols = load(machine, code, "code", "flat")
    return Session(machine, symbols, RoundRobin(quantum), None, RunOptions(100_000, max_work=max_work))


def test_a_storm_of_exceptions_ends_by_it_and_says_so(storm: Path) -> None:
    found = run_document(storm, "--max-work", 3000)
    assert (found["exit"], found["code"]) == (WORK, 4)
    assert 1000 < found["instructions"] < 10_000
    text = kstack("run", storm, "--format", "flat", "--max-work", 3000)
    assert text.returncode == 4
    assert f"bound of host work: virtual time {found['instructions']}" in text.stderr


def test_it_ends_at_the_same_virtual_time_in_every_process(storm: Path) -> None:
    words = ("run", storm, "--format", "flat", "--max-work", 3000, "--schedule", "random", "--json")
    one, other = (json.loads(kstack_process(*words).stdout) for _ in range(2))
    assert one == other
    assert one["exit"] == WORK


def test_its_recording_ends_in_the_same_way(storm: Path, tmp_path: Path) -> None:
    file = tmp_path / "storm.json"
    found = run_document(storm, "--max-work", 3000, "--schedule", "round-robin:100000", "--record", file)
    replayed = json.loads(kstack("replay", file, "--json").stdout)
    assert replayed["identical"]
    for part in ("exit", "instructions", "state_hash"):
        assert replayed[part] == found[part]
    assert kstack("replay", file, "--to", found["instructions"] + 50).stderr.count(
        f"ends at virtual time {found['instructions']}"
    )


def test_a_debugger_goes_no_further_than_its_recording(storm: Path, tmp_path: Path) -> None:
    file = tmp_path / "storm.json"
    found = run_document(storm, "--max-work", 3000, "--schedule", "round-robin:100000", "--record", file)
    assert Origin.of_recording(read_recording(file)).limit == found["instructions"]


def test_a_debugger_that_goes_to_and_fro_ends_where_it_does_and_goes_on_from_there_once_it_has_written(
    storm: Path, tmp_path: Path
) -> None:
    file = tmp_path / "storm.json"
    found = run_document(storm, "--max-work", 3000, "--schedule", "round-robin:100000", "--record", file)
    timeline = Timeline(Origin.of_recording(read_recording(file)))
    for units in (1, 7, 100_000):
        while timeline.prepare():
            timeline.advance(units)
            timeline.machine.state_hash()  # which lets engines start empty: more work of the host's
        assert (timeline.ended, timeline.time) == (WORK, found["instructions"])
        assert timeline.machine.state_hash() == found["state_hash"]
        timeline.goto(500)
    timeline.write(RegisterChange(0, "rbx", 5))
    timeline.goto(5_000)
    assert timeline.time == 5_000, "the bound was the recording's"
    fork = recording_of(timeline)
    assert fork.max_work is None and replay_session(fork).run().state_hash == fork.state_hash


def test_a_guest_that_ends_with_its_last_unit_has_ended_by_itself() -> None:
    whole = bare_session(CPUID + AN_END, None)
    assert whole.run().ended == "exit"
    assert bare_session(CPUID + AN_END, whole.machine.work).run().ended == "exit"
    assert bare_session(CPUID + AN_END, whole.machine.work - 2).run().ended == WORK


def test_a_slice_does_nothing_at_the_bound() -> None:
    machine = bare_session(STORM, None).machine
    machine.work_limit = machine.work
    assert machine.run(0, 100) == (SliceEnd.WORK, 0)
    machine.work_limit = FOR_EVER
    assert machine.run(0, 100).elapsed >= 100


def test_short_slices_are_no_work_of_the_guests() -> None:
    code = bytes.fromhex("b9e803e2fe") + AN_END  # MOV CX, 1000; LOOP
    works = set()
    for quantum in (1, 7, 100_000):
        made = bare_session(code, None, quantum)
        made.run()
        works.add(made.machine.work)
    assert works == {2}  # OUT: the stop, and what is done about it


def test_an_exception_in_a_long_stretch_of_code_is_more_work_than_one_before_a_branch() -> None:
    works = []
    for behind in (b"\xeb\xfe", b"\x90" * 400):
        made = bare_session(b"\x31\xdb\xf7\xf3" + behind, None, 1000)  # DIV of zero, which nobody handles
        made.run()
        works.append(made.machine.work)
    assert works == [2, 2 + 32]


def test_no_scenario_comes_near_to_what_a_run_may_usually_take() -> None:
    scenario = find_scenario("futex-sleepers")  # the most of all
    made = boot(scenario).session(find_policy("fixed-16k")(), RoundRobin(10))
    before = made.machine.work
    assert made.run().ended == "exit"
    assert made.machine.work - before < USUAL_WORK // 10
    assert usual_work(None) == USUAL_WORK and usual_work(scenario) == max(USUAL_WORK, scenario.max_instructions)


@pytest.mark.policy("fixed-16k")
def test_a_test_may_give_its_guest_a_bound(guest: Any) -> None:
    assert guest("laight", max_work=100).result.ended == WORK
