"""What tests need that try this host's processor."""

from __future__ import annotations

import platform

import pytest

from kstack.probe.measure import job, measure
from kstack.probe.result import judged

FEW = 20


@pytest.fixture(scope="session")
def can_probe() -> None:
    """Skips, with the reason, where the method does not work."""
    system = (platform.system(), platform.machine())
    if system != ("Linux", "x86_64"):
        pytest.skip(f"needs Linux on x86-64, and this is {' on '.join(system)}")
    found = judged(measure(job(FEW, 0), lambda done, total: None), FEW, 0)
    failed = [str(one) for one in found.controls if not one.held]
    if found.failure or failed:
        pytest.skip(f"this host's processor cannot be probed: {found.failure or failed[0]}")
