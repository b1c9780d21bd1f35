"""What guests print on the machine, from their first instruction to their end."""

from __future__ import annotations

from typing import Final

from kstack.guest.images import build_image
from kstack.hw.modes import Modes
from kstack.load import load
from kstack.machine import End, Machine, MachineConfig

LIMIT: Final = 100_000_000  # units of virtual time; up to 16 CPUs the self-test takes a third, 64 take 170 million


def console_of(
    image: bytes, cpus: int = 1, ram: int = 64 << 20, modes: Modes = Modes(), quantum: int = 1000, limit: int = LIMIT
) -> str:
    """What an image prints until it ends itself by the debug-exit port; its CPUs take turns."""
    machine = Machine(MachineConfig(cpus, ram, modes))
    load(machine, image)
    turn = 0
    while machine.end() is None and machine.time < limit:
        ready = machine.runnable()
        if ready:
            machine.run(ready[turn % len(ready)], quantum)
            turn += 1
        elif not machine.warp():
            break
    console = machine.uart.sent.decode()
    assert machine.end() is End.EXIT, console[-400:]
    return console


def selftest_console(cpus: int, quantum: int = 1000, limit: int = LIMIT) -> str:
    """The console of the kernel's self-test."""
    return console_of(build_image("selftest").to_elf(), cpus, quantum=quantum, limit=limit)
