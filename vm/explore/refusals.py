"""What cannot be explored is refused by name, where a CPU does it or is about to."""

from __future__ import annotations

from typing import Final, NoReturn

from kstack.base.errors import ScenarioError
from kstack.explore.model.gate import gate_of
from kstack.explore.model.page_tables import GuestPageTables
from kstack.hw.apic.apic import DeliveryMode
from kstack.hw.cpu.decode import decode
from kstack.load import Symbols
from kstack.machine import Machine
from kstack.x86.registers import Gpr

_TAKEN_WITH_IF: Final = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)
_CLOCKS: Final = frozenset({"rdtsc", "rdtscp", "rdpmc"})
_INVALIDATES: Final = frozenset({"int1", "int3", "into", "invd", "invlpg", "invlpgb", "invpcid"})


class Refusals:
    """Looks at what the CPUs of a world do.

    Args:
        scenario: its id, for errors.
        symbols: of its image.
        machine: whose CPUs.
        tables: the page tables that there are.
        ports: those that a program may reach.
    """

    def __init__(
        self, scenario: str, symbols: Symbols, machine: Machine, tables: GuestPageTables, ports: frozenset[int]
    ) -> None:
        self._scenario = scenario
        self._symbols = symbols
        self._machine = machine
        self._tables = tables
        self._ports = ports

    def refuse(self, cpu: int, what: str) -> NoReturn:
        """A CPU does what cannot be explored.

        Raises:
            ScenarioError: always.
        """
        place = self._symbols.name(self._machine.cpus[cpu].registers.rip)
        raise ScenarioError(f"scenario {self._scenario} cannot be explored: CPU {cpu} {what}, at {place}")

    def check(self, cpu: int) -> None:
        """Whether what a CPU has just done can be explored.

        Raises:
            ScenarioError: it cannot.
        """
        gate = gate_of(self._machine.cpus[cpu])
        if gate.refused:
            self.refuse(cpu, gate.refused)
        for ipi in self._machine.ipis:
            if ipi.mode not in _TAKEN_WITH_IF:
                self.refuse(ipi.source, f"sends {ipi.mode.name}, and only interrupts arrive at any moment here")
        if self._machine.apics[cpu].next_deadline() is not None:
            self.refuse(cpu, "starts its timer, and there is no time here")
        table = self._machine.cpus[cpu].mmu.table
        if table is not None and table not in self._tables.roots:
            self.refuse(cpu, f"loads CR3 with the table {table:#x}, which no CPU had when its programs began")

    def check_held(self, cpu: int, what: str) -> None:
        """Whether an instruction before which a CPU stands can be explored.

        Raises:
            ScenarioError: it cannot: it reads the clock, or reaches a device, which is in no state's key.
        """
        if what in _CLOCKS:
            self.refuse(cpu, "reads the clock, and there is no time here")
        if what.startswith(("in", "out")) and what not in _INVALIDATES:
            registers = self._machine.cpus[cpu].registers
            instruction = decode(self._machine.cpus[cpu].linear.code(registers.rip), registers.bits)
            assert instruction is not None
            port = instruction.immediates[0] & 0xFF if instruction.immediates else registers.gpr[Gpr.RDX] & 0xFFFF
            if what not in ("in", "out") or port not in self._ports:
                self.refuse(cpu, f"reaches port {port:#x}, and devices are not explored")
