"""Recordings to be traced, and the tables of their traces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq

from kstack.hw.modes import Modes
from kstack.load import Symbols
from kstack.machine import Machine
from kstack.recording import Recording
from kstack.run.session import RunHooks, RunOptions
from kstack.run.spec import Setup
from kstack.schedule import Scheduler
from kstack.stacks.host.call import StackHooks
from kstack.trace.store import Trace
from kstack.trace.tracer import Part, Tracer


def recorded(scenario: str, policy: str, scheduler: Scheduler, modes: Modes = Modes()) -> Recording:
    setup = Setup(scenario, 2, 64 << 20, modes, policy, RunOptions(2_000_000))
    session = setup.session(scheduler)
    result = session.run()
    return setup.recording(session.choices, result)


def table(trace: Trace, name: str) -> dict[str, Any]:
    found = pq.read_table(trace.file(name))
    return {column: found.column(column).to_numpy() for column in found.column_names}


def follow(machine: Machine) -> tuple[Tracer, list[Part]]:
    """A bare machine's tracer, and what it hands on."""
    parts: list[Part] = []
    runtime = SimpleNamespace(calls=[[] for _ in machine.cpus])
    machine.instruments.offer(StackHooks())
    machine.instruments.offer(RunHooks())
    session: Any = SimpleNamespace(machine=machine, runtime=runtime, oracle=None, writer=None, symbols=Symbols([]))
    return Tracer(session, parts.append), parts
