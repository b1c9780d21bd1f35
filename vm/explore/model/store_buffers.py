"""Store buffers: what a CPU has stored and no other CPU can see yet (x86-TSO).

SDM volume 3A, 8.2 (memory ordering) and 11.10 (the store buffer): stores leave a CPU in order, and loads
may pass them; a CPU's own loads see them. The buffer is empty before a locked operation, XCHG with
memory, MFENCE, SFENCE, a serialising instruction, and when an exception or interrupt is delivered. A
policy's stores to entries and to its variables, and its unlocking, go the same way; whatever in it stands
for a locked operation (a lock, a list that others add to) waits. An x2APIC ICR write (`SendIpi`) does not.

An unlocked read-modify-write is a load and a store that waits, in every memory order: where memory is sequentially
consistent its store becomes visible as the next thing that its CPU does. What is not an access to one operand (string
moves, a push, a store across pages) waits as a locked operation does, so that it is stronger here than in hardware;
`stronger` names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kstack.explore.model.gate import Gate, gate_of
from kstack.explore.model.lazy_tlb import How, LazyTlb, Option
from kstack.explore.model.page_tables import WORD, Tables
from kstack.hw.cpu.decode import Instruction, decode
from kstack.machine import Machine
from kstack.stacks import steps
from kstack.stacks.host.execute import Executor, Pending
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE
from kstack.x86.entries import FRAME_MASK
from kstack.x86.prefixes import LOCK, PREFIXES, REX

FENCES: Final = frozenset({"mfence", "sfence", "cpuid"})
LONGEST: Final = 64  # bytes of one operand
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
    """An access to one operand in memory that is not locked: bytes of the operand; it does nothing but store."""

    width: int
    only_stores: bool


_STRINGS: Final = frozenset(f"{name}{width}" for name in ("movs", "cmps", "stos", "lods", "scas") for width in "bwdq")
_STACK: Final = frozenset({"push", "pop", "call", "ret", "enter", "leave", "iretq", "iretd", "iret"})
_WEAK: Final = frozenset({"movnti", "movntdq", "movntps", "movntpd", "movntq", "maskmovdqu", "maskmovq"})


def plain(code: bytes, address: int) -> Plain | None:
    """The instruction at the start of `code` as an unlocked access to one operand at a linear address, or None."""
    instruction = decode(code, 64)
    if instruction is None or instruction.memory is None or is_locked(code, instruction) or instruction.repeat:
        return None
    width = instruction.memory.width
    if (address & PAGE - 1) + width > PAGE or not 0 < width <= LONGEST:
        return None
    if instruction.name in _STRINGS | _STACK | _WEAK:
        return None
    return Plain(width, instruction.name == "mov" and _stores(code))


def _stores(code: bytes) -> bool:
    """Whether a MOV has its memory operand on the left (SDM volume 2, MOV: 88, 89, A2, A3, C6, C7)."""
    at = next(index for index, byte in enumerate(code) if byte not in PREFIXES)
    if code[at] in REX:
        at += 1
    return code[at] in (0x88, 0x89, 0xA2, 0xA3, 0xC6, 0xC7)


def is_locked(code: bytes, instruction: Instruction) -> bool:
    """Whether it is a locked operation: by its prefix, or XCHG with memory."""
    for byte in code[: instruction.length]:
        if byte == LOCK:
            return True
        if byte not in PREFIXES:
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

    Where memory is sequentially consistent nothing waits in them but the store of an unlocked read-modify-write.

    Args:
        machine: whose; its CPUs have gates.
        executor: what carries the policy's steps out; its plain stores come here.
        lazy: says which pages have translations that can be told apart.
        tables: hears of stores to entries.
        order: the mode `memory-order`.

    Attributes:
        on: every store is buffered.
        stores: by CPU, the oldest first.
        stronger: what was done in one piece though hardware may do it in several, in order: symbols.
    """

    def __init__(self, machine: Machine, executor: Executor, lazy: LazyTlb, tables: Tables, order: str) -> None:
        self._machine = machine
        self._memory = machine.memory
        self._executor = executor
        self._lazy = lazy
        self._tables = tables
        self._walks_memory = order == "tso-walks-memory"
        self.on = order != "sc"
        self.stores: list[tuple[Pending, ...]] = [()] * len(machine.cpus)
        self.stronger: dict[int, None] = {}
        if self.on:
            executor.put = self.put

    def put(self, cpu: int, pending: Pending) -> None:
        """A CPU makes a store."""
        self.stores[cpu] = (*self.stores[cpu], pending)

    def commit(self, cpu: int) -> None:
        """A CPU's oldest store becomes visible."""
        oldest, *rest = self.stores[cpu]
        self.stores[cpu] = tuple(rest)
        if oldest.kind != "memory":
            self._executor.commit(oldest)
            return
        entries = {word: self._memory.read64(word) for word in self._tables.words(oldest.where, len(oldest.value))}
        self._memory.write(oldest.where, oldest.value)
        for word, old in entries.items():
            self._tables.changed(word, old, plain=True)

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
        return leaf is not None and self.has_word(cpu, leaf)

    def has_word(self, cpu: int, word: int) -> bool:
        """Whether a CPU's own store to the entry at a physical address is not visible yet."""
        return any(
            one.where[1] == word if one.kind == "pte" else one.kind == "memory" and _meets(one, word, WORD)
            for one in self.stores[cpu]
        )

    def holds_back(self, cpu: int, address: int) -> bool:
        """Whether an access to a linear address waits for the entry that its own CPU has stored."""
        return self._lazy.manages(address) and not self._walks_memory and self.has_entry(cpu, address)

    def plain(self, cpu: int, address: int) -> Plain | None:
        """The access before which a CPU stands as an unlocked one of RAM (device registers are uncached)."""
        physical = self._machine.cpus[cpu].mmu.resolve(address)
        if physical is not None and not self._memory.is_ram(physical):
            return None
        return plain(self.code(cpu), address)

    # --- what a CPU does

    def step(self, cpu: int) -> None:
        """Let a CPU make what is no access; it sees its own stores, to entries too."""
        hidden = self._show(cpu, None)
        self._machine.run(cpu, 1)
        self._hide(hidden)

    def access(self, cpu: int, address: int) -> None:
        """Let a CPU make its access to a linear address: it sees its own stores; what it stores waits."""
        access, core = self.plain(cpu, address), self._machine.cpus[cpu]
        where = None if access is None else self._where(cpu, address)
        if access is None or where is None:
            self._in_one_piece(cpu)
            return
        hidden = self._show(cpu, (where, access.width))
        old, seen = self._memory.read(where, access.width), _Accesses(gate_of(core))
        start, faults = core.registers.rip, core.counts.exceptions
        entries = {word: self._memory.read64(word) for word in self._tables.words(where, access.width)}
        with seen:
            self._machine.run(cpu, 1)
        if core.counts.exceptions != faults:
            self._hide(hidden)
        elif seen.stores and (self.on or seen.loads):
            new = self._memory.patch(where, old)
            self._hide(hidden)
            self.put(cpu, Pending("memory", where, new))
        else:
            self._hide(hidden)
            for word, entry in entries.items() if seen.stores else ():
                self._tables.changed(word, entry, plain=True)
        if seen.frames - {where >> 12}:
            self.stronger[start] = None

    def _where(self, cpu: int, address: int) -> int | None:
        """The physical address that a CPU's access reaches; None where it faults."""
        core = self._machine.cpus[cpu]
        option = gate_of(core).option or Option(How.WALK)
        if option.how is How.CACHED:
            return (option.value & FRAME_MASK) + (address & PAGE - 1)
        return None if option.how is How.REFUSED else core.mmu.resolve(address)

    def _in_one_piece(self, cpu: int) -> None:
        """An access that is locked, or not to one operand of RAM: the buffer is empty, and nothing of it waits."""
        core, before, stored = self._machine.cpus[cpu], dict[int, int](), set[int]()
        start, locked, faults = core.registers.rip, self.is_locked(cpu), core.counts.exceptions
        seen = _Accesses(gate_of(core))

        def stores(physical: int) -> None:
            """Remember the entries in which a store of up to 64 bytes can end, as they are before it."""
            stored.add(physical & -WORD)  # asked for membership only
            end = min(physical + LONGEST, (physical | PAGE - 1) + 1)
            for word in self._tables.words(physical, end - physical):
                before.setdefault(word, self._memory.read64(word))

        seen.on_store = stores
        with seen:
            self._machine.run(cpu, 1)
        for word, old in before.items():
            if word in stored or self._memory.read64(word) != old:
                self._tables.changed(word, old, plain=not locked)
        several = len(seen.frames) > 1 or (seen.stores and not locked and (self.on or seen.loads))
        if several and faults == core.counts.exceptions:
            self.stronger[start] = None

    def is_locked(self, cpu: int) -> bool:
        """Whether a CPU stands before a locked operation."""
        code = self.code(cpu)
        instruction = decode(code, 64)
        return instruction is not None and is_locked(code, instruction)

    def _show(self, cpu: int, operand: tuple[int, int] | None) -> list[Pending]:
        """Let a CPU see its own stores for a moment: what to `_hide` again.

        Args:
            cpu: which.
            operand: physical address and bytes of the one operand that it accesses, so that its walks do not see what it
                has stored to entries; None for a policy's step, which looks at entries itself.
        """
        hidden: list[Pending] = []
        variables = self._executor.variables
        for one in self.stores[cpu]:
            kind, where, value = one
            if kind == "memory":
                if operand is None or not self._tables.is_table(where) or _meets(one, *operand):
                    hidden.append(Pending(kind, where, self._memory.patch(where, value)))
            elif kind == "pte" and (operand is None or _overlaps(where[1], WORD, *operand)):
                data = value.to_bytes(WORD, "little")
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


class _Accesses:
    """The accesses to RAM that one granted instruction makes.

    Only those that others can tell are noted.

    Attributes:
        loads, stores: how many.
        frames: numbers of the frames they reach; asked for its size and membership only.
        on_store: called with the physical address of each store, before it.
    """

    def __init__(self, gate: Gate | None) -> None:
        assert gate is not None
        self._gate = gate
        self.loads = self.stores = 0
        self.frames: set[int] = set()
        self.on_store: Callable[[int], None] = lambda _: None

    def __enter__(self) -> None:
        self._gate.hears_access.hold(self._note)

    def __exit__(self, *_: object) -> None:
        self._gate.hears_access.release()

    def _note(self, physical: int, access: Access) -> None:
        self.frames.add(physical >> 12)
        if access is Access.STORE:
            self.stores += 1
            self.on_store(physical)
        else:
            self.loads += 1


def _overlaps(start: int, size: int, other: int, width: int) -> bool:
    return start < other + width and other < start + size


def _meets(pending: Pending, start: int, size: int) -> bool:
    """Whether a store to memory reaches some bytes."""
    return _overlaps(pending.where, len(pending.value), start, size)


def _set(variables: dict[Any, Any], key: Any, value: Any) -> None:
    variables.pop(key, None)
    if value is not None:
        variables[key] = value
