"""A machine at reset, made once in a process for each size."""

from __future__ import annotations

from functools import cache

from kstack.machine import Machine, MachineConfig, MachineSnapshot


@cache
def _made(cpus: int, ram: int) -> tuple[Machine, MachineSnapshot]:
    machine = Machine(MachineConfig(cpus, ram))
    return machine, machine.snapshot()


def machine_at_reset(cpus: int, ram: int) -> Machine:
    """The same machine each time, put back to reset; what was done on it before is gone."""
    machine, reset = _made(cpus, ram)
    machine.restore(reset)
    return machine
