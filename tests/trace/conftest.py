"""The trace that most tests ask."""

from __future__ import annotations

import pytest

from tests.support.traces import recorded
from vm.schedule import RoundRobin
from vm.trace.make import make_trace
from vm.trace.store import Trace, read_trace


@pytest.fixture(scope="module")
def laight(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    folder = tmp_path_factory.mktemp("trace") / "laight"
    make_trace(recorded("laight", "entry-exit", RoundRobin(1000)), folder)
    return read_trace(folder)
