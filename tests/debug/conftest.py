"""The client that most tests of the debugger ask."""

from __future__ import annotations

import pytest

from tests.support.debugger import Client, laight


@pytest.fixture
def client() -> Client:
    """Of the recording in which CPU 1 reads through a stale translation."""
    return Client(laight())
