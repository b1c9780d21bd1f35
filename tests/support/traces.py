"""Recordings to be traced, and the tables of their traces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq

from vm.hw.modes import Modes
from vm.load import Symbols
from vm.machine import Machine
from vm.recording import Recording
from vm.schedule import Scheduler
from vm.session import RunOptions
from vm.setup import Setup
from vm.trace.store import Trace
from vm.trace.tracer import Part, Tracer


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
    runtime = SimpleNamespace(observers=[], hook_observers=[], calls=[[] for _ in machine.cpus])
    session: Any = SimpleNamespace(machine=machine, runtime=runtime, oracle=None, writer=None, symbols=Symbols([]))
    return Tracer(session, parts.append), parts
