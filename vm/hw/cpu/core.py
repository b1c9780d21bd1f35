"""What one CPU is made of, put together: engine, MMU, registers, local APIC and event delivery; and what it is told.

`kstack.hw.cpu.cpu` runs it.

Not modelled: SMM, performance counters, power states beyond HLT.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kstack.hw.apic.apic import LocalApic
from kstack.hw.cpu.breakpoints import Breakpoints
from kstack.hw.cpu.checked import look_at, tables
from kstack.hw.cpu.counts import Counts
from kstack.hw.cpu.cpuid import SIGNATURE, Cpuid, mask_engine
from kstack.hw.cpu.events import Event, EventDelivery, EventKind, Outcome
from kstack.hw.cpu.fred import Fred
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.cpu.linear import LinearMemory
from kstack.hw.cpu.msr import Msrs
from kstack.hw.cpu.state import ActivityState, Board, CpuState, EventState
from kstack.hw.engine import (
    Check,
    CheckKind,
    Engine,
    Intercept,
    Look,
    MmuIndex,
    Registers,
)
from kstack.hw.instruments import Slot
from kstack.hw.mmu.mmu import Mmu
from kstack.hw.mmu.translator import Translator
from kstack.hw.rules import Rule
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE
from kstack.x86.control import CR0_RESET, Cr0, Cr4
from kstack.x86.debug_registers import DR6_FIXED, DR7_FIXED, DR7_GD
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import BUSY_TSS, CODE, DATA, LDT, REAL_LIMIT, Segment
from kstack.x86.vectors import DB, DF, NMI, PF

_MASK64: Final = (1 << 64) - 1
_TABLES: Final = tables()
_STI: Final = 0xFB


class CpuCore:
    """One CPU of a machine, but for its running.

    Args:
        index: its number, and its APIC id.
        board: the machine around it.
        apic: its local APIC.
    """

    def __init__(self, index: int, board: Board, apic: LocalApic) -> None:
        self.index = index
        self._board = board
        self.apic = apic
        self.mmu = Mmu(index, board.memory, board.tracker, board.modes, board.rules, board.mmu_hooks)
        self.engine = Engine(board.memory.address, board.memory.size, self, _TABLES)
        mask_engine(self.engine.features)
        self.registers: Registers = self.engine.registers
        self.mmu.attach(self.engine)
        self.linear = LinearMemory(self.mmu, board.memory, self.mmio_read, self.mmio_write, board.cpu_hooks.access)
        self.msrs = Msrs(self.registers, apic, board.now, self.mmu.update)
        self.fred = Fred(self.registers, self.linear, self.msrs)
        self.events = EventDelivery(self.registers, self.linear, board.modes, board.rules, self.fred)
        self.cpuid = Cpuid(self.engine.features, index, board.cpu_count)
        self.broadcast = board.broadcast
        self.counts = Counts()
        self._hooks = board.cpu_hooks
        self.state = ActivityState.RUNNING
        self.yielded = False
        self.nmi_pending = 0
        self.nmi_blocked = False
        self.hears_return: Slot[[int], None] = Slot()  # of returns from events
        self.unsupported: str | None = None
        self.recent: deque[int] = deque(maxlen=16)  # RIPs (linear) at the engine's last stops, newest last
        self.in_engine = False
        self._location = 0  # of the access that the engine reported last, in its present run
        self.breakpoints = Breakpoints()
        self._init_comes = False
        self._watched = False  # the access that was refused is one that a breakpoint watches
        self._watching = False  # an instruction runs alone, and what it hits is noted
        self.hits = 0  # bits of DR6, of the instruction that runs
        self._resumed: int | None = None  # linear RIP that was returned to with RF set, and nothing has run since
        self._stopped_at: int | None = None  # linear RIP of what was not completed, and nothing has run since
        self.registers.power_up_fpu()
        self.reset()

    # --- reset, INIT, SIPI (SDM 9.1)

    def reset(self) -> None:
        """Power-up state (SDM table 9-1), real-address mode at F000:FFF0."""
        registers = self.registers
        self._stopped_at = None
        for gpr in range(16):
            registers.gpr[gpr] = 0
        registers.gpr[Gpr.RDX] = SIGNATURE
        for number in range(8):
            registers.dr[number] = {6: DR6_FIXED, 7: DR7_FIXED}.get(number, 0)
        for cr in (0, 2, 3, 4):
            registers.cr[cr] = 0
        registers.cr[0] = CR0_RESET
        registers.efer = 0
        data = Segment(0, 0, REAL_LIMIT, DATA)
        for seg in (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS):
            registers.set_segment(seg, data)
        registers.set_segment(Seg.CS, Segment(0xF000, 0xFFFF0000, REAL_LIMIT, CODE))
        for seg, flags in ((Seg.LDTR, LDT), (Seg.TR, BUSY_TSS), (Seg.GDTR, 0), (Seg.IDTR, 0)):
            registers.set_segment(seg, Segment(0, 0, REAL_LIMIT, flags))
        registers.rip = 0xFFF0
        registers.rflags = Flags.FIXED
        registers.shadow = False
        self.arm()
        self.mmu.update()
        self.mmu.drop_all(True)
        self.engine.flush()
        self.nmi_pending = 0
        self._block_nmi(False)

    def init(self) -> None:
        """INIT: reset, but for the caches and what SDM table 9-1 keeps; then wait for SIPI unless the BSP."""
        self.reset()
        self.apic.reset()
        self.state = ActivityState.RUNNING if self.index == 0 else ActivityState.WAIT_FOR_SIPI

    def init_behind(self) -> None:
        """INIT that a CPU has sent to itself: it comes behind the instruction (8.4.3)."""
        self._init_comes = True
        if self.in_engine:
            self.engine.ask_to_stop()

    def sipi(self, vector: int) -> None:
        """Start-up IPI: real-address mode at vector << 12 (SDM 8.4.3); ignored unless waited for."""
        if self.state is not ActivityState.WAIT_FOR_SIPI:
            return
        self.registers.set_segment(Seg.CS, Segment(vector << 8, vector << 12, REAL_LIMIT, CODE))
        self.registers.rip = 0
        self.state = ActivityState.RUNNING

    def nmi(self) -> None:
        """An NMI arrives; one more can be latched while it is blocked (6.7.1)."""
        self.nmi_pending = 1

    @property
    def translator(self) -> Translator | None:
        """What stops it before what others can tell, while exploring."""
        return self.mmu.translator

    # --- the engine's host

    def fill(self, address: int, access: Access, mmu: MmuIndex, probe: bool, location: int) -> bool:
        """The engine's softmmu misses, answered by the MMU."""
        self._location = location
        if self.breakpoints.data and access is not Access.FETCH and not probe:
            hits = self.breakpoints.hits(address, self.engine.access_size, access is Access.STORE)
            if hits and not self._watching:
                self._watched = True
                return False
            self.hits |= hits
        return self.mmu.fill(address, access, mmu, probe, location)

    def look(self, address: int) -> Look | None:
        """What is to become of an instruction that is being translated."""
        if self._beyond_code(address):
            return Look(Check(CheckKind.ALWAYS))
        look = look_at(self.linear.code(address), self.registers.bits, address)
        if address in self.breakpoints.code:
            look = Look(Check(CheckKind.ALWAYS), b"" if look is None else look.shown)
        if look is None or not look.shown:
            return look
        places = tuple(self.linear.places(address, len(look.shown)))
        return look._replace(places=places)

    def arm(self) -> None:
        """The debug registers, or CR4.DE, have changed."""
        code = dict(self.breakpoints.code)
        if not self.breakpoints.arm(tuple(self.registers.dr), bool(self.registers.cr[4] & Cr4.DE)):
            return
        if self.translator is not None:
            self.translator.refuse("sets breakpoints in the debug registers")
        self.mmu.softmmu.watch(self.breakpoints.pages())
        self.linear.hears_access.swap(self._note_access if self.breakpoints.data else None)
        if code != self.breakpoints.code:
            self.engine.look_at_all(bool(self.breakpoints.code))
            self.engine.drop_code(0, self._board.memory.size)
            self.watch_returns()

    def _note_access(self, address: int, size: int, store: bool) -> None:
        self.hits |= self.breakpoints.hits(address, size, store)

    def note_port(self, port: int, size: int) -> None:
        """An instruction has accessed a port."""
        self.hits |= self.breakpoints.port_hits(port, size)

    def resume(self) -> None:
        """A return has set RF: a breakpoint on the instruction at RIP is held off once (17.3.1.1)."""
        self._resumed = self.linear_rip()

    def _beyond_code(self, address: int) -> bool:
        """Whether linear `address` is beyond the limit of CS, which 64-bit code has not (3.4.5)."""
        code = self.registers.segment(Seg.CS)
        return self.registers.bits != 64 and address - code.base & _MASK64 > code.limit

    def untried(self) -> None:
        """A refused fetch that is not to be delivered as a fault, but will come again."""
        self.mmu.untried()

    def _apic_offset(self, address: int) -> int | None:
        base = self.apic.mmio_base
        return address - base if self.apic.mmio_enabled and base <= address < base + PAGE else None

    def mmio_read(self, address: int, size: int) -> int:
        """A load from beyond RAM: the APIC page, or all ones."""
        self._board.work += 1
        offset = self._apic_offset(address)
        return (1 << 8 * size) - 1 if offset is None else self.apic.read(offset, size)

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store beyond RAM: the APIC page, or nowhere. The slice is cut, so that effects are seen."""
        self._board.work += 1
        offset = self._apic_offset(address)
        if offset is not None:
            self.apic.write(offset, size, value)
            self.engine.ask_to_stop()

    def port_read(self, port: int, size: int) -> int:
        """IN, by the machine."""
        return self._board.port_read(self.index, port, size)

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT, by the machine."""
        self._board.port_write(self.index, port, size, value)

    def rip(self) -> int:
        """RIP of the instruction that is being executed, exact also inside the engine's callbacks."""
        return self.engine.locate(self._location) if self.in_engine else self.registers.rip

    def in_flight(self) -> int:
        """Units of the running engine's slice that the board has not been told of yet."""
        return self.engine.executed(self._location) if self.in_engine else 0

    def not_modelled(self, what: str) -> None:
        """The guest asked for something outside the model: the CPU stops, saying what."""
        self.unsupported = what
        self.state = ActivityState.SHUTDOWN

    def _spend(self, units: int) -> None:
        self.counts.instructions += units
        self._board.elapse(units)

    def linear_rip(self) -> int:
        """RIP with the base of CS, which 64-bit code ignores."""
        registers = self.registers
        if registers.bits == 64:
            return registers.rip
        return registers.segment(Seg.CS).base + registers.rip & _MASK64

    # --- pending events

    def can_run(self) -> bool:
        """Whether a slice would do anything: it runs, or an event would wake it."""
        return self.state is ActivityState.RUNNING or (self.state is ActivityState.HALTED and self.would_wake())

    def would_wake(self) -> bool:
        """Whether an NMI or interrupt is pending that it would take now."""
        if self.nmi_pending and not self.nmi_blocked:
            return True
        return self.registers.interrupt_flag and self._board.has_external(self.index)

    def _wakes(self) -> bool:
        if self.state is not ActivityState.HALTED or not self.would_wake():
            return False
        self.state = ActivityState.RUNNING
        return True

    def _nmi_waits(self) -> bool:
        return bool(self.nmi_pending) and not (self.nmi_blocked and Rule.NMI_BLOCKED in self._board.rules)

    def _shadowed(self) -> bool:
        """Whether an interrupt shadow covers the next instruction (6.8.3)."""
        if not self.registers.shadow:
            return False
        rules = self._board.rules
        if Rule.STI_SHADOW in rules and Rule.MOV_SS_SHADOW in rules:
            return True
        return (Rule.STI_SHADOW if self._after_sti() else Rule.MOV_SS_SHADOW) in rules

    def _after_sti(self) -> bool:
        return self.linear.code(self.linear_rip() - 1 & _MASK64, 1) == bytes([_STI])

    def _take_pending(self, external: bool) -> bool:
        """Deliver an NMI, or an interrupt where an `external` one is deliverable, if one can be taken here."""
        if self._shadowed():
            return False
        if self._nmi_waits():
            self.nmi_pending = 0
            self._block_nmi(True)
            self.counts.nmis += 1
            self.deliver(Event(NMI, EventKind.NMI))
            return True
        if not external or not self.registers.interrupt_flag:
            return False
        vector = self._board.external_vector(self.index)
        if vector is None:
            return False
        self.counts.interrupts += 1
        self.deliver(Event(vector, EventKind.INTERRUPT))
        return True

    def _block_nmi(self, blocked: bool) -> None:
        """Block NMIs, and see the IRET that ends it."""
        self.nmi_blocked = blocked
        self.watch_returns()

    def unblock_nmi(self) -> None:
        """A return ends NMI blocking."""
        self._block_nmi(False)

    def returned(self) -> None:
        """An event's handler has returned."""
        if (hear := self.hears_return.held) is not None:
            hear(self.index)

    def watch_returns(self) -> None:
        """See the returns that matter: IRET while NMIs are blocked, FRED is on or somebody asks; ERETS and ERETU."""
        self.engine.intercept(Intercept.IRET, self.nmi_blocked or self.fred.enabled or self._sees_returns())
        self.engine.trap_clac(bool(self.registers.cr[4] & Cr4.FRED))

    def _sees_returns(self) -> bool:
        return self.hears_return.held is not None or bool(self.breakpoints.code)

    def deliver(self, event: Event) -> None:
        """Deliver an event, which takes one unit of time."""
        self._stopped_at = self._resumed = None
        self._board.work += 1
        outcome, begun = self.events.deliver(event)
        if event.kind is EventKind.EXCEPTION:
            self.counts.exceptions += 1
        self.counts.page_faults += sum(one.vector == PF and one.kind is EventKind.EXCEPTION for one in begun)
        if outcome is Outcome.SHUTDOWN:
            self.state = ActivityState.SHUTDOWN
        elif outcome is Outcome.NOBODY:
            self.not_modelled(self.events.why_nobody(begun[-1]))
        elif outcome is Outcome.REPLACED and event.kind is EventKind.INTERRUPT and begun[-1].vector in (DF, PF):
            self._interrupted_delivery(event.vector)
        if event.vector == DB and self.registers.dr[7] & DR7_GD:
            self.registers.dr[7] &= ~DR7_GD  # the handler may use them (17.2.4)
        self.hits = 0
        if self._hooks.delivery.heard:
            self._hooks.delivery(Delivery(self.index, begun, outcome))
        self._spend(1)

    def _interrupted_delivery(self, vector: int) -> None:
        """An interrupt whose delivery met a page fault: given again, or lost (6.10, 6.15; mode)."""
        lost = self._board.modes.interrupted_delivery == "lost" and Rule.INTERRUPT_LOST in self._board.rules
        if not lost:
            self._board.withdraw(self.index, vector)

    # --- snapshot

    def snapshot(self) -> CpuState:
        """The whole CPU, immutable."""
        return CpuState(
            self.registers.save(),
            self.mmu.snapshot(),
            self.msrs.snapshot(),
            self.apic.snapshot(),
            self.counts.state(),
            EventState(
                self.state.name,
                self.nmi_pending,
                self.nmi_blocked,
                self.unsupported,
                self._resumed,
                self._init_comes,
            ),
            tuple(self.recent),
        )

    def restore(self, state: CpuState) -> None:
        """Become what `snapshot` returned."""
        events = state.events
        self._stopped_at = None
        self.registers.load(state.registers)
        self.mmu.restore(state.mmu)
        self.msrs.restore(state.msrs)
        self.apic.restore(state.apic)
        self.counts = Counts(*state.counts)
        self.state = ActivityState[events.activity]
        self.nmi_pending, self.unsupported, self._init_comes = events.nmi_pending, events.unsupported, events.init_comes
        self.recent = deque(state.recent, maxlen=16)
        self._resumed, self.hits, self._watched = events.resumed, 0, False
        self.arm()
        self._block_nmi(events.nmi_blocked)

    def paging_enabled(self) -> bool:
        """CR0.PG."""
        return bool(self.registers.cr[0] & Cr0.PG)
