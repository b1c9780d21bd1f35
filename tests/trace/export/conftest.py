"""Traces that all tests of exports share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.hw.modes import Modes
from kstack.run.session import RunOptions
from kstack.run.spec import Setup
from kstack.schedule import RoundRobin
from kstack.trace.make import make_trace
from kstack.trace.store import Trace, read_trace


def traced(folder: Path, scenario: str, policy: str, quantum: int = 1000) -> Trace:
    """A trace of a scenario on two CPUs that take turns."""
    setup = Setup(scenario, 2, 64 << 20, Modes(), policy, RunOptions(2_000_000))
    session = setup.session(RoundRobin(quantum))
    result = session.run()
    make_trace(setup.recording(session.choices, result), folder)
    return read_trace(folder)


@pytest.fixture(scope="session")
def laight(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A stale translation is used, and found."""
    return traced(tmp_path_factory.mktemp("export") / "laight", "laight", "entry-exit")


@pytest.fixture(scope="session")
def double_fault(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """#DF instead of #PF, an NMI, a timer, and the guest's end in a #GP."""
    return traced(tmp_path_factory.mktemp("export") / "double-fault", "interrupt-deep", "fault-df")


@pytest.fixture(scope="session")
def fred(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Events and system calls by FRED."""
    return traced(tmp_path_factory.mktemp("export") / "fred", "laight", "fault-fred")
