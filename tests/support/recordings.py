"""Recordings of scenarios, made once in a process."""

from __future__ import annotations

from functools import lru_cache

from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import size
from kstack.recording import Recording
from kstack.run.session import RunOptions
from kstack.run.spec import Setup, script_of
from kstack.schedule import parse


@lru_cache(maxsize=16)
def recorded(
    scenario: str,
    policy: str,
    schedule: str = "scripted",
    seed: int = 0,
    modes: Modes = Modes(),
    units: int = 2_000_000,
) -> Recording:
    """A recording of a run, as `kstack run --record` makes it.

    Args:
        scenario: by name.
        policy: by name.
        schedule: as `--schedule` takes it.
        seed: of a random schedule, and of the adversary.
        modes: architecture modes.
        units: of virtual time, at most.
    """
    found = find_scenario(scenario)
    options = RunOptions(max_time=units, adversary=seed)
    setup = Setup(scenario, found.cpus, size(found.ram), modes, policy, options)
    session = setup.session(parse(schedule, seed, script_of(found) if schedule == "scripted" else None))
    return setup.recording(session.choices, session.run())
