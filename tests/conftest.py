"""What all tests share: programs that may be missing, and Hypothesis without the host's clock."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from hypothesis import settings

settings.register_profile("kstack", deadline=None, print_blob=True)
settings.load_profile("kstack")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so it is in a background job, and in all that one starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long`, without KSTACK_LONG=1."""
    left_out = [] if os.environ.get("KSTACK_LONG") else [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose `system(...)` marker names a program that is not installed."""
    for marker in item.iter_markers("system"):
        missing = [program for program in marker.args if shutil.which(program) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}: make setup-system")
