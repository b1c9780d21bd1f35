"""The tables of traces, and traces of bare machines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq

from kstack.kernels.kernel import Facts
from kstack.load import Symbols
from kstack.machine import Machine
from kstack.run.outside import RunHooks
from kstack.stacks.host.call import StackHooks
from kstack.trace.store import Trace
from kstack.trace.tracer import TracePart, Tracer


def table(trace: Trace, name: str) -> dict[str, Any]:
    """A table's columns as arrays."""
    found = pq.read_table(trace.file(name))
    return {column: found.column(column).to_numpy() for column in found.column_names}


def rows(trace: Trace, name: str) -> list[dict[str, Any]]:
    """A table's rows."""
    found: list[dict[str, Any]] = pq.read_table(trace.file(name)).to_pylist()
    return found


def follow(machine: Machine) -> tuple[Tracer, list[TracePart]]:
    """A bare machine's tracer, and what it hands on."""
    parts: list[TracePart] = []
    runtime = SimpleNamespace(calls=[[] for _ in machine.cpus])
    machine.instruments.offer(StackHooks())
    machine.instruments.offer(RunHooks())
    kernel = SimpleNamespace(facts=Facts(shootdown_vector=0, timer_vector=0, ports=frozenset()))
    beside = {"oracle": None, "writer": None, "kernel": kernel, "symbols": Symbols([])}
    session: Any = SimpleNamespace(machine=machine, runtime=runtime, findings=[], **beside)
    return Tracer(session, parts.append), parts
