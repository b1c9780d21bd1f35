"""What an interrupt has left below the stack pointer it came at is put back as it was when its handler returns.

A frame that lies there says at which instruction the interrupt came, and what was in the registers then; states that
differ in nothing else would not be the same. Hardware leaves it there; but no program can rely on what lies below its
stack pointer while it can be interrupted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.hw.cpu.cpu import Cpu
from kstack.hw.memory import PhysicalMemory
from kstack.x86.addresses import PAGE
from kstack.x86.registers import Gpr

_RSP: Final = int(Gpr.RSP)
WINDOW: Final = 512  # bytes below the stack pointer; what a handler uses beyond stays


class Below(NamedTuple):
    """What lay below a stack pointer when an interrupt came.

    Attributes:
        pointer: the stack pointer (linear address).
        address: where the bytes were (physical address).
        data: the bytes.
    """

    pointer: int
    address: int
    data: bytes


def below(core: Cpu, memory: PhysicalMemory) -> Below | None:
    """What lies below a CPU's stack pointer, in its page; None if nothing is mapped there."""
    pointer = core.registers.gpr[_RSP]
    size = min(WINDOW, (pointer - 1) % PAGE + 1)
    frame = core.mmu.resolve(pointer - size)
    return None if frame is None or not memory.is_ram(frame) else Below(pointer, frame, memory.read(frame, size))


def put_back(memory: PhysicalMemory, found: Below) -> None:
    """Make it what it was."""
    if memory.read(found.address, len(found.data)) != found.data:
        memory.write(found.address, found.data)
