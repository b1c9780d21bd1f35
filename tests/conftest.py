"""What all tests share: programs that may be missing, and Hypothesis without the host's clock."""

from __future__ import annotations

import shutil
import signal

import pytest
from hypothesis import settings

settings.register_profile("kstack", deadline=None, print_blob=True)
settings.load_profile("kstack")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so it is in a background job, and in all that one starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose `system(...)` marker names a program that is not installed."""
    for marker in item.iter_markers("system"):
        missing = [program for program in marker.args if shutil.which(program) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}: make setup-system")
