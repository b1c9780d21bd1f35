"""Going back and forward again is as if one had never gone back: for GDB, in whatever order, whatever was written meanwhile.

A client walks a run at random through GDB's protocol. Now and then a run of the same kind, on a machine of its own, goes to
where the client stands without ever going back, and all that it is, and all that GDB shows of it, is compared.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from kstack.debug.checkpoints import MOST, TimelineMark
from kstack.debug.origin import Origin
from kstack.debug.points import Point, PointType
from kstack.debug.target import StopReply
from kstack.debug.timeline import Timeline
from kstack.run.spec import RunSpec
from kstack.run.writes import Change
from kstack.schedule import RoundRobin
from kstack.stacks.hooks import HookKind
from tests.support.debugger import Client, beginning
from tests.support.lines import LINES, UNITS, Line, hiding, recording_of
from tests.support.long_mode import FRAMES, LongModeGuest
from tests.support.whole import differences, everything

FREE = 0x300000  # physical, where the guests have nothing
MOVES = 12
SOME = (
    *("one CPU, #DF", "two CPUs", "two CPUs, findings", "three CPUs", "stall", "late acknowledgement", "failing hook"),
    *("register", "INVLPG that does nothing", "behind an instruction"),
)
LOOKS = ("frames", "pool", "policy", "schedule", "findings", "snapshot")


def forward_to(timeline: Timeline, mark: TimelineMark, ended: bool) -> None:
    """Go to a moment, never back."""
    timeline.goto(mark.time)
    while timeline.mark < mark and timeline.ended is None:
        if timeline.begun is None:
            timeline.prepare()
        else:
            timeline.advance(1)
    if ended:
        timeline.prepare()


def seen(client: Client) -> list[str]:
    """All that GDB shows."""
    shown = [client.monitor(look) for look in LOOKS]
    for cpu in range(len(client.protocol.target.cpus)):
        assert client.ask(f"Hg{cpu + 1:x}") == "OK"
        shown += [client.ask("g"), client.ask(f"qThreadExtraInfo,{cpu + 1:x}")]
        shown += [client.monitor(look) for look in ("tlb", "apic", "code")]
        rsp = client.register(7)
        shown += [client.monitor(f"walk {rsp:#x}"), client.ask(f"m{rsp:x},40")]
    return shown


class Walk:
    """A client that walks, and what it has written.

    Args:
        start: where its run begins.
        fresh: the same beginning on another machine, for the runs that it is compared with.
        seed: of the moves.
    """

    def __init__(self, start: Origin, fresh: Origin, seed: int) -> None:
        self.client = Client(start)
        self.timeline = self.client.protocol.target.timeline
        self.rng = random.Random(seed)
        self.places: list[tuple[TimelineMark, Change]] = []
        self.compared = 0
        self._fresh = fresh
        first = self.timeline.time
        self._times = range(first, first + UNITS)

    # --- moves

    def move(self) -> str:
        """One, drawn; its name."""
        name: str = self.rng.choice(
            ("back", "back", "anywhere", "anywhere", "near", "near", "step", "reverse", "reverse", "write", "end")
        )
        getattr(self, f"_{name}")()
        return name

    def _goto(self, time: int) -> None:
        self.client.monitor(f"goto {max(0, time)}")

    def _anywhere(self) -> None:
        self._goto(self.rng.choice(self._times))

    def _near(self) -> None:
        self._goto(self.client.time + self.rng.randrange(-900, 900))

    def _back(self) -> None:
        cpu = self.rng.randrange(len(self.client.protocol.target.cpus))
        self.client.ask(f"Hc{cpu + 1:x}")
        for _ in range(self.rng.randrange(1, 6)):
            self.client.ask("bs")

    def _step(self) -> None:
        self.client.ask("vCont;s:1;c")
        self.client.ask(f"vCont;s:{self.rng.randrange(len(self.client.protocol.target.cpus)) + 1:x};c")

    def _reverse(self) -> None:
        self._goto(min(self.client.time, self._times[0] + 6_000))  # searching is a unit at a time
        symbols = self.timeline.origin.symbols
        point = f"{self.rng.choice((0, 1))},{symbols.address('event'):x},1"
        self.client.ask(f"Z{point}")
        self.client.ask("bc" if self.timeline.goes_on else self.rng.choice(("bc", "bc", "c")))
        self.client.ask("bc")
        self.client.ask(f"z{point}")

    def _write(self) -> None:
        client, timeline = self.client, self.timeline
        made = len(timeline.written())
        mark = timeline.mark
        if self.rng.random() < 0.5:
            cpu = self.rng.randrange(len(client.protocol.target.cpus))
            client.ask(f"Hg{cpu + 1:x}")
            client.ask(f"P{self.rng.choice((11, 12)):x}={self.rng.randbytes(8).hex()}")  # r11, r12
        else:
            timeline_cpu = client.protocol.target.cpus[0]
            assert timeline_cpu.mmu.peek(0xFFFF888000000000 + FREE) is not None
            client.ask(f"M{0xFFFF888000000000 + FREE + self.rng.randrange(64):x},4:{self.rng.randbytes(4).hex()}")
        if len(timeline.written()) > made:
            self.places[made:] = [(mark, timeline.written()[-1].change)]
        client.monitor("policy")  # and what there was to say of it

    def _end(self) -> None:
        if self.timeline.goes_on:
            self._goto(self._times[-1])
        else:
            self.client.ask("c")

    # --- comparing

    def compare(self) -> None:
        """Let another run come here without going back, and compare the two."""
        self.compared += 1
        timeline, other = self.timeline, Client(self._fresh)
        straight = other.protocol.target.timeline
        ahead = len(timeline.writes) > len(timeline.written())
        if ahead:  # what was written later is known already: it is this line from its beginning
            straight._writes, straight._choices, straight.forked = timeline._writes, timeline._choices, timeline.forked
            straight.restart()
        for mark, change in () if ahead else self.places[: len(timeline.written())]:
            forward_to(straight, mark, False)
            straight.write(change)
        forward_to(straight, timeline.mark, timeline.ended is not None)
        assert (straight.mark, straight.ended, straight.left) == (timeline.mark, timeline.ended, timeline.left)
        assert straight.lanes == timeline.lanes
        assert straight.session.choices == timeline.session.choices
        assert straight.made() == timeline.made() and straight.written() == timeline.written()
        assert differences(everything(straight.session), everything(timeline.session)) == []
        assert seen(other) == seen(self.client)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param(name, seed, marks=() if seed == 0 and name in SOME else pytest.mark.long)
        for name in LINES
        for seed in range(6)
    ],
)
def test_wherever_one_has_come_from_a_place_is_the_same(name: str, seed: int) -> None:
    recording = recording_of(name)
    walk = Walk(Origin.of_recording(recording), Origin.of_recording(recording), seed)
    for number in range(MOVES):
        walk.move()
        if number % 4 == 3:
            walk.compare()
    walk._end()
    walk.compare()
    assert len(walk.timeline.checkpoints) > 0


@pytest.mark.parametrize("seed", [2, 3])
def test_a_live_run_is_the_same_wherever_one_has_come_from(seed: int) -> None:
    setup = RunSpec("crowd", 3, policy="switch-sp-ipi")
    walk = Walk(Origin.of_setup(setup), Origin.of_setup(setup), seed)
    for _ in range(MOVES):
        if walk.move() == "end":
            walk._anywhere()
    walk.compare()


def test_in_a_live_run_the_turn_goes_on_behind_the_cpu_that_had_it() -> None:
    guest = LongModeGuest(cpus=3)
    loop = guest.kernel_code("again: inc rcx\njmp again")
    for cpu in range(3):
        guest.start(loop, cpu)
    timeline = Timeline(beginning(guest))
    timeline.goto(30_000)
    choices, there = list(timeline.session.choices), everything(timeline.session)
    session = timeline.session
    for time in (10_600, 21_700, 29_800):
        timeline.goto(time)
        timeline.goto(30_000)
        assert timeline.session is session, "not from the beginning"
        assert timeline.session.choices == choices
        assert differences(everything(timeline.session), there) == []


# --- the last stop before the present


def last_stop(target: Any, present: int) -> tuple[StopReply, int] | None:
    """The last stop before a virtual time, and where it is: by looking at each unit from the beginning on."""
    timeline, points, last = target.timeline, target.points, None
    timeline.restart()
    while timeline.time < present and timeline.prepare() and timeline.time < present:
        number, time = timeline.begun.cpu, timeline.time
        cpu = target.cpus[number]
        kind = points.breakpoint(cpu, timeline.session.runtime)
        if kind is not None:
            last = StopReply(5, number, "swbreak" if kind is PointType.SOFTWARE else "hwbreak"), time
        armed = points.arm(cpu)
        timeline.advance(1)
        point = points.triggered(cpu, armed)
        if point is not None:
            last = StopReply(5, number, {2: "watch", 3: "rwatch", 4: "awatch"}[point.kind], f"{point.address:x}"), time
    return last


@pytest.mark.parametrize(
    ("name", "seed"), [("two CPUs, findings", 1), ("stall", 2), ("three CPUs", 3), ("one CPU, #DF", 4)]
)
def test_reverse_continue_finds_what_looking_at_each_unit_finds(name: str, seed: int) -> None:
    rng = random.Random(seed)
    target = Client(Origin.of_recording(recording_of(name))).protocol.target
    timeline, symbols = target.timeline, target.timeline.origin.symbols
    brute = Client(Origin.of_recording(recording_of(name))).protocol.target
    event = symbols.address("event")
    assert event is not None
    target.goto(timeline.time + 5_000)
    stack = target.cpus[0].registers.gpr[4]
    for _ in range(4):
        chosen = rng.sample(
            [Point(PointType.SOFTWARE, event, 1), Point(PointType.WRITE, stack, 8), Point(PointType.READ, stack, 8)], 2
        )
        for one in (target, brute):
            one.points = type(one.points)(one.timeline.machine.memory)
            for point in chosen:
                one.points.add(point)
        target.goto(timeline.beginning.time + rng.randrange(200, 7_000))
        for _ in range(3):
            wanted = last_stop(brute, timeline.time)
            stop = target.resume_back()
            if wanted is None:
                assert (
                    stop == StopReply(5, timeline.cpu or 0, "replaylog", "begin")
                    and timeline.mark == timeline.beginning
                )
                break
            assert (stop, timeline.time) == wanted
            assert timeline.cpu == wanted[0].cpu


def test_what_is_written_at_a_kept_moment_is_there_when_one_comes_back_to_it() -> None:
    target = Client(Origin.of_recording(recording_of("two CPUs"))).protocol.target
    timeline = target.timeline
    target.goto(timeline.time + 3_000)
    while timeline.begun is None:
        target.goto(timeline.time + 1)
    timeline._keep()
    target.write_memory([(FREE, b"x")])
    target.goto(timeline.time + 700)
    target.points.add(Point(PointType.WRITE, 0xFFFF888000000000 + FREE, 1))
    present = timeline.time
    stop = target.resume_back()
    assert (stop, timeline.time) == last_stop(target, present)


def test_a_stop_in_a_slice_that_took_no_time_is_found_before_a_moment_that_is_kept_behind_it() -> None:
    target = Client(Origin.of_recording(recording_of("stall"))).protocol.target
    timeline = target.timeline
    target.goto(90_500)
    assert (timeline.time, timeline.cpu) == (90_500, 0)
    timeline.prepare()
    place = target.cpus[0].linear_rip()
    assert timeline.advance(1) == 0 and timeline.begun is None, "it is stalled before it does anything"
    timeline._keep()
    target.goto(timeline.time + 700)
    present = timeline.time
    target.points.add(Point(PointType.SOFTWARE, place, 1))
    stop = target.resume_back()
    assert (stop, timeline.time) == (StopReply(5, 0, "swbreak"), 90_500) == last_stop(target, present)


# --- what is kept


def test_going_back_starts_near_and_not_at_the_beginning() -> None:
    timeline = Timeline(Origin.of_recording(recording_of("two CPUs, findings")))
    timeline.goto(timeline.time + 14_000)
    restarted = []
    timeline.restart = lambda: restarted.append(timeline.time)  # type: ignore[method-assign] # none
    for _ in range(1_500):
        timeline.goto(timeline.time - 1)
    assert restarted == []
    behind = [timeline.time - mark.time for mark in timeline.checkpoints.marks if mark.time < timeline.time]
    assert min(behind) <= 1_024


def test_a_run_that_has_ended_goes_on_where_one_goes_back() -> None:
    walk = Walk(*(Origin.of_recording(recording_of("two CPUs, findings")) for _ in range(2)), seed=0)
    walk._end()
    assert walk.timeline.ended is not None
    session, end = walk.timeline.session, walk.timeline.time
    walk._goto(end - 100)
    assert walk.timeline.session is session and (walk.timeline.ended, walk.timeline.time) == (None, end - 100)
    walk.compare()


def test_without_anything_kept_it_starts_at_the_beginning() -> None:
    timeline = Timeline(Origin.of_recording(recording_of("two CPUs, findings")), most=0)
    timeline.goto(timeline.time + 10_000)
    session = timeline.session
    timeline.goto(timeline.time - 1)
    assert timeline.session is not session and len(timeline.checkpoints) == 0


def test_a_long_run_keeps_a_bounded_number_of_places() -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("again: inc qword ptr [rbx]\nadd rcx, 4096\nand rcx, 0xffff\njmp again"), rbx=FRAMES)
    timeline = Timeline(beginning(guest))
    most = 0
    for step in range(1, 200):
        timeline.goto(step * 20_000)
        most = max(most, len(timeline.checkpoints))
    assert most == MOST
    first, end = timeline.checkpoints.marks[0].time, timeline.time
    assert first < end // 8
    value = guest.machine.memory.read64(guest.machine.cpus[0].mmu.peek(FRAMES).frame)  # type: ignore[union-attr] # mapped
    timeline.goto(end // 3)
    timeline.goto(end)
    assert guest.machine.memory.read64(guest.machine.cpus[0].mmu.peek(FRAMES).frame) == value  # type: ignore[union-attr] # as above


def test_going_far_ahead_again_uses_what_is_kept_there() -> None:
    timeline = Timeline(Origin.of_recording(recording_of("two CPUs, findings")))
    timeline.goto(timeline.time + 14_000)
    there, end = everything(timeline.session), timeline.time
    timeline.goto(timeline.beginning.time)
    counted = []
    advance = timeline.advance
    timeline.advance = lambda units: counted.append(advance(units)) or counted[-1]  # type: ignore[func-returns-value, method-assign] # counts
    timeline.goto(end)
    assert sum(counted) < 3_000 and everything(timeline.session) == there


def test_what_is_written_forgets_what_is_kept_of_the_future_and_nothing_else() -> None:
    walk = Walk(*(Origin.of_recording(recording_of("two CPUs")) for _ in range(2)), seed=0)
    walk._goto(walk._times[0] + 12_000)
    kept = walk.timeline.checkpoints.marks
    walk._goto(walk._times[0] + 6_000)
    present = walk.timeline.mark
    walk._write()
    assert set(walk.timeline.checkpoints.marks) >= {mark for mark in kept if mark <= present}
    assert all(mark <= present for mark in walk.timeline.checkpoints.marks)
    walk._goto(walk._times[0] + 9_000)
    walk.compare()
    walk._goto(walk._times[0] + 6_000)
    walk.compare()


def test_a_timeline_whose_machine_runs_another_one_takes_it_back() -> None:
    start, fresh = (Origin.of_recording(recording_of("two CPUs")) for _ in range(2))
    walk = Walk(start, fresh, 0)
    walk._goto(walk._times[0] + 9_000)
    other = Timeline(start)
    other.goto(other.time + 6_000)
    walk._goto(walk._times[0] + 5_000)
    walk.timeline.checkpoints.clear()
    walk._goto(walk._times[0] + 9_000)
    walk.compare()


def test_a_kept_moment_that_is_not_the_first_of_its_time_is_not_where_one_goes() -> None:
    timeline = Timeline(Origin.of_recording(recording_of("two CPUs")))
    timeline.goto(timeline.time + 5_000)
    while timeline.begun is not None:
        timeline.goto(timeline.time + 1)
    first = timeline.mark
    timeline.prepare()
    timeline._keep()
    assert timeline.checkpoints.marks[-1] > first
    timeline.goto(first.time + 100)
    timeline.goto(first.time)
    assert timeline.mark == first
    timeline.goto(first.time, chosen=True)
    assert timeline.begun is not None and timeline.time == first.time


@pytest.mark.parametrize(
    ("start", "change", "odd"), [("0", "self.switches += 1", "% 2"), ("[0]", "self.switches[0] += 1", "[0] % 2")]
)
def test_a_policy_that_hides_its_state_is_run_from_where_it_was_not_changed(
    tmp_path: Path, start: str, change: str, odd: str
) -> None:
    path = hiding(tmp_path, start, change, odd)
    setup = Line("laight", path).setup
    session = setup.session(RoundRobin(100))
    recording = setup.recording(session.choices, session.run())
    walk = Walk(Origin.of_recording(recording), Origin.of_recording(recording), 5)
    for _ in range(8):
        walk._anywhere()
        walk._back()
    walk.compare()


def test_a_policy_that_does_not_do_again_what_it_has_done_is_run_from_the_beginning(tmp_path: Path) -> None:
    """It goes by what nobody is told of: how often it was called in this process."""
    path = tmp_path / "drifts.py"
    path.write_text(
        "from kstack.policies.switch_sp_ipi import SwitchSpIpi\n"
        "from kstack.stacks import PoolLevel, map_pages\n"
        "asked = []\n"
        "class Drifts(SwitchSpIpi):\n"
        "    id = 'drifts'\n"
        "    def switch_in(self, cpu, thread):\n"
        "        asked.append(1)\n"
        "        if len(asked) % 2:\n"
        "            yield PoolLevel()\n"
        "        yield from map_pages(thread.pages)\n"
    )
    timeline = Timeline(Origin.of_setup(RunSpec("laight", 2, policy=str(path))))
    while not any(call.hook is HookKind.SWITCH_IN for calls in timeline.session.runtime.calls for call in calls):
        timeline.goto(timeline.time + 1)
    timeline._keep()
    there = timeline.time
    timeline.goto(there + 5)
    session = timeline.session
    timeline.goto(there + 1)
    assert timeline.time == there + 1 and timeline.session is not session, "it began again"
    assert len(timeline.checkpoints) == 0
    timeline.goto(there + 9_000)
    assert len(timeline.checkpoints) == 0, "and nothing is kept any more"
