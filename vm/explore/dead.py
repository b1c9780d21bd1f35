"""What lies below a CPU's stack pointer is dead: an interrupt may come at any moment, and overwrites it.

Where an interrupt has come and gone, its frame is left there, with the place at which it came; states that differ in
nothing else are the same. So it is cleared on the stack of the kernel thread that a CPU runs.
"""

from __future__ import annotations

from vm.hw.memory import PAGE
from vm.machine import Machine
from vm.stacks import Thread


def clear_below(machine: Machine, cpu: int, thread: Thread, before: int) -> None:
    """Clear a stack below a CPU's stack pointer.

    Args:
        machine: of the CPU.
        cpu: its number.
        thread: whose stack the pointer is in.
        before: where it was when all below it was clear.
    """
    core, memory = machine.cpus[cpu], machine.memory
    pointer = core.registers.gpr[4]
    for page in thread.pages:
        end = pointer - page.address
        frame = core.mmu.resolve(page.address) if end > 0 else None
        if frame is not None and (before < pointer or frame // PAGE in memory.dirty):
            whole = memory.read(frame, PAGE)
            left = whole[end:].rjust(PAGE, bytes(1))
            if left != whole:
                memory.write(frame, left)
