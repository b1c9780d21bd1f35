"""Wake-ups in a trace are those that single steps see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kstack.recording import Recording
from kstack.run.spec import replay_session
from kstack.trace.columns import ACCESSES, INSTRUCTIONS, Columns
from kstack.trace.export import export
from kstack.trace.make import make_trace
from kstack.trace.query import Database
from kstack.trace.store import read_trace
from kstack.trace.wakeups import Wakes
from kstack.x86.registers import Gpr
from tests.support.perfetto_timeline import read
from tests.support.recordings import recorded


def stepped(recording: Recording) -> list[tuple[int, int, int]]:
    """Virtual time, CPU and the first word of what RBX points at, wherever the store is executed."""
    session = replay_session(recording)
    machine, store = session.machine, session.symbols.address(session.kernel.facts.wakes_at)
    found = []
    while (begun := session.begin(1 << 40)) is None or not isinstance(begun, str):
        left = 0 if begun is None else begun.quantum
        while begun is not None and left:
            cpu, time = machine.cpus[begun.cpu], machine.time
            thread = None
            if cpu.rip() == store:
                thread = cpu.linear.read(cpu.registers.gpr[Gpr.RBX], 8)
            piece = session.advance(begun.cpu, 1)
            if thread is not None and cpu.rip() != store:
                found.append((time, begun.cpu, thread))
            left -= piece.elapsed
            if piece.end.name != "BUDGET":
                break
        if begun is not None and session.finish() is not None:
            break
    return found


@pytest.mark.parametrize(
    ("scenario", "policy"),
    [
        ("pressure", "entry-exit"),
        ("laight", "fixed-16k"),
        pytest.param("futex-sleepers", "switch-sp-ipi", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("records", [pytest.param(1 << 17, marks=pytest.mark.long), 700])
def test_every_wake_up_is_there_with_its_thread(
    scenario: str, policy: str, records: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recorded(scenario, policy, "random", 3)
    expected = stepped(recording)
    assert expected
    monkeypatch.setattr("kstack.trace.tracer.PART_RECORDS", records)
    make_trace(recording, tmp_path / "trace")
    rows = Database(read_trace(tmp_path / "trace")).sql(
        "select count, cpu, thread, name from events where kind = 'wake' order by count"
    )
    assert rows.rows == [(*row, f"{row[2]}") for row in expected]


def test_an_arrow_goes_from_a_wake_up_to_the_slice_in_which_the_thread_runs(tmp_path: Path) -> None:
    make_trace(recorded("futex-sleepers", "switch-sp-ipi", "round-robin:1000"), tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    export(trace, "perfetto", tmp_path / "timeline")
    timeline = read(tmp_path / "timeline")
    arrows = [chain for chain in timeline.arrows().values() if chain[0].category == "wake"]
    switches = Database(trace).sql("select thread, count, cpu from events where kind = 'switch' order by count").rows
    assert len(arrows) == len([one for one in timeline.instants if one.category == "wake"]) > 10
    for woken, runs in arrows:
        thread = woken.more["thread"]
        assert woken.name == f"wake thread {thread}" and (runs.name, runs.category) == (f"thread {thread}", "thread")
        after = [(count, cpu) for other, count, cpu in switches if other == thread and count >= woken.begin]
        assert (runs.begin, runs.track) == (after[0][0], f"CPU {after[0][1]}"), "where it runs next"


# --- whom, where nobody has looked

STORE, THREAD = 0x1000, 0x8000
CODE = [(0, STORE, bytes.fromhex("48c7430802000000"), 64)]  # mov qword ptr [rbx + 8], 2


def part(*rows: tuple[int, int, int, bool]) -> tuple[Columns, Columns]:
    """Accesses of 8 bytes: count, address, value, store; each by an instruction of its own, one of them the store."""
    rips = [STORE if address == THREAD + 8 else 0x2000 for _, address, _, _ in rows]
    columns: dict[str, Any] = {
        "count": [row[0] for row in rows],
        "cpu": [0] * len(rows),
        "rip": rips,
        "store": [row[3] for row in rows],
        "size": [8] * len(rows),
        "address": [row[1] for row in rows],
        "physical": [row[1] + (1 << 20) for row in rows],
        "value": [row[2] for row in rows],
    }
    made = {name: np.array(values, np.bool_ if name == "store" else np.uint64) for name, values in columns.items()}
    nothing = np.zeros(len(rows), np.uint64)
    return (
        Columns(INSTRUCTIONS, tuple(made.get(name, nothing) for name in INSTRUCTIONS)),
        Columns(ACCESSES, tuple(made.get(name, nothing) for name in ACCESSES)),
    )


def wakes(read: dict[int, int] | None = None, store: int | None = STORE) -> Wakes:
    return Wakes(store, lambda address, size: (read or {})[address].to_bytes(size, "little"))


WAKE = (50, THREAD + 8, 2, True)


def test_the_id_is_what_was_seen_last_before() -> None:
    rows = ((10, THREAD, 4, True), (20, THREAD, 5, True), WAKE, (60, THREAD, 6, True))
    assert wakes().of(*part(*rows), CODE) == [(50, 0, 5)]


def test_the_id_is_what_was_known_from_the_part_before() -> None:
    found = wakes()
    assert found.of(*part((10, THREAD, 4, True), WAKE, (60, THREAD, 6, True)), CODE) == [(50, 0, 4)]
    assert found.of(*part(WAKE, (60, THREAD, 7, True)), []) == [(50, 0, 6)]


def test_the_id_is_what_is_seen_first_behind_where_nothing_was_before() -> None:
    assert wakes().of(*part(WAKE, (60, THREAD, 6, False)), CODE) == [(50, 0, 6)]


def test_the_id_is_what_is_in_memory_where_nobody_looked() -> None:
    assert wakes({THREAD + (1 << 20): 9}).of(*part((10, THREAD + 16, 4, True), WAKE), CODE) == [(50, 0, 9)]


def test_a_guest_without_the_symbol_has_no_wake_ups() -> None:
    assert wakes(store=None).of(*part(WAKE), CODE) == []
