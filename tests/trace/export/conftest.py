"""Traces that all tests of exports share, beside that of the folder above."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.trace.make import make_trace
from kstack.trace.store import Trace, read_trace
from tests.support.recordings import recorded


def traced(folder: Path, scenario: str, policy: str) -> Trace:
    """A trace of a scenario on two CPUs that take turns."""
    make_trace(recorded(scenario, policy, "round-robin:1000"), folder)
    return read_trace(folder)


@pytest.fixture(scope="session")
def double_fault(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """#DF instead of #PF, an NMI, a timer, and the guest's end in a #GP."""
    return traced(tmp_path_factory.mktemp("export") / "double-fault", "interrupt-deep", "fault-df")


@pytest.fixture(scope="session")
def fred(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Events and system calls by FRED."""
    return traced(tmp_path_factory.mktemp("export") / "fred", "laight", "fault-fred")
