"""What a move reads and writes of all that CPUs share, and whether two moves depend on each other.

Two moves of different CPUs that do not depend on each other lead to the same state in both orders, and
neither makes the other possible or impossible. A move's *footprint* is recorded while it is made. The
things that it is made of:

    word N                  8 bytes of RAM from physical address 8 * N
    filled F, looked F      frame F as a whole is written; the oracle looks through all of it
    pte P                   the leaf entry of managed page P (linear page number), and what a store to it
                            adds to the sets of entries that CPUs may have cached
    may C P                 what CPU C may have cached of page P
    ghost F                 the oracle's word on whose frame F is (a stale access asks, so it is a read)
    pool C, reserve         CPU C's pool; what is behind all pools
    variable, lock          a policy's, by name
    thread T, threads       a thread as policies see it; which threads there are
    ipi C                   interrupts on their way to CPU C
    ports                   devices behind ports
    cpu C                   CPU C itself: its program and the arrival of an interrupt exclude each other

What is not known is `everything`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from kstack.explore.model.gate import Gate
from kstack.explore.model.lazy_tlb import How
from kstack.explore.world import Move, World
from kstack.hw.apic.registers import Reg
from kstack.hw.cpu.decode import Instruction, decode, effective_address
from kstack.sanitizer.findings import Finding
from kstack.stacks import steps
from kstack.stacks.area import Pte, Thread
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall
from kstack.x86.access import Access
from kstack.x86.entries import FRAME_MASK, P
from kstack.x86.registers import Gpr

Thing = tuple[Any, ...]
_WORD: Final = 8
_RSP: Final = int(Gpr.RSP)  # a plain integer, for the search's inner loops
_EOI: Final = int(Reg.EOI)  # nobody else can tell of a store to it
_ALONE: Final = frozenset({"pause", "cpuid", "clts", "clac", "stac"})  # touch their own CPU only
_FLUSHES: Final = frozenset({"mov", "invpcid"})  # loads of control registers: the CPU's whole TLB


class Footprint(NamedTuple):
    """What a move reads and writes; `everything` where that is not known."""

    reads: frozenset[Thing] = frozenset()
    writes: frozenset[Thing] = frozenset()
    everything: bool = False

    def depends(self, other: Footprint) -> bool:
        """Whether the order of two moves may make a difference."""
        if self.everything or other.everything:
            return True
        return not (
            self.writes.isdisjoint(other.writes)
            and self.writes.isdisjoint(other.reads)
            and self.reads.isdisjoint(other.writes)
        )

    def with_(self, other: Footprint) -> Footprint:
        """Both together."""
        return Footprint(self.reads | other.reads, self.writes | other.writes, self.everything or other.everything)


EVERYTHING: Final = Footprint(everything=True)


class _NotingGate(Gate):
    """A gate that notes the visible accesses of the instruction that it lets through."""

    def __init__(self, world: World, cpu: int, noted: list[tuple[int, bool]]) -> None:
        super().__init__(cpu, world.visible, world.lazy, lambda address: world.frame_of(cpu, address))
        self._noted = noted

    def stops_access(self, address: int, access: Access) -> bool:
        """As any gate does."""
        stops = super().stops_access(address, access)
        if self.granted and access is not Access.FETCH and self.is_visible(address):
            self._noted.append((address, access is Access.STORE))
        return stops


class Recorder:
    """Makes a world's moves and says what each has read and written.

    Args:
        world: its gates are replaced by ones that take notes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._noted: list[tuple[int, bool]] = []
        self._reads: set[Thing] = set()  # asked for membership only, as the next one
        self._writes: set[Thing] = set()
        self._everything = False
        self._was_empty = False
        world.machine.instruments.add(self)
        for cpu in world.machine.cpus:
            cpu.mmu.translator = _NotingGate(world, cpu.index, self._noted)

    def make(self, move: Move) -> tuple[Finding | None, Footprint]:
        """Make a move: the first finding that it brings, and its footprint."""
        world, cpu = self._world, move.cpu
        self._noted.clear()
        self._reads.clear()
        self._writes.clear()
        self._everything = False
        self._writes.add(("cpu", cpu))
        width, entries, cached = _WORD, {}, 0
        held = world.held[cpu]
        if move.kind == "interrupt":
            self._writes.add(("ipi", cpu))
        elif move.kind == "access":
            assert held is not None
            instruction = self._instruction(cpu)
            if instruction is not None and instruction.memory is not None:
                width = max(width, instruction.memory.width)
            option = world.option(cpu, held, move.choice)
            cached = option.value if option.how is How.CACHED else 0
            entries = {page: self._entry(cpu, page) for page in self._pages(held.address, width)}
        elif move.kind == "store":
            self._becomes_visible(cpu)
        elif move.kind == "instruction":
            self._instructed(cpu)
        else:
            self._before_step(cpu, move)
        finding = world.make(move)
        for address, is_store in self._noted:
            self._accessed(cpu, address, width, is_store, entries, cached)
        self._writes |= {("pte", page) for page in world.tables.stored}
        if world.buffers.stores[cpu]:
            self._writes.add(("cpu", cpu))
        if world.machine.end() is not None:
            self._everything = True
        return finding, Footprint(frozenset(self._reads), frozenset(self._writes), self._everything)

    def waiting(self, cpu: int) -> Footprint:
        """What a CPU waits for that stands at a step that cannot be made now."""
        step = self._world.runtime.calls[cpu][-1].step
        if isinstance(step, steps.Lock):
            return Footprint(writes=frozenset({("cpu", cpu), ("lock", step.name)}))
        if isinstance(step, steps.WaitForAck):
            words = _words(self._world.runtime.kernel.waiting_words(step.cpu))
            return Footprint(frozenset(words), frozenset({("cpu", cpu)}))
        return EVERYTHING

    def arriving(self, cpu: int) -> Footprint:
        """What the arrival of an interrupt at a CPU would read and write."""
        return Footprint(writes=frozenset({("cpu", cpu), ("ipi", cpu)}))

    # --- accesses

    def _instruction(self, cpu: int) -> Instruction | None:
        core = self._world.machine.cpus[cpu]
        return decode(core.linear.code(core.registers.rip), core.registers.bits)

    def _entry(self, cpu: int, page: int) -> int:
        """The leaf entry of a managed page as it is now, 0 if no table reaches it."""
        leaf = self._world.machine.cpus[cpu].mmu.leaf_address(page << 12)
        return 0 if leaf is None else self._world.machine.memory.read64(leaf)

    def _pages(self, address: int, width: int) -> list[int]:
        pages = range(address >> 12, (address + width - 1 >> 12) + 1)
        return [page for page in pages if self._world.lazy.manages(page << 12)]

    def _accessed(
        self, cpu: int, address: int, width: int, is_store: bool, before: dict[int, int], cached: int
    ) -> None:
        """A visible access was made; `cached` is the entry it was translated by, 0 for a walk."""
        world, page = self._world, address >> 12
        if not world.lazy.manages(address):
            physical = world.machine.cpus[cpu].mmu.resolve(address)
            if physical is None:
                self._everything = True
            elif world.machine.memory.is_ram(physical):
                self._touch(physical, width, is_store)
            else:  # a local APIC
                self._everything |= is_store and physical & 0xFFF != _EOI
            return
        was, now = before.get(page), self._entry(cpu, page)
        self._reads |= {("pte", page), ("threads",)}
        self._writes.add(("may", cpu, page))
        if was is None or was != now:  # A or D set; or a page that the instruction was not expected to reach
            self._writes.add(("pte", page))
        entries = [entry for entry in (was or 0, now, cached) if entry & P]
        for frame in sorted({entry & FRAME_MASK for entry in entries}):
            self._reads.add(("ghost", frame))
            self._touch(frame | address & 0xFFF, width, is_store)

    def _touch(self, physical: int, width: int, is_store: bool) -> None:
        """Words of RAM are read, or read and written."""
        words = [("word", word) for word in range(physical // _WORD, (physical + width - 1) // _WORD + 1)]
        entries = [("pte", page) for _, page in self._world.tables.pages_of(physical, width)]
        self._reads.update(words)
        self._reads.update(entries)
        self._reads.add(("filled", physical & ~0xFFF))
        if is_store:
            self._writes.update(words)
            self._writes.update(entries)
            self._reads.add(("looked", physical & ~0xFFF))

    def _becomes_visible(self, cpu: int) -> None:
        """The store of a read-modify-write, which its CPU has made and nobody else has seen."""
        pending = self._world.buffers.stores[cpu][0]
        if pending.kind == "memory":
            self._touch(pending.where, len(pending.value), True)
        else:
            self._everything = True

    # --- instructions

    def _instructed(self, cpu: int) -> None:
        instruction = self._instruction(cpu)
        name = "" if instruction is None else instruction.name
        if instruction is not None and name == "invlpg":
            page = effective_address(instruction, self._world.machine.cpus[cpu].registers) >> 12
            self._invalidates(cpu, page)
        elif name in _FLUSHES:
            for _, page in sorted(self._world.lazy.may):
                self._invalidates(cpu, page)
        elif name == "in":  # the console, when the guest panics
            self._writes.add(("ports",))
        elif name not in _ALONE:
            self._everything = True

    def _invalidates(self, cpu: int, page: int) -> None:
        self._reads.add(("pte", page))
        self._writes.add(("may", cpu, page))

    # --- a policy's steps

    def _before_step(self, cpu: int, move: Move) -> None:
        world = self._world
        registers, calls = world.machine.cpus[cpu].registers, world.runtime.calls[cpu]
        begun = bool(calls) and calls[-1].key == (registers.rip, registers.gpr[_RSP])
        if not begun:
            self._everything |= world.runtime.kernel.asks(cpu) not in (HookKind.SWITCH_IN, HookKind.SWITCH_OUT)
            return
        step, pools = calls[-1].step, world.runtime.pools
        if move.choice:
            self._writes.add(("pte", step.page.address >> 12))
        self._was_empty = pools is not None and not pools.level(cpu)
        if isinstance(step, steps.Tlbsync):
            for issuer, rax, pages, _ in world.machine.broadcast.snapshot():
                if issuer == cpu:
                    self._broadcasts(rax >> 12, pages + 1)

    def _broadcasts(self, first: int, pages: int) -> None:
        for page in range(first, first + pages):
            for other in range(len(self._world.machine.cpus)):
                self._invalidates(other, page)

    def on_call(self, cpu: int, call: HookCall) -> None:
        """A policy looks at its thread, or a switch changes what it sees there."""
        switches = call.hook in (HookKind.SWITCH_IN, HookKind.SWITCH_OUT)
        lives = call.hook in (HookKind.CREATE_THREAD, HookKind.EXIT_THREAD)
        (self._writes if switches else self._reads).add(("thread", call.thread))
        (self._writes if lives else self._reads).add(("threads",))

    def on_step(self, cpu: int, call: HookCall, step: Any, answer: Any, previous: Pte | None) -> None:
        """A micro-step was made."""
        reads, writes = self._reads, self._writes
        reads |= {("thread", call.thread), ("threads",)}
        if isinstance(step, steps.ReadPte):
            reads.add(("pte", step.page.address >> 12))
        elif isinstance(step, steps.PteStore):
            self._stored(step, previous)
        elif isinstance(step, steps.Invlpg):
            self._invalidates(cpu, step.page.address >> 12)
        elif isinstance(step, steps.Invlpgb):
            self._broadcasts(step.page.address >> 12, step.pages)
        elif isinstance(step, steps.TakePage | steps.AllocPage | steps.PoolLevel | steps.GiveBack):
            self._pooled(cpu, call, step, answer)
        elif isinstance(step, steps.ZeroPage):
            writes |= {("filled", step.frame), ("looked", step.frame)}
        elif isinstance(step, steps.Load):
            reads.add(("variable", step.name, step.key))
        elif isinstance(step, steps.Store | steps.Swap):
            writes.add(("variable", step.name, step.key))
        elif isinstance(step, steps.Sleepers):
            reads |= {("thread", thread) for thread in self._world.runtime.threads}
        elif isinstance(step, steps.ThreadAt):
            reads |= {("thread", thread.id) for thread in (answer,) if thread is not None}
        elif isinstance(step, steps.Lock | steps.Unlock):
            writes.add(("lock", step.name))
        elif isinstance(step, steps.PostFlush):
            writes.update(_words(self._world.runtime.kernel.posting_words(step.cpu)))
        elif isinstance(step, steps.WaitForAck):
            reads.update(_words(self._world.runtime.kernel.waiting_words(step.cpu)))
        elif isinstance(step, steps.SendIpi):
            writes.add(("ipi", step.cpu))
        elif not isinstance(step, steps.OtherCpus | steps.Tlbsync):
            self._everything = True

    def _stored(self, step: steps.PteStore, previous: Pte | None) -> None:
        """A store to a leaf entry; one that was compared in vain has only read it."""
        page = step.page.address >> 12
        self._reads.add(("pte", page))
        if previous is None:
            return
        self._writes.add(("pte", page))
        for pte in (previous, step.pte):
            if pte.present:
                self._writes.add(("ghost", pte.frame))
        if step.pte.present:  # the oracle looks for another thread's data in it
            self._reads.add(("filled", step.pte.frame))
            self._writes.add(("looked", step.pte.frame))

    def _pooled(self, cpu: int, call: HookCall, step: Any, answer: Any) -> None:
        writes = self._writes
        if isinstance(step, steps.PoolLevel):
            self._reads.add(("pool", cpu))
        elif isinstance(step, steps.GiveBack):
            writes |= {("pool", cpu if step.cpu is None else step.cpu), ("ghost", step.frame)}
        else:
            writes.add(("thread", call.thread))  # whether there was a page for it
            if isinstance(step, steps.AllocPage) or (step.fallback and self._was_empty):
                writes.add(("reserve",))
            if isinstance(step, steps.TakePage):
                writes.add(("pool", cpu))
            if answer is not None:
                writes.add(("ghost", answer))

    def on_thread(self, _: Thread) -> None:
        """The set of threads changes."""
        self._writes.add(("threads",))

    on_thread_end = on_thread


def _words(addresses: list[int]) -> list[Thing]:
    """Words of memory, by physical address."""
    return [("word", address // _WORD) for address in addresses]
