"""Store buffers: what a CPU has stored and no other CPU can see yet (x86-TSO).

SDM volume 3A, 8.2 (memory ordering) and 11.10 (the store buffer): stores leave a CPU in order, and loads
may pass them; a CPU's own loads see them. The buffer is empty before a locked operation, XCHG with
memory, MFENCE, SFENCE, a serialising instruction, and when an exception or interrupt is delivered. A
policy's stores to entries and to its variables, and its unlocking, go the same way; whatever in it stands
for a locked operation (a lock, a list that others add to) waits. An x2APIC ICR write (`SendIpi`) does not.

What is not a plain load or store waits as a locked operation does, so that an unlocked
read-modify-write is stronger here than in hardware.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from vm.hw.decode import Instruction, decode
from vm.hw.lazy import How, LazyTlb, Option
from vm.hw.memory import PAGE
from vm.hw.paging import FRAME_MASK
from vm.machine import Machine
from vm.stacks import steps
from vm.stacks.execute import Executor, Pending

LOADS: Final = frozenset({"mov", "movzx", "movsx", "movsxd", "cmp", "test"})
FENCES: Final = frozenset({"mfence", "sfence", "cpuid"})
LOCK: Final = 0xF0
_PREFIXES: Final = frozenset({LOCK, 0x66, 0x67, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65})
_PASSING: Final = (  # steps that neither wait for the CPU's own stores nor make one that all see at once
    steps.WritePte,
    steps.Store,
    steps.Unlock,
    steps.ReadPte,
    steps.Load,
    steps.WaitForAck,
    steps.SendIpi,
    steps.OtherCpus,
    steps.Sleepers,
    steps.ThreadAt,
    steps.PoolLevel,
)


class Plain(NamedTuple):
    """A plain load or store: whether it stores, bytes of the operand, bytes of the instruction."""

    stores: bool
    width: int
    length: int


def plain(code: bytes, address: int) -> Plain | None:
    """The instruction at the start of `code` as a plain access to a linear address, or None if it is none."""
    instruction = decode(code, 64)
    if instruction is None or instruction.memory is None or is_locked(code, instruction) or instruction.repeat:
        return None
    width = instruction.memory.width
    if (address & PAGE - 1) + width > PAGE or instruction.name not in LOADS:
        return None
    stores = instruction.name == "mov" and _stores(instruction, code)
    return Plain(stores, width, instruction.length)


def _stores(instruction: Instruction, code: bytes) -> bool:
    """Whether a MOV has its memory operand on the left (SDM volume 2, MOV: 88, 89, A2, A3, C6, C7)."""
    at = next(index for index, byte in enumerate(code) if byte not in _PREFIXES)
    if code[at] & 0xF0 == 0x40:  # REX
        at += 1
    return code[at] in (0x88, 0x89, 0xA2, 0xA3, 0xC6, 0xC7)


def is_locked(code: bytes, instruction: Instruction) -> bool:
    """Whether it is a locked operation: by its prefix, or XCHG with memory."""
    for byte in code[: instruction.length]:
        if byte == LOCK:
            return True
        if byte not in _PREFIXES:
            break
    return instruction.name == "xchg" and instruction.memory is not None


def drains(code: bytes) -> bool:
    """Whether the instruction at the start of `code`, which touches nothing shared, waits for the buffer."""
    instruction = decode(code, 64)
    return instruction is not None and (instruction.name in FENCES or is_locked(code, instruction))


def passes(step: steps.Step) -> bool:
    """Whether a micro-step can be made while its CPU has stores that nobody sees yet."""
    return isinstance(step, _PASSING)


class StoreBuffers:
    """The store buffers of all CPUs of a machine; always empty where memory is sequentially consistent.

    Args:
        machine: whose.
        executor: what carries the policy's steps out; its plain stores come here.
        lazy: says which pages have translations that can be told apart.
        order: the mode `memory-order`.

    Attributes:
        on: stores are buffered.
        stores: by CPU, the oldest first.
    """

    def __init__(self, machine: Machine, executor: Executor, lazy: LazyTlb, order: str) -> None:
        self._machine = machine
        self._memory = machine.memory
        self._executor = executor
        self._lazy = lazy
        self._walks_memory = order == "tso-walks-memory"
        self.on = order != "sc"
        self.stores: list[tuple[Pending, ...]] = [()] * len(machine.cpus)
        if self.on:
            executor.put = self.put

    def put(self, cpu: int, pending: Pending) -> None:
        """A CPU makes a store."""
        self.stores[cpu] = (*self.stores[cpu], pending)

    def commit(self, cpu: int) -> None:
        """A CPU's oldest store becomes visible."""
        oldest, *rest = self.stores[cpu]
        self.stores[cpu] = tuple(rest)
        if oldest.kind == "memory":
            self._memory.write(oldest.where, oldest.value)
        else:
            self._executor.commit(oldest)

    # --- what waits

    def code(self, cpu: int) -> bytes:
        """The instruction before which a CPU stands, and what follows."""
        core = self._machine.cpus[cpu]
        return core.linear.code(core.registers.rip, 15)

    def has_entry(self, cpu: int, address: int) -> bool:
        """Whether a CPU's own store to the entry of a linear address is not visible yet."""
        if not self.stores[cpu]:
            return False
        leaf = self._machine.cpus[cpu].mmu.leaf_address(address)
        return any(one.kind == "pte" and one.where[1] == leaf for one in self.stores[cpu])

    def holds_back(self, cpu: int, address: int) -> bool:
        """Whether an access to a linear address waits for the entry that its own CPU has stored."""
        return self._lazy.manages(address) and not self._walks_memory and self.has_entry(cpu, address)

    def plain(self, cpu: int, address: int) -> Plain | None:
        """The access before which a CPU stands as a plain load or store of RAM (device registers are uncached)."""
        physical = self._machine.cpus[cpu].mmu.resolve(address)
        if physical is not None and not self._memory.is_ram(physical):
            return None
        return plain(self.code(cpu), address)

    # --- what a CPU does

    def step(self, cpu: int) -> None:
        """Let a CPU make what is no access; it sees its own stores, to entries too."""
        hidden = self._show(cpu, entries=True)
        self._machine.run(cpu, 1)
        self._hide(hidden)

    def access(self, cpu: int, address: int) -> None:
        """Let a CPU make its access to a linear address: it sees its own stores; what it stores waits."""
        access = self.plain(cpu, address) if self.on else None
        if access is None:
            self._machine.run(cpu, 1)
            return
        core, memory = self._machine.cpus[cpu], self._memory
        assert core.gate is not None
        option, start, where = core.gate.option or Option(How.WALK), core.registers.rip, 0
        if option.how is How.CACHED:
            where = (option.value & FRAME_MASK) + (address & PAGE - 1)
        elif access.stores:
            where = core.mmu.resolve(address) or 0
        hidden = self._show(cpu, entries=False)
        old = memory.read(where, access.width)
        self._machine.run(cpu, 1)
        went_on = core.registers.rip == start + access.length
        if access.stores and went_on:
            new = memory.patch(where, old)
            self._hide(hidden)
            self.put(cpu, Pending("memory", where, new))
            return
        self._hide(hidden)
        while not went_on and self.stores[cpu]:  # a fault: all becomes visible before the handler runs
            self.commit(cpu)

    def _show(self, cpu: int, entries: bool) -> list[Pending]:
        """Let a CPU see its own stores for a moment: what to `_hide` again.

        Args:
            cpu: which.
            entries: those to page-table entries too.
        """
        hidden: list[Pending] = []
        variables = self._executor.variables
        for kind, where, value in self.stores[cpu]:
            if kind == "memory":
                hidden.append(Pending(kind, where, self._memory.patch(where, value)))
            elif kind == "pte" and entries:
                data = value.to_bytes(8, "little")
                hidden.append(Pending("memory", where[1], self._memory.patch(where[1], data)))
            elif kind == "variable":
                hidden.append(Pending(kind, where, variables.get(where)))
                _set(variables, where, value)
        return hidden

    def _hide(self, hidden: list[Pending]) -> None:
        """Undo `_show`."""
        for kind, where, value in reversed(hidden):
            if kind == "memory":
                self._memory.patch(where, value)
            else:
                _set(self._executor.variables, where, value)


def _set(variables: dict[Any, Any], key: Any, value: Any) -> None:
    variables.pop(key, None)
    if value is not None:
        variables[key] = value
