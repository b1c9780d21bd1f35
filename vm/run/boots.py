"""Guests that have booted, once a process: every run of the same guest goes on from the same snapshot."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from kstack.base.digests import digest
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_image, find_scenario, scenarios
from kstack.run.session import BootedScenario

KEPT = 8
"""Machines in memory at once."""


def booted(image: str, cpus: int, ram: int, modes: Modes) -> BootedScenario:
    """A scenario's guest, booted; it ends the run that was made of it before.

    Args:
        image: the scenario's id, or the path of its TOML: a file that has changed is another guest.
        cpus: CPUs of the machine.
        ram: bytes.
        modes: architecture modes, as the policy needs them.

    Raises:
        KstackError: as `BootedScenario`.
    """
    return _booted(image, cpus, ram, modes, _contents(image))


@lru_cache(maxsize=KEPT)
def _booted(image: str, cpus: int, ram: int, modes: Modes, contents: str) -> BootedScenario:
    return BootedScenario(find_image(image), image, cpus, ram, modes)


def _contents(image: str) -> str:
    """What a scenario's own files hold (hex digest); nothing for those that come with kstack."""
    if image in scenarios():
        return ""
    path = Path(image)
    sources = [path.parent / name for name in find_scenario(image).sources]
    files = [path, *(source for source in sources if source.exists())]
    return digest(b"".join(file.read_bytes() for file in files))
