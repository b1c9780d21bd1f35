"""A trace has every instruction and access of a run, at the right place and with the right value, and changes nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kstack.base.errors import TraceError
from kstack.guest.asm import assemble
from kstack.hw.cpu.state import SliceEnd
from kstack.hw.engine import tracing
from kstack.hw.modes import Modes
from kstack.recording import Recording
from kstack.run.spec import replay_session
from kstack.trace import tracer as tracer_module
from kstack.trace.columns import REGISTERS, first_of_each
from kstack.trace.make import make_trace
from kstack.trace.store import SCHEMAS, VERSION, Trace, read_trace
from kstack.trace.text import mnemonic
from kstack.trace.tracer import TracePart, Tracer
from tests.support.long_mode import AREA, LongModeGuest
from tests.support.recordings import recorded
from tests.support.traces import follow, table

RUNS = [
    ("laight", "entry-exit", "round-robin:1000", 0, Modes()),
    ("laight", "switch-sp-ipi", "random", 3, Modes(tlb="adversarial")),
    ("litmus-laight", "fault-ist", "round-robin:1", 0, Modes()),
    ("wilcox", "fault-fred", "random", 1, Modes()),
]


@pytest.mark.parametrize(
    ("scenario", "policy", "schedule", "seed", "modes"), RUNS, ids=[f"{a}-{b}" for a, b, *_ in RUNS]
)
def test_every_unit_of_time_is_accounted_for(
    scenario: str, policy: str, schedule: str, seed: int, modes: Modes, tmp_path: Path
) -> None:
    """Each CPU's exact count is its instructions, its events and its waits; the state is what it is without a trace."""
    recording = recorded(scenario, policy, schedule, seed, modes)
    session = replay_session(recording)
    before = [cpu.counts.instructions for cpu in session.machine.cpus]
    parts: list[TracePart] = []
    tracer = Tracer(session, parts.append)
    result = session.run()
    tracer.hand_on()
    assert result.state_hash == recording.state_hash
    spent = sum(cpu.counts.instructions for cpu in session.machine.cpus) - sum(before)
    rows = np.concatenate([part.instructions.arrays[0] for part in parts])
    delivered = [e for part in parts for e in part.events if e.kind in ("fault", "interrupt", "nmi", "software")]
    moments = {event.count for event in delivered}
    assert len(set(rows.tolist())) == len(rows)
    assert not moments & set(rows.tolist())
    steps = session.runtime.counts.steps + session.runtime.counts.waits  # each is an OUT that is tried again
    assert len(rows) + len(moments) + steps == spent
    assert list(rows) == sorted(rows)


def test_program_counters_are_those_of_single_steps(laight: Trace) -> None:
    recording = recorded("laight", "entry-exit", "round-robin:1000")
    session = replay_session(recording)
    stepped: dict[int, int] = {}
    for choice in recording.schedule():
        machine = session.machine
        machine.runnable()
        left = choice.quantum
        while left > 0:
            rip, time = machine.cpus[choice.cpu].registers.rip, machine.time
            done = machine.run(choice.cpu, 1)
            if machine.time == time:
                break
            stepped[time] = rip
            left -= done.elapsed
            if done.end.name not in ("BUDGET",):
                break
    found = table(laight, "instructions")
    different = [
        (int(count), rip, stepped.get(int(count)))
        for count, rip in zip(found["count"], found["rip"].tolist(), strict=True)
        if stepped.get(int(count)) != rip
    ]
    assert not different, different[:3]


@pytest.mark.parametrize(
    ("scenario", "policy", "schedule", "seed", "modes"), RUNS, ids=[f"{a}-{b}" for a, b, *_ in RUNS]
)
def test_registers_where_blocks_begin_are_those_of_single_steps(
    scenario: str, policy: str, schedule: str, seed: int, modes: Modes, tmp_path: Path
) -> None:
    """They are those before the instruction at their count; each jump that is taken leads to the beginning of a block."""
    recording = recorded(scenario, policy, schedule, seed, modes)
    make_trace(recording, tmp_path / "trace", registers=True)
    trace = read_trace(tmp_path / "trace")
    rows, instructions = table(trace, "registers"), table(trace, "instructions")
    found = dict(
        zip(rows["count"].tolist(), zip(*(rows[name].tolist() for name in REGISTERS[1:]), strict=True), strict=True)
    )
    begins = frozenset(found)
    assert len(begins) == len(rows["count"])
    session = replay_session(recording)
    machine, compared = session.machine, 0
    while not isinstance(choice := session.begin(1 << 30), str):
        left = 0 if choice is None else choice.quantum
        while choice is not None and left > 0:
            if found.get(machine.time, (None,))[0] == choice.cpu:  # another CPU's slice may spend nothing
                assert found[machine.time][1:] == tuple(machine.cpus[choice.cpu].registers.gpr), machine.time
                compared += 1
                del found[machine.time]
            piece = session.advance(choice.cpu, 1)
            left -= piece.elapsed
            if piece.end is not SliceEnd.BUDGET:
                break
        if choice is not None and session.finish() is not None:
            break
    assert not found
    assert compared == len(rows["count"])
    jumped, after = 0, dict[int, int]()
    for count, cpu, rip, size in zip(
        *(instructions[name].tolist() for name in ("count", "cpu", "rip", "size")), strict=True
    ):
        if after.get(cpu, rip) != rip and count in begins:
            jumped += 1
        after[cpu] = rip + size
    assert jumped > 100


def test_a_trace_has_no_registers_that_were_not_asked_for(laight: Trace) -> None:
    assert laight.meta.rows["registers"] == 0


def test_a_thread_is_current_from_behind_the_switch_on(laight: Trace) -> None:
    """The OUT by which the kernel says so is still the one's before; no other row changes threads."""
    rows, events = table(laight, "instructions"), table(laight, "events")
    switches = {
        (int(cpu), int(count)): int(thread)
        for kind, cpu, count, thread in zip(*(events[name] for name in ("kind", "cpu", "count", "thread")), strict=True)
        if kind == "switch"
    }
    current = dict.fromkeys(range(laight.meta.cpus), 0)
    after: dict[int, int] = {}
    for count, cpu, thread in zip(*(rows[name].tolist() for name in ("count", "cpu", "thread")), strict=True):
        current[cpu] = after.pop(cpu, current[cpu])
        assert thread == current[cpu], count
        if (cpu, count) in switches:
            after[cpu] = switches.pop((cpu, count))
    assert not switches
    assert len(set(rows["thread"].tolist())) > 2


def test_pushes_and_pops_are_where_the_stack_pointer_is(laight: Trace) -> None:
    code = {rip: bytes(code) for rip, code in zip(*map(table(laight, "code").get, ("rip", "code")), strict=True)}
    accesses: dict[int, list[tuple[bool, int]]] = {}
    found = table(laight, "accesses")
    for count, store, address in zip(found["count"].tolist(), found["store"], found["address"].tolist(), strict=True):
        accesses.setdefault(count, []).append((bool(store), address))
    checked: Counter[str] = Counter()
    rows = table(laight, "instructions")
    for count, rip, rsp in zip(*(rows[name].tolist() for name in ("count", "rip", "rsp")), strict=True):
        name = mnemonic(code[rip])
        if name in ("push", "call"):
            assert (True, rsp - 8) in accesses[count]
        elif name in ("pop", "ret"):
            assert (False, rsp) in accesses[count]
        else:
            continue
        checked[name] += 1
    assert min(checked[name] for name in ("push", "call", "pop", "ret")) > 100


def test_loads_give_what_was_stored_last(laight: Trace) -> None:
    """By physical address, byte for byte; but for frames of the policy's, which it clears and gives away."""
    events = table(laight, "events")
    policy_frames = {int(frame) >> 12 for frame in events["frame"] if frame == frame}
    memory: dict[int, int] = {}
    checked = 0
    found = table(laight, "accesses")
    for store, size, physical, value in zip(
        *(found[name].tolist() for name in ("store", "size", "physical", "value")), strict=True
    ):
        if physical >> 12 in policy_frames:
            continue
        for byte, one in enumerate(value.to_bytes(8, "little")[:size]):
            if store:
                memory[physical + byte] = one
            elif physical + byte in memory:
                assert memory[physical + byte] == one, hex(physical)
                checked += 1
    assert checked > 10_000


def accesses_of(parts: list[TracePart]) -> list[tuple[bool, int, int, int]]:
    """Store or load, linear address from AREA on, bytes and value, of accesses of the engine."""
    found = dict(zip(parts[0].accesses.names, zip(*(part.accesses.arrays for part in parts), strict=True), strict=True))
    columns = (np.concatenate(found[name]).tolist() for name in ("store", "address", "size", "value"))
    return [(store, address - AREA, size, value) for store, address, size, value in zip(*columns, strict=True)]


@pytest.mark.parametrize("apart", [0x1000, 0x5000])
def test_two_linear_addresses_of_one_frame_are_told_apart(apart: int) -> None:
    """The engine reports physical addresses only; each has the linear one through which it was reached."""
    guest = LongModeGuest()
    frame = guest.frame(1)
    guest.map(AREA, frame)
    guest.map(AREA + apart, frame)
    tracer, parts = follow(guest.machine)
    text = "mov rax, [rbx]\nmov [rcx+8], rax\nmov rdx, [rbx+8]\nmov rax, [rcx]\nmov [rbx+16], dl\nmov al, [rcx+16]"
    assert guest.run(text, rbx=AREA, rcx=AREA + apart) == 1
    tracer.hand_on()
    assert accesses_of(parts) == [
        (False, 0, 8, 1),
        (True, apart + 8, 8, 1),
        (False, 8, 8, 1),
        (False, apart, 8, 1),
        (True, 16, 1, 1),
        (False, apart + 16, 1, 1),
    ]


def test_a_full_buffer_is_read_before_a_fetch_that_was_tried_ahead_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine runs twice then, for one run that the tracer is told of."""

    def counts(loops: int) -> list[int]:
        guest = LongModeGuest()
        frame = guest.frame()
        guest.map(AREA, frame)
        loop = f"mov ecx, {loops}\n.Lagain:\n" + "inc rax\n" * 6 + "dec ecx\njnz .Lagain\nnop\nnop\n"
        start = AREA + 0x1000 - 4 - len(assemble(loop, AREA))
        code = assemble(loop + "mov rdx, 0x1122334455667788\nhlt", start)  # the last but one reaches over the end
        guest.memory.write(frame + (start & 0xFFF), code[: AREA + 0x1000 - start])
        tracer, parts = follow(guest.machine)
        guest.start(start)
        guest.until_halt()
        assert guest.vector() == 14
        tracer.hand_on()
        return [count for part in parts for count in part.instructions.arrays[0].tolist()]

    whole = {loops: counts(loops) for loops in range(4, 16)}
    monkeypatch.setattr(tracing, "BUFFER_RECORDS", 64)
    monkeypatch.setattr(tracer_module, "PART_RECORDS", 64)
    assert {loops: counts(loops) for loops in range(4, 16)} == whole


def test_an_access_over_two_pages_of_one_frame_comes_to_an_end() -> None:
    """Of each kind, and code that lies so: neither page can stay while the other is used."""
    guest = LongModeGuest()
    frame = guest.frame(0x1122334455667788)
    for page in (AREA, AREA + 0x1000):
        guest.map(page, frame)
    tracer, parts = follow(guest.machine)
    text = (
        "mov rax, [rbx]\nmov [rbx], rax\nadd [rbx], rax\nlock xadd [rbx], rax\nmovdqu xmm0, [rbx]\nmovdqu [rbx], xmm0\n"
        "fxsave [rcx]\nfxrstor [rcx]\nmov rsi, rbx\nmov rdi, rbx\nmovsq\npush qword ptr [rbx]\npop qword ptr [rbx]\n"
        "mov dword ptr [rdx], 0x90909090\nmov dword ptr [rdx+4], 0xc3909090\ncall rdx"
    )
    assert guest.run(text, rbx=AREA + 0xFFC, rcx=AREA + 0xE80, rdx=AREA + 0xFFD) is not None
    tracer.hand_on()
    found = accesses_of(parts)
    assert [(store, size) for store, _, size, _ in found[:2]] == [(False, 8), (True, 8)]
    assert guest.machine.cpus[0].counts.instructions >= 20


def test_parts_make_the_same_trace(laight: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers are handed on wherever an engine stops."""
    monkeypatch.setattr("kstack.trace.tracer.PART_RECORDS", 400)
    make_trace(recorded("laight", "entry-exit", "round-robin:1000"), tmp_path / "trace")
    other = read_trace(tmp_path / "trace")
    for name in SCHEMAS:
        assert pq.read_table(other.file(name)).equals(pq.read_table(laight.file(name))), name


def test_a_full_buffer_ends_a_run_and_nothing_else(
    laight: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kstack.trace.tracer.PART_RECORDS", 300)
    monkeypatch.setattr("kstack.hw.engine.tracing.BUFFER_RECORDS", 300)
    recording = recorded("laight", "entry-exit", "round-robin:2000")
    make_trace(recording, tmp_path / "small")
    monkeypatch.undo()
    make_trace(recording, tmp_path / "large")
    small, large = read_trace(tmp_path / "small"), read_trace(tmp_path / "large")
    for name in ("instructions", "accesses", "events"):
        assert pq.read_table(small.file(name)).equals(pq.read_table(large.file(name))), name


def test_two_traces_of_one_recording_are_byte_identical(laight: Trace, tmp_path: Path) -> None:
    make_trace(recorded("laight", "entry-exit", "round-robin:1000"), tmp_path / "again")
    for file in sorted(laight.folder.iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", [*(f"{name}.parquet" for name in SCHEMAS), "trace.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_trace_is_one_clear_error(name: str, damage: str, laight: Trace, tmp_path: Path) -> None:
    for file in laight.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    place = tmp_path / name
    data = place.read_bytes()
    if damage == "cut":
        place.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        version = b'"version": %d' % VERSION
        place.write_bytes(data.replace(version, b'"version": 9') if name == "trace.json" else b"x" + data[1:])
    else:
        place.unlink()
    with pytest.raises(TraceError, match="trace"):
        read_trace(tmp_path)


def test_what_a_trace_says_of_itself_is_checked(laight: Trace, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(laight.folder, folder)
    meta = json.loads((folder / "trace.json").read_text())
    (folder / "trace.json").write_text(json.dumps({**meta, "cpus": 99999999}))
    with pytest.raises(TraceError, match=r"trace\.json is not what was written"):
        read_trace(folder)


def test_only_a_trace_and_nothing_beside_it_is_replaced(laight: Trace, tmp_path: Path) -> None:
    recording = recorded("litmus-laight", "fixed-16k", "round-robin:10")
    for name, files in (("chrome", {"trace.json": "{}", "notes": "mine"}), ("notes", {"notes": "mine"})):
        folder = tmp_path / name
        if name == "notes":
            shutil.copytree(laight.folder, folder)
        folder.mkdir(exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(TraceError, match="is no trace, or has other files"):
            make_trace(recording, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    mine = tmp_path / "mine"
    shutil.copytree(laight.folder, mine)
    make_trace(recording, mine)
    assert read_trace(mine).meta.image == "litmus-laight"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chrome", "mine", "notes"]


def test_a_replay_that_comes_out_otherwise_leaves_no_trace(tmp_path: Path) -> None:
    recording = replace_hash(recorded("litmus-laight", "fixed-16k", "round-robin:10"))
    with pytest.raises(TraceError, match="recorded was"):
        make_trace(recording, tmp_path / "trace")
    assert not list(tmp_path.iterdir())


def replace_hash(recording: Recording) -> Recording:
    from msgspec.structs import replace as replaced

    return replaced(recording, state_hash="0" * 32)


def test_what_is_no_trace_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(TraceError, match="is no trace"):
        make_trace(recorded("litmus-laight", "fixed-16k", "round-robin:10"), tmp_path / "mine")
    assert (tmp_path / "mine" / "letter").read_text() == "dear"


@pytest.mark.parametrize("scale", [1, 1 << 20, 1 << 58])
def test_first_of_each_is_so_for_values_near_each_other_and_far(scale: int) -> None:
    for seed in range(30):
        chosen = np.random.default_rng(seed).integers(0, 1 + 2 * seed, size=3 * seed) * scale
        values = [int(value) + (1 << 63) for value in chosen]
        expected = [at for at, value in enumerate(values) if value not in values[:at]]
        assert first_of_each(np.array(values, dtype=np.uint64)).tolist() == expected


def test_numbers_are_stored_split_by_bytes(laight: Trace) -> None:
    for name in ("instructions", "accesses"):
        group = pq.ParquetFile(laight.file(name)).metadata.row_group(0)
        columns = {group.column(at).path_in_schema: set(group.column(at).encodings) for at in range(group.num_columns)}
        assert "DELTA_BINARY_PACKED" in columns.pop("count")
        for column, encodings in columns.items():
            wide = SCHEMAS[name].field(column).type in (pa.uint64(), pa.int32())
            assert ("BYTE_STREAM_SPLIT" in encodings) == wide and "RLE_DICTIONARY" not in encodings
