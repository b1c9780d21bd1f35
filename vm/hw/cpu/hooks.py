"""What a CPU tells beside its translations: events delivered, instructions run, memory that it reaches by itself."""

from __future__ import annotations

from typing import NamedTuple

from kstack.hw.cpu.decode import Instruction
from kstack.hw.cpu.events import Event, Outcome
from kstack.hw.engine import Stop
from kstack.hw.instruments import Hook, Hooks


class Delivery(NamedTuple):
    """Events were delivered on a CPU, or ended in shutdown."""

    cpu: int
    events: list[Event]
    outcome: Outcome


class Before(NamedTuple):
    """A CPU before an instruction: its linear address, RSP, CPL, its bytes, and the width of the code."""

    rip: int
    rsp: int
    ring: int
    code: bytes
    bits: int


class CpuHooks(Hooks):
    """What the CPUs of a machine tell.

    Attributes:
        delivery: of exceptions and interrupts.
        run: an engine has run from a virtual time on, and stopped: the CPU, the time, why. Its recorder has the records.
        emulation: an instruction that no engine executes was carried out: the CPU, the time, the instruction, the CPU before.
        access: a CPU reads or writes memory by itself: the CPU, linear and physical address, bytes, the value, whether a store.
    """

    def __init__(self) -> None:
        self.delivery: Hook[[Delivery]] = Hook()
        self.run: Hook[[int, int, Stop]] = Hook()
        self.emulation: Hook[[int, int, Instruction, Before]] = Hook()
        self.access: Hook[[int, int, int, int, int, bool]] = Hook()
