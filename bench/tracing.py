"""What a trace costs: time against a Python hook at each block, bytes, and answers to the ready-made queries."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.harness import Row, at_most, seconds_each
from bench.image import image
from bench.runners import RAM, bare_unicorn, ours
from kstack.recording import Recording
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec, replay_session
from kstack.schedule import RoundRobin
from kstack.trace.make import make_trace
from kstack.trace.query import QUERIES, Database, ask
from kstack.trace.store import Trace, read_trace

LOOPS: Final = ("compute", "memory", "calls")
FIRST: Final = 20_000
PUMP: Final = RunSpec("pump-long", 2, 64 << 20, policy="entry-exit", options=RunOptions(20_000_000))
QUANTUM: Final = 100_000
INSTRUCTIONS: Final = 1_000_000  # of the trace that is asked


def run() -> list[Row]:
    """Seconds of runs that are traced, bytes an instruction, seconds of each ready-made query."""
    rows = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        for loop in LOOPS:
            instructions = ours((loop, "loop"), 2)[1] - ours((loop, "loop"), 1)[1]
            runners = [partial(_traced_loop, folder, loop), partial(bare_unicorn, loop, watched=True)]
            here, there = (each / instructions * 1e6 for each in seconds_each(*runners, first=FIRST))
            name, target = f"{loop}, a million instructions", at_most(here / there, 3.0, "<= 3 times")
            rows.append(Row("tracing", name, here, "s", "Python block hook", there, *target))
        recording = _recorded(PUMP)
        traced, plain = _traced(recording, folder), _plain(recording)
        rows.append(Row("tracing", "pump-long, replay and all", traced, "s", "replay alone", plain))
        trace = _million(folder)
        size = sum(trace.file(name).stat().st_size for name in trace.tables) / trace.meta.rows["instructions"]
        rows.append(
            Row("tracing", "an instruction, accesses and all", size, "bytes", None, None, *at_most(size, 5, "<= 5"))
        )
        for name, arguments in _questions(trace).items():
            start = time.perf_counter()
            ask(Database(trace), name, arguments)
            seconds = time.perf_counter() - start
            rows.append(Row("tracing", f"query {name}", seconds, "s", None, None, *at_most(seconds, 0.5, "<= 0.5 s")))
    return rows


def _traced_loop(folder: Path, loop: str, count: int) -> float:
    """CPU seconds of a trace of a loop with the kernel around it."""
    guest = folder / f"{loop}.elf"
    guest.write_bytes(image((loop, "loop"), count))
    return _traced(_recorded(RunSpec(str(guest), 1, RAM)), folder)


def _recorded(setup: RunSpec) -> Recording:
    session = setup.session(RoundRobin(QUANTUM))
    result = session.run()
    if result.ended != "exit":
        raise RuntimeError(f"{setup.image}: {result.ended}")
    return setup.recording(session.choices, result)


def _plain(recording: Recording) -> float:
    """CPU seconds of a replay."""
    start = time.process_time()
    replay_session(recording).run()
    return time.process_time() - start


def _traced(recording: Recording, folder: Path) -> float:
    """CPU seconds of a trace, replay and all."""
    start = time.process_time()
    make_trace(recording, folder / "timed")
    return time.process_time() - start


def _million(folder: Path) -> Trace:
    """A trace of at least a million instructions of a scenario with a policy, findings and all."""
    make_trace(_recorded(PUMP), folder / "million")
    trace = read_trace(folder / "million")
    if trace.meta.rows["instructions"] < INSTRUCTIONS:
        raise RuntimeError(f"pump-long has {trace.meta.rows['instructions']} instructions only")
    return trace


def _questions(trace: Trace) -> dict[str, list[int]]:
    """Arguments for each ready-made query."""
    database = Database(trace)
    thread, bottom = database.sql("select thread, address from events where kind = 'thread' order by count desc").rows[
        0
    ]
    written = database.sql("select any_value(address) from accesses where store and address >= $1", bottom).rows[0][0]
    findings = [row[0] for row in database.findings().rows]
    chosen = {
        "writes": [written],
        "entry": [written],
        "stack": [thread],
        "between": [findings[0], findings[-1]] if findings else [],
    }
    return {name: chosen.get(name, []) for name in QUERIES if name != "between" or findings}
