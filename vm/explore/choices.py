"""How an access can go: through the tables or by what may be cached, and whether some walker has set Accessed before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kstack.explore.model.gate import Held
from kstack.explore.model.lazy_tlb import How, LazyTlb, Option
from kstack.explore.model.page_tables import GuestPageTables
from kstack.explore.model.store_buffers import StoreBuffers, plain
from kstack.explore.refusals import Refusals
from kstack.hw.mmu.walk import Attempt, forbidding
from kstack.machine import Machine
from kstack.x86.entries import A
from kstack.x86.flags import Flags

USER: Final = 3  # privilege level


class PendingEntry(NamedTuple):
    """An entry of which it shows only now if Accessed has been set in it: its physical address, and the page that it maps."""

    word: int
    page: int


class AccessChoices:
    """How the accesses before which the CPUs of a world stand can go.

    Args:
        machine: whose CPUs.
        lazy: says what may be cached.
        tables: the page tables.
        buffers: say what waits.
        refusals: refuse what loads several entries at once.
        frame_of: the frame number of a CPU's linear address that is not managed.
    """

    def __init__(
        self,
        machine: Machine,
        lazy: LazyTlb,
        tables: GuestPageTables,
        buffers: StoreBuffers,
        refusals: Refusals,
        frame_of: Callable[[int, int], int | None],
    ) -> None:
        self._machine = machine
        self._lazy = lazy
        self._tables = tables
        self._buffers = buffers
        self._refusals = refusals
        self._frame_of = frame_of

    def entry(self, cpu: int, address: int) -> int:
        """The leaf entry of a managed page's address as it is now, 0 if no table reaches it."""
        leaf = self._machine.cpus[cpu].mmu.leaf_address(address)
        return 0 if leaf is None else self._machine.memory.read64(leaf)

    def options(self, cpu: int, held: Held) -> list[Option]:
        """How an access can go."""
        if not self._lazy.manages(held.address):
            return [Option(How.WALK)]
        core, entry = self._machine.cpus[cpu], self.entry(cpu, held.address)
        user = core.registers.cpl == USER
        smap = core.mmu.smap and not user and not core.registers.rflags & Flags.AC
        write = held.write or self._buffers.is_locked(cpu)  # which loads and stores by one translation
        denies = forbidding(Attempt(write, False, user, smap), core.mmu.control)
        walks = not self._buffers.holds_back(cpu, held.address)
        return self._lazy.options(cpu, held.address >> 12, entry, write, denies, walks)

    def option(self, cpu: int, held: Held, choice: int) -> Option:
        """How an access goes by a choice of `Move`."""
        options = self.options(cpu, held)
        return options[choice % len(options)]

    def pending(self, cpu: int, held: Held) -> PendingEntry | None:
        """The entry that an access loads and of which it shows now if A has been set."""
        if self._lazy.manages(held.address):
            return None
        frame = self._frame_of(cpu, held.address)
        if frame not in self._tables.frames:
            return None
        code = self._buffers.code(cpu)
        operand = plain(code, held.address)
        if operand is not None and operand.only_stores:
            return None
        physical = frame << 12 | held.address & 0xFFF
        entries = [
            PendingEntry(word, page)
            for word, page in self._tables.pages_of(physical, 8 if operand is None else operand.width)
            if self._lazy.is_pending(self._machine.memory.read64(word)) and not self._buffers.has_word(cpu, word)
        ]
        if len({entry.word for entry in entries}) > 1:
            self._refusals.refuse(cpu, "loads several entries at once")
        return entries[0] if entries else None

    def set_accessed(self, word: int) -> None:
        """Some CPU's walker has set Accessed, speculatively, in the entry at a physical address."""
        memory = self._machine.memory
        entry = memory.read64(word)
        memory.exchange_quietly(word, entry, entry | A)
        for page in self._tables.leaves[word]:
            self._lazy.entry_is(page, entry | A)

    def exercises(self, cpu: int, held: Held) -> bool:
        """Whether an access could have gone two ways had nothing ever been invalidated."""
        if not self._lazy.manages(held.address):
            return False
        return self._lazy.is_exercised(cpu, held.address >> 12, self.entry(cpu, held.address))
