"""A run that a debugger has written to is a recording of its own: whatever reads recordings repeats it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kstack.base.errors import ConfigError, PolicyError, RecordingError
from kstack.debug.forks import Keeper, beside, recording_of
from kstack.debug.origin import Origin
from kstack.debug.timeline import Timeline
from kstack.fault import Fault, Moment, Send
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import size
from kstack.recording import Recording, read_recording, write_recording
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec, replay_session
from kstack.run.writes import Change, MemoryChange, RegisterChange
from kstack.schedule import RandomSchedule, RoundRobin
from kstack.trace.make import make_trace
from kstack.trace.query import Database
from kstack.trace.show import lines
from kstack.trace.store import read_trace
from tests.support.command import kstack
from tests.support.debugger import Client, beginning, laight
from tests.support.long_mode import LongModeGuest
from tests.support.recordings import recorded

FREE = 0x300000  # physical, where laight's guest has nothing


def to_the_end(timeline: Timeline) -> Timeline:
    while timeline.prepare():
        timeline.advance(100_000)
    return timeline


def repeated(recording: Recording) -> str:
    """The state in which a recording ends."""
    return replay_session(recording).run().state_hash


@settings(max_examples=8)
@given(st.integers(0, 10**6))
def test_a_fork_is_repeated_wherever_it_was_written_to(seed: int) -> None:
    rng = random.Random(seed)
    recording = recorded("laight", "switch-sp-ipi", "random:64", seed=2, modes=Modes(tlb="adversarial"), units=15_000)
    timeline = Timeline(Origin.of_recording(recording))
    start = timeline.time
    for _ in range(rng.randrange(1, 5)):
        timeline.goto(timeline.time + rng.choice((0, 1, rng.randrange(3_000))), rng.random() < 0.5)
        register = rng.choice(("rax", "r11", "cr2"))
        timeline.write(RegisterChange(rng.randrange(2), register, rng.getrandbits(64)))
        timeline.write(MemoryChange(FREE + rng.randrange(64), rng.randbytes(5).hex()))
    timeline.goto(timeline.time + rng.choice((0, 1, rng.randrange(4_000))), rng.random() < 0.5)
    written, time, state = timeline.written(), timeline.time, timeline.machine.state_hash()
    found = recording_of(timeline)
    assert (found.time, found.state_hash, len(found.writes)) == (time, state, len(written))
    assert repeated(found) == state
    again = to_the_end(Timeline(Origin.of_recording(found)))
    assert again.machine.state_hash() == state and again.written() == written
    again.goto(start)
    to_the_end(again)
    assert again.machine.state_hash() == state, "and backwards"


def test_a_fork_has_what_was_injected() -> None:
    faults = (Fault("drop-ipi", Send(2)), Fault("stall", Moment(92_000), cpu=0, units=300))
    found = find_scenario("laight")
    setup = RunSpec("laight", 2, size(found.ram), policy="switch-sp-ipi", options=RunOptions(20_000), faults=faults)
    session = setup.session(RandomSchedule(4))
    timeline = Timeline(Origin.of_recording(setup.recording(session.choices, session.run())))
    timeline.goto(91_000)
    timeline.write(MemoryChange(FREE, "01"))
    timeline.goto(99_000)
    fork = recording_of(timeline)
    assert len(fork.faults) == 2 and repeated(fork) == fork.state_hash
    assert repeated(replace(fork, faults=[])) != fork.state_hash


def test_a_fork_of_a_fork_keeps_what_was_written_before() -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    timeline.write(MemoryChange(FREE, "aa"))
    timeline.goto(97_000)
    second = Timeline(Origin.of_recording(recording_of(timeline)))
    assert not second.forked and not second.goes_on
    second.goto(96_000)
    assert second.machine.memory.read(FREE, 1) == b"\xaa"
    second.write(MemoryChange(FREE + 1, "bb"))
    second.goto(98_000)
    third = recording_of(second)
    assert [write["time"] for write in third.writes] == [95_000, 96_000]
    assert repeated(third) == third.state_hash == second.machine.state_hash()


def test_a_fork_that_ends_says_how() -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    timeline.write(MemoryChange(FREE, "aa"))
    found = recording_of(to_the_end(timeline))
    oracle = timeline.session.oracle
    assert oracle is not None
    assert (found.ended, found.finding) == ("exit", oracle.findings[0].kind.value)
    timeline.goto(104_000)
    assert recording_of(timeline).ended == "unfinished"


def test_what_was_set_up_by_hand_cannot_be_recorded() -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("here: jmp here"))
    timeline = Timeline(beginning(guest))
    timeline.goto(100)
    with pytest.raises(ConfigError, match="set up by hand"):
        recording_of(timeline)


def test_a_live_run_can_be_kept(tmp_path: Path) -> None:
    found = find_scenario("laight")
    origin = Origin.of_setup(RunSpec("laight", 2, size(found.ram), policy="entry-exit"))
    client = Client(origin, lambda: tmp_path / "live.json")
    client.monitor("goto 95000")
    client.ask("P0=1122334455667788")
    client.monitor("goto 99000")
    assert client.monitor("record").startswith(f"wrote {tmp_path / 'live.json'}: up to time 99000, state ")
    saved = read_recording(tmp_path / "live.json")
    assert saved.time == 99_000 and repeated(saved) == saved.state_hash
    assert client.protocol.target.keeper.close() is None, "it has been kept already"
    client.monitor("goto 99500")
    assert client.protocol.target.keeper.close() is not None
    assert read_recording(tmp_path / "live.json").time == 99_500


def test_nothing_is_kept_that_is_there_already(tmp_path: Path) -> None:
    client = Client(laight(), lambda: tmp_path / "fork.json")
    client.monitor("goto 95000")
    assert client.monitor("record") == "nothing has been written: this is the recording that there is already\n"
    assert client.protocol.target.keeper.close() is None and not list(tmp_path.iterdir())
    guest = LongModeGuest()
    guest.start(guest.kernel_code("here: jmp here"))
    text = Client(beginning(guest)).monitor("record")
    assert text == "give kstack gdb --record FILE for a recording of this run\n"


@pytest.mark.parametrize("chosen", [False, True])
def test_leaving_keeps_all_that_ever_was_wherever_one_stands(tmp_path: Path, chosen: bool) -> None:
    timeline = Timeline(laight())
    keeper = Keeper(timeline, lambda: tmp_path / "fork.json")
    timeline.goto(95_000)
    while timeline.begun is not None:
        timeline.advance(1)
    time = timeline.time
    timeline.goto(time, chosen)
    timeline.write(MemoryChange(FREE, "aa"))
    timeline.goto(94_000)
    keeper.close()
    saved = read_recording(tmp_path / "fork.json")
    assert saved.time == time and len(saved.writes) == 1
    timeline.goto(96_000)
    timeline.goto(0)
    keeper.close()
    assert read_recording(tmp_path / "fork.json").time == 96_000


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    client = Client(laight(), lambda: tmp_path / "no" / "fork.json")
    client.ask("P0=1122334455667788")
    client.monitor("schedule")  # takes the notice of the fork
    assert client.monitor("record") == f"recording {tmp_path / 'no' / 'fork.json'} cannot be written: {NO_SUCH}\n"
    with pytest.raises(RecordingError, match="cannot be written"):
        client.protocol.target.keeper.close()


NO_SUCH = "No such file or directory"


def test_forks_have_names_of_their_own(tmp_path: Path) -> None:
    first = beside(tmp_path / "a.b.json")
    assert first == tmp_path / "a.b.fork-1.json"
    first.touch()
    assert beside(tmp_path / "a.b.json") == tmp_path / "a.b.fork-2.json"


def test_what_is_written_once_a_slice_has_been_chosen_is_not_there_before() -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    while timeline.begun is not None:
        timeline.advance(1)
    time = timeline.time
    timeline.goto(time, chosen=True)
    timeline.write(MemoryChange(FREE, "aa"))
    again = Timeline(Origin.of_recording(recording_of(timeline)))
    for chosen, there in ((False, b"\0"), (True, b"\xaa"), (False, b"\0")):
        again.restart()
        again.goto(time, chosen)
        assert again.machine.memory.read(FREE, 1) == there


DEAD = """
from tests.support.seeded_bugs import ShootsWithInterruptsOff
class Dead(ShootsWithInterruptsOff):
    id, title, proposer, source = "dead", "dead", "", ""
"""


def test_a_deadlock_from_which_a_write_leads_out_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "dead.py").write_text(DEAD)
    setup = RunSpec("laight", 2, 64 << 20, policy=str(tmp_path / "dead.py"), options=RunOptions(1_000_000))
    session = setup.session(RandomSchedule(1))
    timeline = to_the_end(Timeline(Origin.of_recording(setup.recording(session.choices, session.run()))))
    assert timeline.ended == "deadlock"
    time = timeline.time
    timeline.write(RegisterChange(0, "rdx", 7))
    timeline.goto(time + 1)
    assert timeline.time == time + 1, "a CPU has tried again, and before it is clear that this is in vain, too"
    state = timeline.machine.state_hash()
    found = recording_of(timeline)
    assert (found.state_hash, repeated(found)) == (state, state)
    timeline.goto(time - 100)
    timeline.goto(time + 1)
    assert timeline.machine.state_hash() == state


def test_a_recording_up_to_a_place_before_a_write_is_not_all(tmp_path: Path) -> None:
    timeline = Timeline(laight())
    keeper = Keeper(timeline, lambda: tmp_path / "fork.json")
    timeline.goto(100_000)
    timeline.write(RegisterChange(0, "rdx", 1))
    keeper.save()
    timeline.goto(96_000)
    keeper.save()
    assert read_recording(tmp_path / "fork.json").writes == []
    keeper.close()
    assert len(read_recording(tmp_path / "fork.json").writes) == 1


def test_where_a_recording_cannot_be_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for words, message in (
        ((tmp_path,), "it is a folder; give a file"),
        (("/",), "it is a folder; give a file"),
        ((".",), "it is a folder; give a file"),
        ((tmp_path / "no" / "x.json",), f"there is no folder {tmp_path / 'no'}"),
        ((tmp_path / "run.json" / "x.json",), f"there is no folder {tmp_path / 'run.json'}"),
    ):
        done = kstack("gdb", "laight", "--record", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"kstack: --record {words[0]}: {message}\n"
    done = kstack("gdb", tmp_path / "run.json", "--record", tmp_path / "run.json")
    assert done.stderr.endswith("it is the recording that is debugged; give another file\n")
    assert (tmp_path / "run.json").read_text() == "{}"


def test_a_name_that_no_file_can_have_is_one_error(tmp_path: Path) -> None:
    recording = recorded("laight", "entry-exit")
    for path in (tmp_path / ("a" * 300), tmp_path / "file" / "x"):
        (tmp_path / "file").touch()
        with pytest.raises(RecordingError, match="cannot be written"):
            write_recording(path, recording)


def test_writes_that_never_come_are_said(tmp_path: Path) -> None:
    change = {"what": "memory", "address": FREE, "data": "00"}
    late = [{"slices": 10**9, "time": 10**12, "change": change}]
    write_recording(tmp_path / "run.json", replace(recorded("laight", "fixed-16k"), writes=late))
    done = kstack("replay", tmp_path / "run.json")
    assert done.returncode == 2 and "the run has ended, and 1 of its writes never came" in done.stderr


@pytest.mark.parametrize("places", [((-1, 0),), ((0, -5),), ((2, 90_000), (1, 90_001)), ((1, 90_001), (2, 90_000))])
def test_writes_come_in_order(places: tuple[tuple[int, int], ...]) -> None:
    change = {"what": "memory", "address": FREE, "data": "00"}
    writes = [{"slices": slices, "time": time, "change": change} for slices, time in places]
    with pytest.raises(RecordingError, match="is before slice"):
        replay_session(replace(recorded("laight", "entry-exit"), writes=writes))


RAISES = """
from kstack.stacks import Policy
class Raises(Policy):
    id, title, proposer, source = "raises", "raises", "", ""
    def switch_in(self, cpu, thread):
        yield from ()
        if thread.id == 3:
            raise ValueError("no")
"""


def test_a_fork_in_which_the_policy_fails_is_kept_up_to_there(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text(RAISES)
    setup = RunSpec("laight", 2, 64 << 20, policy=str(tmp_path / "raises.py"))
    timeline = to_the_end(Timeline(Origin.of_setup(setup)))
    assert timeline.ended is not None and "raises" in timeline.ended
    found = recording_of(timeline)
    assert (found.ended, found.state_hash) == ("unfinished", "")
    with pytest.raises(PolicyError, match="raises"):
        replay_session(found).run()


def test_a_trace_says_what_was_written(tmp_path: Path) -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    timeline.write(RegisterChange(1, "r12", 5))
    timeline.write(MemoryChange(FREE, "aabb"))
    timeline.goto(96_000)
    make_trace(recording_of(timeline), tmp_path / "trace")
    database = Database(read_trace(tmp_path / "trace"))
    found = database.sql("select count, cpu, name, value, frame, text from events where kind = 'written' order by name")
    assert found.rows == [(95_000, 0, "memory", None, FREE, "2 bytes"), (95_000, 1, "r12", 5, None, "")]
    shown = [line.text for line in lines(database, 95_000, 95_000)]
    assert shown[0] == "written r12 value=0x5" and shown[1] == "written memory frame=0x300000 2 bytes"
    assert len(shown) > 2, "before the instruction"


def spoilt(change: Any) -> Callable[[Recording], Recording]:
    return lambda recording: replace(recording, writes=[{"slices": 1, "time": 90_000, "change": change}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "the recording's writes are damaged"),
        ({"what": "else"}, "the recording's writes are damaged"),
        ({"what": "register", "cpu": 2, "register": "rax", "value": 1}, "rax of CPU 2 cannot be 0x1"),
        (
            {"what": "register", "cpu": 0, "register": "rax", "value": 1 << 63 << 1},
            "the recording's writes are damaged",
        ),
        ({"what": "register", "cpu": 0, "register": "rax", "value": -1}, "rax of CPU 0 cannot be -0x1"),
        ({"what": "register", "cpu": 0, "register": "cs", "value": 8}, "cs is no register that can be written"),
        ({"what": "memory", "address": 64 << 20, "data": "00"}, "there is no RAM at 0x4000000 for 1 bytes"),
        ({"what": "memory", "address": -1, "data": "00"}, "there is no RAM at -0x1"),
        ({"what": "memory", "address": 0, "data": "0"}, "is not 1 to 1048576 bytes in hexadecimal"),
        ({"what": "memory", "address": 0, "data": ""}, "is not 1 to 1048576 bytes in hexadecimal"),
        ({"what": "memory", "address": 0, "data": "zz"}, "is not 1 to 1048576 bytes in hexadecimal"),
    ],
    ids=str,
)
def test_writes_that_make_no_sense_are_one_clear_error(change: Any, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        replay_session(spoilt(change)(recorded("laight", "entry-exit")))


def test_a_value_that_the_cpu_does_not_take_is_said_where_it_comes() -> None:
    change = {"what": "register", "cpu": 0, "register": "cr0", "value": 1 << 31}
    session = replay_session(spoilt(change)(recorded("laight", "entry-exit")))
    with pytest.raises(RecordingError, match="replay diverges at time 90000: cr0 cannot be 0x80000000: exception 13"):
        session.run()


def test_of_several_changes_none_is_made_if_one_cannot_be() -> None:
    client = Client(laight())
    target = client.protocol.target
    before = target.timeline.machine.state_hash()
    changes: list[Change] = [MemoryChange(FREE, "aa"), MemoryChange(1 << 40, "bb")]
    with pytest.raises(Exception, match="there is no RAM"):
        target._write(changes)
    assert target.timeline.machine.state_hash() == before and not target.timeline.forked


def test_a_recording_with_writes_is_read_as_it_was_written(tmp_path: Path) -> None:
    timeline = Timeline(laight())
    timeline.goto(95_000)
    timeline.write(RegisterChange(1, "r12", (1 << 64) - 1))
    found = recording_of(timeline)
    write_recording(tmp_path / "fork.json", found)
    assert read_recording(tmp_path / "fork.json") == found
    assert repeated(read_recording(tmp_path / "fork.json")) == found.state_hash


def test_round_robin_from_the_beginning_is_no_fork() -> None:
    """A live run that nobody writes to is repeated, too."""
    setup = RunSpec("laight", 2, 64 << 20, policy="fixed-16k")
    timeline = to_the_end(Timeline(Origin.of_setup(setup)))
    found = recording_of(timeline)
    assert found.writes == [] and found.ended == "exit"
    assert found.state_hash == setup.session(RoundRobin(1000)).run().state_hash
