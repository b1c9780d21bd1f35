"""Two CPUs that race for a counter: what comes of it is decided by the schedule's seed."""

from __future__ import annotations

from typing import Final

from kstack.guest.asm import assemble
from kstack.hw.apic.registers import Reg
from kstack.hw.cpu.state import ActivityState
from kstack.machine import Machine, MachineConfig
from kstack.schedule import RandomSchedule, View

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
        cpu.state = ActivityState.WAIT_FOR_SIPI
        cpu.sipi(CODE >> 12)
    machine.apics[0].write(Reg.SVR, 4, 0x1FF)
    machine.apics[0].write(Reg.INITIAL, 4, 500)
    schedule = RandomSchedule(seed)
    while machine.time < units:
        ready = tuple(machine.runnable())
        choice = schedule.choose(View(ready, frozenset(), machine.time))
        machine.run(choice.cpu, choice.quantum)
    return machine
