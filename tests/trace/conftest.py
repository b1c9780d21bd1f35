"""The trace that most tests ask."""

from __future__ import annotations

import pytest

from kstack.schedule import RoundRobin
from kstack.trace.make import make_trace
from kstack.trace.store import Trace, read_trace
from tests.support.traces import recorded


@pytest.fixture(scope="module")
def laight(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    folder = tmp_path_factory.mktemp("trace") / "laight"
    make_trace(recorded("laight", "entry-exit", RoundRobin(1000)), folder)
    return read_trace(folder)
