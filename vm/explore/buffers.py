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
from vm.hw.memory import PAGE, PhysicalMemory
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
    """The store buffers of all CPUs of a machine.

    Args:
        cpus: how many.
        memory: the machine's.
        executor: what carries the policy's steps out; its plain stores come here.
    """

    def __init__(self, cpus: int, memory: PhysicalMemory, executor: Executor) -> None:
        self._memory = memory
        self._executor = executor
        self.stores: list[tuple[Pending, ...]] = [()] * cpus
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

    def has_entry(self, cpu: int, leaf: int | None) -> bool:
        """Whether a store to the page-table entry at a physical address is among a CPU's own."""
        return any(one.kind == "pte" and one.where[1] == leaf for one in self.stores[cpu])

    def show(self, cpu: int, entries: bool) -> list[Pending]:
        """Let a CPU see its own stores for a moment: what to `hide` again.

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

    def hide(self, hidden: list[Pending]) -> None:
        """Undo `show`."""
        for kind, where, value in reversed(hidden):
            if kind == "memory":
                self._memory.patch(where, value)
            else:
                _set(self._executor.variables, where, value)


def _set(variables: dict[Any, Any], key: Any, value: Any) -> None:
    variables.pop(key, None)
    if value is not None:
        variables[key] = value
