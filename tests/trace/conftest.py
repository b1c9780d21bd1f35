"""The trace that most tests ask."""

from __future__ import annotations

import pytest

from kstack.trace.make import make_trace
from kstack.trace.store import Trace, read_trace
from tests.support.recordings import recorded


@pytest.fixture(scope="session")
def laight(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A stale translation is used, and found."""
    folder = tmp_path_factory.mktemp("trace") / "laight"
    make_trace(recorded("laight", "entry-exit", "round-robin:1000"), folder)
    return read_trace(folder)
