"""Requirement 6: a run is a function of image, configuration, schedule and seed, on any host, at any time."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from kstack.guest.asm import assemble
from kstack.hw.apic.registers import Reg
from kstack.hw.cpu.cpu import CpuState
from kstack.machine import Machine, MachineConfig
from kstack.schedule import RandomSchedule, View

ROOT: Final = Path(__file__).parents[2]
CODE: Final = 0x8000
RACE: Final = """
.code16
    xor ax, ax
    mov ds, ax
    mov cx, 200
.Lagain:
    mov ax, [0x9000]
    add ax, 3
    mov [0x9000], ax
    lock xadd [0x9010], cx
    rdtsc
    xor [0x9020], eax
    dec cx
    jnz .Lagain
    inc word ptr [0x9030]
    jmp .Lagain
"""


def race(seed: int, units: int = 2000) -> Machine:
    """Two CPUs in real mode that race for a counter, the first with a timer, under a seeded schedule."""
    machine = Machine(MachineConfig(cpus=2, ram=1 << 20))
    machine.memory.write(CODE, assemble(RACE, CODE, bits=16))
    for cpu in machine.cpus:
        cpu.state = CpuState.WAIT_FOR_SIPI
        cpu.sipi(CODE >> 12)
    machine.apics[0].write(Reg.SVR, 4, 0x1FF)
    machine.apics[0].write(Reg.INITIAL, 4, 500)
    schedule = RandomSchedule(seed)
    while machine.time < units:
        ready = tuple(machine.runnable())
        choice = schedule.choose(View(ready, frozenset(), machine.time))
        machine.run(choice.cpu, choice.quantum)
    return machine


def hash_in_fresh_process(seed: int, hash_seed: int) -> str:
    program = (
        f"from tests.machine.test_determinism import race; import sys; sys.stdout.write(race({seed}).state_hash())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.long)])
def test_processes_with_one_seed_agree_on_one_state_hash(count: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        hashes = set(pool.map(lambda number: hash_in_fresh_process(7, number), range(count)))
    assert len(hashes) == 1
    assert len(hashes.pop()) == 32


def test_two_runs_in_one_process_agree_too() -> None:
    assert race(3).state_hash() == race(3).state_hash()


def test_another_seed_gives_another_state_hash() -> None:
    assert len({race(seed).state_hash() for seed in range(10)}) == 10


def test_another_seed_gives_another_outcome_of_the_race() -> None:
    assert len({race(seed).memory.read(0x9000, 0x40) for seed in range(10)}) > 1
