"""Guests that have booted, once a process: every run of the same guest goes on from the same snapshot."""

from __future__ import annotations

from functools import lru_cache

from kstack.hw.modes import Modes
from kstack.kernels.guests import Guests
from kstack.kernels.known import usual_guests
from kstack.run.booted import BootedScenario

KEPT = 8
"""Machines in memory at once."""


def booted(image: str, cpus: int, ram: int, modes: Modes, guests: Guests | None = None) -> BootedScenario:
    """A scenario's guest, booted; it ends the run that was made of it before.

    Args:
        image: the scenario's id, or the path of its file: one that has changed is another guest.
        cpus: CPUs of the machine.
        ram: bytes.
        modes: architecture modes, as the policy needs them.
        guests: of which the scenario is one; None for kstack's own.

    Raises:
        KstackError: as `BootedScenario`.
    """
    found = usual_guests() if guests is None else guests
    return _booted(image, cpus, ram, modes, found, found.contents(image))


@lru_cache(maxsize=KEPT)
def _booted(image: str, cpus: int, ram: int, modes: Modes, guests: Guests, contents: str) -> BootedScenario:
    return BootedScenario(guests.image(image), image, cpus, ram, modes, guests.kernel)
