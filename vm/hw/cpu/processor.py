"""A CPU as the instructions that it carries out itself see it: `instructions.py`, `corrections.py` and `checked.py`.

`Cpu` is one. They name this and not that, since it is the CPU that calls them.
"""

from __future__ import annotations

from typing import Protocol

from kstack.hw.apic.apic import LocalApic
from kstack.hw.cpu.counts import Counts
from kstack.hw.cpu.cpuid import Cpuid
from kstack.hw.cpu.events import Event
from kstack.hw.cpu.fred import Fred
from kstack.hw.cpu.linear import LinearMemory
from kstack.hw.cpu.msr import Msrs
from kstack.hw.engine import Registers
from kstack.hw.mmu.broadcast import Broadcast
from kstack.hw.mmu.mmu import Mmu


class Processor(Protocol):
    """The parts of a CPU, and what an instruction can ask it to do.

    Attributes:
        yielded: set by an instruction that lets others run.
    """

    index: int
    registers: Registers
    linear: LinearMemory
    mmu: Mmu
    msrs: Msrs
    apic: LocalApic
    fred: Fred
    cpuid: Cpuid
    broadcast: Broadcast
    counts: Counts
    yielded: bool

    def deliver(self, event: Event) -> None:
        """Deliver an event, which takes one unit of time."""
        ...

    def unblock_nmi(self) -> None:
        """A return ends NMI blocking."""
        ...

    def returned(self) -> None:
        """An event's handler has returned."""
        ...

    def resume(self) -> None:
        """A return has set RF: a breakpoint on the instruction at RIP is held off once (17.3.1.1)."""
        ...

    def watch_returns(self) -> None:
        """What decides which returns matter has changed."""
        ...

    def arm(self) -> None:
        """The debug registers, or CR4.DE, have changed."""
        ...

    def port_read(self, port: int, size: int) -> int:
        """IN, by the machine."""
        ...

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT, by the machine."""
        ...

    def note_port(self, port: int, size: int) -> None:
        """An instruction has accessed a port."""
        ...

    def not_modelled(self, what: str) -> None:
        """The guest asked for something outside the model: the CPU stops, saying what."""
        ...
