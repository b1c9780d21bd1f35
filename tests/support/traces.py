"""Recordings to be traced, and the tables of their traces."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from vm.hw.modes import Modes
from vm.recording import Recording
from vm.schedule import Scheduler
from vm.session import RunOptions
from vm.setup import Setup
from vm.trace.store import Trace


def recorded(scenario: str, policy: str, scheduler: Scheduler, modes: Modes = Modes()) -> Recording:
    setup = Setup(scenario, 2, 64 << 20, modes, policy, RunOptions(2_000_000))
    session = setup.session(scheduler)
    result = session.run()
    return setup.recording(session.choices, result)


def table(trace: Trace, name: str) -> dict[str, Any]:
    found = pq.read_table(trace.file(name))
    return {column: found.column(column).to_numpy() for column in found.column_names}
