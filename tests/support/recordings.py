"""Recordings of scenarios, made once in a process, and places in them by symbol."""

from __future__ import annotations

from functools import lru_cache

from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import size
from kstack.recording import Recording
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec, replay_session, script_of
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
    setup = RunSpec(scenario, found.cpus, size(found.ram), modes, policy, options)
    session = setup.session(parse(schedule, seed, script_of(found) if schedule == "scripted" else None))
    return setup.recording(session.choices, session.run())


@lru_cache(maxsize=32)
def start_of(scenario: str, policy: str) -> int:
    """Virtual time at which the recording of a scripted run begins: when its guest has booted."""
    return replay_session(recorded(scenario, policy)).machine.time


@lru_cache(maxsize=32)
def time_at(scenario: str, policy: str, symbol: str, cpu: int) -> int:
    """Virtual time at which a CPU first stands at a symbol in the recording of a scripted run, found by single steps."""
    session = replay_session(recorded(scenario, policy))
    machine, place = session.machine, session.symbols.address(symbol)
    assert place is not None, symbol
    while not isinstance(begun := session.begin(1 << 40), str):
        if begun is None:
            continue
        left = begun.quantum
        while left:
            if begun.cpu == cpu and machine.cpus[cpu].rip() == place:
                return machine.time
            piece = session.advance(begun.cpu, 1)
            left -= piece.elapsed
            if piece.end.name != "BUDGET":
                break
        if session.finish() is not None:
            break
    raise AssertionError(f"CPU {cpu} never comes to {symbol}")
