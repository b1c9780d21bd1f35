"""Requirement 4: the kernel's self-test says the same on this machine and on QEMU, with 1, 2 and 4 CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.guest.images import build_image
from kstack.load import load
from kstack.machine import End, Machine, MachineConfig
from tests.support.qemu import on_qemu

LIMIT = 100_000_000  # units of virtual time; up to 16 CPUs it takes a third, 64 take 170 million


def on_machine(cpus: int, quantum: int = 1000, limit: int = LIMIT) -> str:
    """The console of the self-test on our machine."""
    console = bytearray()
    machine = Machine(MachineConfig(cpus=cpus), console.extend)
    load(machine, build_image("selftest").to_elf(), "selftest")
    turn = 0
    while machine.end() is None and machine.time < limit:
        ready = machine.runnable()
        if ready:
            machine.run(ready[turn % len(ready)], quantum)
            turn += 1
        elif not machine.warp():
            break
    assert machine.end() is End.EXIT, console.decode()
    return console.decode()


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_every_self_test_passes_on_the_machine(cpus: int) -> None:
    console = on_machine(cpus)
    assert "FAIL" not in console
    assert " passed, 0 failed\n" in console
    assert ("SKIP" in console) == (cpus == 1)


@pytest.mark.slow
def test_the_console_does_not_depend_on_the_quantum() -> None:
    assert on_machine(2, 1000) == on_machine(2, 317)


@pytest.mark.slow
@pytest.mark.system("qemu-system-x86_64")
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_the_console_is_the_same_on_qemu(cpus: int, tmp_path: Path) -> None:
    image = tmp_path / "selftest.elf"
    image.write_bytes(build_image("selftest").to_elf())
    done = on_qemu(image, cpus=cpus, ram=64)
    assert done.returncode & 1, done.stderr
    assert on_machine(cpus).replace("\r", "") == done.stdout.replace("\r", "")
