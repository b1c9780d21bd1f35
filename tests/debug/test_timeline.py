"""Anywhere on the line the machine is what a plain replay makes of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kstack.debug.origin import Origin
from kstack.debug.timeline import END_OF_RECORDING, Timeline
from kstack.fault import At, Fault, Moment, Send, Step
from kstack.hw.cpu.state import ActivityState
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.recording import pack
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec, replay_session, script_of
from kstack.run.writes import MemoryChange, RegisterChange
from kstack.schedule import parse
from kstack.x86.registers import Gpr
from tests.support.debugger import beginning, laight, origin
from tests.support.long_mode import FRAMES, LongModeGuest
from tests.support.recordings import recorded


def plain_hash(time: int) -> str:
    """As `kstack replay --to` finds it."""
    session = replay_session(recorded("laight", "entry-exit"))
    while session.machine.time < time and session.step(time - session.machine.time) is None:
        pass
    return session.machine.state_hash()


@pytest.mark.parametrize(
    ("scenario", "policy", "schedule", "adversarial"),
    [
        ("laight", "entry-exit", "scripted", False),
        ("laight", "switch-sp-ipi", "random:64", True),
        ("recursion", "fault-df", "random:64", True),
        ("recursion", "fault-fred", "random:64", True),
    ],
)
def test_one_unit_at_a_time_ends_in_the_recorded_state(
    scenario: str, policy: str, schedule: str, adversarial: bool
) -> None:
    modes = Modes(tlb="adversarial") if adversarial else Modes()
    recording = recorded(scenario, policy, schedule, 3, modes, 40_000)
    timeline = Timeline(Origin.of_recording(recording))
    while timeline.prepare():
        timeline.advance(1)
    assert (timeline.ended, timeline.time) == (recording.ended, recording.time)
    assert timeline.machine.state_hash() == recording.state_hash


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        ("entry-exit", Fault(what="stall", when=Moment(93_000), cpu=0, units=700)),
        ("entry-exit", Fault(what="evict-tlb", when=At("laight_watch", after=True), address=0xFFFFC90000016000)),
        ("switch-sp-ipi", Fault(what="delay-ipi", when=Send(), units=50)),
        ("switch-sp-ipi", Fault(what="fail-alloc", when=Step("TakePage", 3))),
    ],
    ids=lambda value: value if isinstance(value, str) else value.what,
)
def test_what_was_injected_is_injected_again_at_its_moment(policy: str, fault: Fault) -> None:
    script = script_of(find_scenario("laight"))
    setup = RunSpec("laight", 2, policy=policy, options=RunOptions(max_time=30_000), faults=(fault,))
    session = setup.session(parse("scripted", 0, script))
    recording = setup.recording(session.choices, session.run())
    timeline = Timeline(Origin.of_recording(recording))
    for _ in range(2):
        while timeline.prepare():
            timeline.advance(1)
        assert timeline.machine.state_hash() == recording.state_hash
        timeline.goto(0)


def test_a_fetch_that_faults_is_walked_once_however_the_slice_is_cut() -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("nop\nnop\njmp rax"), rax=1 << 39)
    hashes, start = [], beginning(guest)
    for units in (100, 1):
        timeline = Timeline(start)
        while guest.machine.cpus[0].state is ActivityState.RUNNING and timeline.prepare():
            timeline.advance(units)
        hashes.append(timeline.machine.state_hash())
        assert guest.vector() == 14
    assert hashes[0] == hashes[1]


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_slices_cut_anywhere_end_in_the_recorded_state(seed: int) -> None:
    rng, timeline = random.Random(seed), Timeline(laight())
    while timeline.prepare():
        timeline.advance(rng.choice((1, 2, 7, 40, 500)))
    assert timeline.machine.state_hash() == recorded("laight", "entry-exit").state_hash


def test_every_place_is_as_replay_finds_it_in_whatever_order() -> None:
    timeline = Timeline(laight())
    start, end = timeline.time, recorded("laight", "entry-exit").time
    times = [end, start + 1, 102_543, 95_000, 95_001, start, 104_000, 103_999]
    for time in times:
        timeline.goto(time)
        assert timeline.time == time
        assert timeline.machine.state_hash() == plain_hash(time)


def test_a_place_after_the_choice_and_before_it_are_two_places() -> None:
    timeline = Timeline(laight())
    start = timeline.time
    timeline.goto(start, chosen=True)
    assert timeline.begun is not None
    timeline.goto(start)
    assert timeline.begun is None
    timeline.goto(start + 1, chosen=True)
    middle = timeline.session
    timeline.goto(start + 1)
    assert timeline.session is middle, "in the middle of a slice there is but one"


def test_lanes_say_who_ran_when() -> None:
    timeline = Timeline(laight())
    timeline.goto(100_000)
    assert timeline.lanes[0].start == 88_098 and timeline.lanes[-1].end == 100_000
    for one, other in zip(timeline.lanes, timeline.lanes[1:], strict=False):
        assert one.end == other.start and one.cpu != other.cpu
    assert timeline.last_run(1) == [lane for lane in timeline.lanes if lane.cpu == 1][-1]
    assert timeline.last_run(7) is None


def test_a_recording_cut_short_ends_where_it_is_cut() -> None:
    whole = recorded("laight", "entry-exit")
    cut = list(whole.schedule())[:50]
    timeline = Timeline(Origin.of_recording(replace(whole, choices=pack(cut))))
    while timeline.prepare():
        timeline.advance(1000)
    assert timeline.ended == END_OF_RECORDING
    assert timeline.session.choices == cut


def test_a_recording_that_diverges_ends_saying_so() -> None:
    whole = recorded("laight", "entry-exit")
    choices = [choice._replace(cpu=1) for choice in whole.schedule()]
    timeline = Timeline(Origin.of_recording(replace(whole, choices=pack(choices))))
    assert not timeline.prepare()
    assert "diverges at slice 0" in (timeline.ended or "")


# --- writing


def test_what_is_written_is_written_again_whenever_the_line_passes_it() -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    timeline.write(RegisterChange(1, "r12", 5))
    timeline.write(MemoryChange(0x300000, b"written".hex()))
    timeline.goto(97_000)
    there = timeline.machine.state_hash()
    for time in (94_999, 88_098):
        timeline.goto(time)
        assert timeline.machine.memory.read(0x300000, 7) == bytes(7)
        timeline.goto(95_000)
        assert timeline.machine.memory.read(0x300000, 7) == b"written"
        assert timeline.machine.cpus[1].registers.gpr[Gpr.R12] == 5
        timeline.goto(97_000)
        assert timeline.machine.state_hash() == there
    timeline.restart()
    timeline.goto(97_000)
    assert timeline.machine.state_hash() == there, "also without a stop on the way"


def test_writing_drops_the_recorded_future_and_round_robin_goes_on() -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    assert not timeline.goes_on
    timeline.write(MemoryChange(0x300000, b"x".hex()))
    made = len(timeline.session.choices)
    timeline.goto(140_000)
    assert timeline.goes_on and timeline.session.choices[made].quantum == 1000
    assert timeline.session.choices[:made] == list(recorded("laight", "entry-exit").schedule())[:made]


def test_writing_before_an_earlier_write_drops_that() -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    timeline.write(MemoryChange(0x300000, b"late".hex()))
    timeline.goto(92_000)
    timeline.write(MemoryChange(0x300010, b"soon".hex()))
    timeline.goto(96_000)
    assert timeline.machine.memory.read(0x300000, 4) == bytes(4)
    assert timeline.machine.memory.read(0x300010, 4) == b"soon"
    assert [write.time for write in timeline.writes] == [92_000]


def test_code_that_is_written_is_what_runs_next() -> None:
    guest = LongModeGuest()
    code = guest.kernel_code("again: inc rax\njmp again")
    guest.start(code)
    timeline = Timeline(beginning(guest))
    timeline.goto(100)
    assert guest.gpr(Gpr.RAX) == 50
    timeline.write(MemoryChange(code, b"\x48\xff\xc8".hex()))  # dec rax
    timeline.goto(150)
    assert guest.gpr(Gpr.RAX) == 25
    timeline.goto(100)
    timeline.goto(150)
    assert guest.gpr(Gpr.RAX) == 25


def test_a_page_table_entry_that_is_written_counts_at_once_unless_the_tlb_has_the_old_one() -> None:
    guest = LongModeGuest(cpus=2)
    old, new = guest.frame(1), guest.frame(2)
    leaf = guest.map(1 << 39, old)
    loop = guest.kernel_code("again: mov rax, [rbx]\njmp again")
    guest.start(loop, 0, rbx=1 << 39)
    guest.start(guest.kernel_code("wait: jmp wait"), 1)
    timeline = Timeline(beginning(guest))
    timeline.goto(10)
    assert guest.gpr(Gpr.RAX) == 1
    timeline.write(MemoryChange(leaf, (new | 0x63).to_bytes(8, "little").hex()))
    timeline.goto(20)
    assert guest.gpr(Gpr.RAX) == 1, "the TLB keeps it"
    guest.machine.cpus[0].mmu.invlpg(1 << 39)
    timeline.goto(30)
    assert guest.gpr(Gpr.RAX) == 2


# --- live runs


def test_a_live_run_repeats_itself() -> None:
    guest = LongModeGuest(cpus=2)
    loop = guest.kernel_code("again: lock inc qword ptr [rbx]\npause\njmp again")
    for cpu in range(2):
        guest.start(loop, cpu, rbx=FRAMES)
    timeline = Timeline(beginning(guest))
    seen = {}
    for time in (5, 1_000, 7_777):
        timeline.goto(time)
        seen[time] = timeline.machine.state_hash()
    for time in (1_000, 5, 7_777):
        timeline.goto(time)
        assert timeline.machine.state_hash() == seen[time]


def test_runs_from_one_origin_do_not_influence_each_other() -> None:
    start = origin("laight", "entry-exit")
    first = Timeline(start)
    first.goto(95_000)
    first.write(MemoryChange(0x300000, b"x".hex()))
    first.goto(120_000)
    second = Timeline(start)
    second.goto(95_000)
    assert second.machine.state_hash() == plain_hash(95_000)
