"""One CPU: engine, MMU, registers, local APIC and event delivery, put together.

`run` executes a slice: it takes pending events at instruction boundaries, lets the engine run, and
carries out what the engine stopped for. Every instruction and every delivered event is one unit of
virtual time, so that no guest can spin without time passing.

Not modelled: SMM, hardware breakpoints, performance counters, power states beyond HLT.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from vm.hw.apic import LocalApic
from vm.hw.broadcast import Broadcast
from vm.hw.cpuid import SIGNATURE, Cpuid, mask_engine
from vm.hw.decode import Instruction, decode
from vm.hw.engine import Access, Engine, Flags, Gpr, Intercept, MmuIndex, Registers, Seg, Segment, Stop, StopKind
from vm.hw.events import BP, DB, DF, NMI, OF, PF, UD, Event, EventDelivery, EventKind, Outcome, exception
from vm.hw.fred import DR6_SINGLE_STEP, Fred
from vm.hw.gate import Gate
from vm.hw.instructions import Result, handler_of
from vm.hw.linear import GuestFault, LinearMemory
from vm.hw.memory import PhysicalMemory
from vm.hw.mmu import Cr0, Cr4, Mmu
from vm.hw.modes import Modes
from vm.hw.msr import Msrs
from vm.hw.rules import Rule
from vm.hw.tracking import FrameTracker

_MASK64: Final = (1 << 64) - 1
_EXIT_IRET: Final = 0x74
_STI: Final = 0xFB
_SINGLE_BYTE: Final = {DB: b"\xf1", BP: b"\xcc", OF: b"\xce"}  # INT1, INT3, INTO


class CpuState(enum.Enum):
    """What a CPU is doing."""

    RUNNING = "running"
    HALTED = "halted"
    WAIT_FOR_SIPI = "waiting for SIPI"
    SHUTDOWN = "shut down"


class SliceEnd(enum.Enum):
    """Why a slice ended."""

    BUDGET = "budget"
    HALTED = "halted"
    YIELDED = "pause, or a port asked for it"
    SHUTDOWN = "shutdown"


class Slice(NamedTuple):
    """One slice: why it ended, and the units of virtual time it took."""

    end: SliceEnd
    elapsed: int


@dataclass
class Counts:
    """Exact counts of one CPU since reset."""

    instructions: int = 0
    exceptions: int = 0
    page_faults: int = 0
    interrupts: int = 0
    nmis: int = 0
    invlpg: int = 0
    invpcid: int = 0
    cr3_loads: int = 0


class CpuObserver(Protocol):
    """Who wants to know what a CPU does beyond instructions."""

    def delivered(self, cpu: int, events: list[Event], outcome: Outcome) -> None:
        """Events were delivered (or ended in shutdown)."""
        ...


class Before(NamedTuple):
    """A CPU before an instruction: its linear address, RSP, CPL, its bytes, and the width of the code."""

    rip: int
    rsp: int
    ring: int
    code: bytes
    bits: int


class InstructionObserver(Protocol):
    """Who wants to know of each instruction; nothing is paid when nobody does."""

    def ran(self, cpu: int, time: int, stop: Stop) -> None:
        """The engine has run from virtual `time` on, and stopped; its recorder has the records."""
        ...

    def emulated(self, cpu: int, time: int, instruction: Instruction, before: Before) -> None:
        """An instruction that the engine does not execute was carried out."""
        ...


class Board(Protocol):
    """What a CPU needs of the machine it sits in."""

    memory: PhysicalMemory
    tracker: FrameTracker
    broadcast: Broadcast
    modes: Modes
    rules: frozenset[Rule]
    cpu_count: int

    def elapse(self, units: int) -> None:
        """Virtual time has passed on the running CPU."""
        ...

    def slice_limit(self) -> int:
        """Units until the next timer, at least 1; timers that are due have fired."""
        ...

    def port_read(self, cpu: int, port: int, size: int) -> int:
        """IN."""
        ...

    def port_write(self, cpu: int, port: int, size: int, value: int) -> None:
        """OUT."""
        ...

    def external_vector(self, cpu: int) -> int | None:
        """Acknowledge a vector from the interrupt controllers of `cpu`, None if none is deliverable."""
        ...

    def withdraw(self, cpu: int, vector: int) -> None:
        """Undo `external_vector`: the vector could not be delivered and waits again."""
        ...

    def has_external(self, cpu: int) -> bool:
        """Whether a vector is deliverable to `cpu`."""
        ...

    def now(self) -> int:
        """Virtual time."""
        ...


class Cpu:
    """One CPU of a machine.

    Args:
        index: its number, and its APIC id.
        board: the machine around it.
        apic: its local APIC.
    """

    def __init__(self, index: int, board: Board, apic: LocalApic) -> None:
        self.index = index
        self._board = board
        self.apic = apic
        self.mmu = Mmu(index, board.memory, board.tracker, board.modes, board.rules)
        self.engine = Engine(board.memory.address, board.memory.size, self)
        mask_engine(self.engine.env)
        self.registers: Registers = self.engine.registers
        self.mmu.attach(self.engine)
        self.linear = LinearMemory(self.mmu, board.memory, self.mmio_read, self.mmio_write)
        self.msrs = Msrs(self.registers, apic, board.now, self.mmu.update)
        self.fred = Fred(self.registers, self.linear, self.msrs)
        self.events = EventDelivery(self.registers, self.linear, board.modes, board.rules, self.fred)
        self.cpuid = Cpuid(self.engine.env, index, board.cpu_count)
        self.broadcast = board.broadcast
        self.counts = Counts()
        self.observers: list[CpuObserver] = []
        self.instructions: InstructionObserver | None = None
        self.state = CpuState.RUNNING
        self.yielded = False
        self.nmi_pending = 0
        self.nmi_blocked = False
        self.on_return: Callable[[int], None] | None = None  # told of returns from events, if set
        self.unsupported: str | None = None
        self.recent: deque[int] = deque(maxlen=16)  # RIPs (linear) at the engine's last stops, newest last
        self.in_engine = False
        self._location = 0  # of the access that the engine reported last, in its present run
        self._stopped_at: int | None = None  # linear RIP of what was not completed, and nothing has run since
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
            registers.dr[number] = {6: 0xFFFF0FF0, 7: 0x400}.get(number, 0)
        for cr in (0, 2, 3, 4):
            registers.cr[cr] = 0
        registers.cr[0] = 0x60000010
        registers.efer = 0
        data = Segment(0, 0, 0xFFFF, 0x9300)
        for seg in (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS):
            registers.set_segment(seg, data)
        registers.set_segment(Seg.CS, Segment(0xF000, 0xFFFF0000, 0xFFFF, 0x9B00))
        for seg, flags in ((Seg.LDTR, 0x8200), (Seg.TR, 0x8B00), (Seg.GDTR, 0), (Seg.IDTR, 0)):
            registers.set_segment(seg, Segment(0, 0, 0xFFFF, flags))
        registers.rip = 0xFFF0
        registers.rflags = Flags.FIXED
        registers.shadow = False
        self.mmu.update()
        self.mmu.drop_all(True)
        self.engine.flush()
        self.nmi_pending = 0
        self._block_nmi(False)

    def init(self) -> None:
        """INIT: reset, but for the caches and what SDM table 9-1 keeps; then wait for SIPI unless the BSP."""
        self.reset()
        self.apic.reset()
        self.state = CpuState.RUNNING if self.index == 0 else CpuState.WAIT_FOR_SIPI

    def sipi(self, vector: int) -> None:
        """Start-up IPI: real-address mode at vector << 12 (SDM 8.4.3); ignored unless waited for."""
        if self.state is not CpuState.WAIT_FOR_SIPI:
            return
        self.registers.set_segment(Seg.CS, Segment(vector << 8, vector << 12, 0xFFFF, 0x9B00))
        self.registers.rip = 0
        self.state = CpuState.RUNNING

    def nmi(self) -> None:
        """An NMI arrives; one more can be latched while it is blocked (6.7.1)."""
        self.nmi_pending = 1

    @property
    def gate(self) -> Gate | None:
        """What stops it at visible operations, while exploring."""
        return self.mmu.gate

    # --- the engine's host

    def fill(self, address: int, access: Access, mmu: MmuIndex, probe: bool, location: int) -> bool:
        """The engine's softmmu misses, answered by the MMU."""
        self._location = location
        return self.mmu.fill(address, access, mmu, probe, location)

    def untried(self) -> None:
        """A refused fetch that is not to be delivered as a fault, but will come again."""
        self.mmu.untried()

    def _apic_offset(self, address: int) -> int | None:
        base = self.apic.mmio_base
        return address - base if self.apic.mmio_enabled and base <= address < base + 4096 else None

    def mmio_read(self, address: int, size: int) -> int:
        """A load from beyond RAM: the APIC page, or all ones."""
        offset = self._apic_offset(address)
        return (1 << 8 * size) - 1 if offset is None else self.apic.read(offset, size)

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store beyond RAM: the APIC page, or nowhere. The slice is cut, so that effects are seen."""
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
        self.state = CpuState.SHUTDOWN

    # --- running

    def run(self, budget: int) -> Slice:
        """Execute at most `budget` units of virtual time (instructions and delivered events).

        Args:
            budget: units, at least 1.
        """
        done = 0
        self.yielded = False
        self._apply_stored_code()
        while done < budget:
            limit = min(budget - done, self._board.slice_limit())
            if self.state is not CpuState.RUNNING and not self._wakes():
                end = SliceEnd.SHUTDOWN if self.state is CpuState.SHUTDOWN else SliceEnd.HALTED
                return Slice(end, done)
            external = self._board.has_external(self.index)
            if (external or self.nmi_pending) and self._take_pending(external):
                spent = 1
            else:
                spent = self._engine(limit, external)
            done += spent
            if self.yielded:
                return Slice(SliceEnd.YIELDED, done)
        if self.state is CpuState.SHUTDOWN:
            return Slice(SliceEnd.SHUTDOWN, done)
        return Slice(SliceEnd.BUDGET, done)

    def _spend(self, units: int) -> None:
        self.counts.instructions += units
        self._board.elapse(units)

    def _engine(self, limit: int, wants_window: bool) -> int:
        self._apply_stored_code()
        if self._stopped_at is not None and self._stops_again():
            return self._emulate()
        if self.gate is not None and not self.gate.granted and not self.registers.interrupt_flag:
            wants_window = True  # that interrupts can be taken now is something others can tell
        self.engine.set_interrupt_window(wants_window)
        if self._nmi_waits():
            limit = 1
        self.in_engine, self._location = True, 0
        try:
            stop = self.engine.run(limit)
        finally:
            self.in_engine = False
        self.registers.clear_resume()
        if self.instructions is not None:
            self.instructions.ran(self.index, self._board.now(), stop)
        self._spend(stop.instructions)
        self.recent.append(self.linear_rip())
        return stop.instructions + self._handle(stop)

    def _stops_again(self) -> bool:
        """Whether the engine would stop at the next instruction at once, as it did before: it need not be asked."""
        at, self._stopped_at = self._stopped_at, None
        if at != self.linear_rip() or not self.mmu.still_fetches(at):
            return False
        self.recent.append(at)
        return True

    def _stop_here_again(self) -> None:
        """The instruction at RIP was not completed; the engine would hand it out again."""
        registers = self.registers
        if not registers.shadow and not registers.trap_flag:
            self._stopped_at = self.linear_rip()

    def linear_rip(self) -> int:
        """RIP with the base of CS, which 64-bit code ignores."""
        base = self.registers.segment(Seg.CS).base if self.registers.bits != 64 else 0
        return base + self.registers.rip & _MASK64

    def _apply_stored_code(self) -> None:
        if self.mmu.stored_code:
            self._stopped_at = None
            for address, size in sorted(self.mmu.stored_code):
                self.engine.drop_code(address, size)
            self.mmu.stored_code.clear()

    # --- pending events

    def can_run(self) -> bool:
        """Whether a slice would do anything: it runs, or an event would wake it."""
        return self.state is CpuState.RUNNING or (self.state is CpuState.HALTED and self.would_wake())

    def would_wake(self) -> bool:
        """Whether an NMI or interrupt is pending that it would take now."""
        if self.nmi_pending and not self.nmi_blocked:
            return True
        return self.registers.interrupt_flag and self._board.has_external(self.index)

    def _wakes(self) -> bool:
        if self.state is not CpuState.HALTED or not self.would_wake():
            return False
        self.state = CpuState.RUNNING
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
        cs = self.registers.segment(Seg.CS).base
        after_sti = self.linear.code(cs + self.registers.rip - 1, 1) == bytes([_STI])
        return (Rule.STI_SHADOW if after_sti else Rule.MOV_SS_SHADOW) in rules

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
        if self.on_return is not None:
            self.on_return(self.index)

    def watch_returns(self) -> None:
        """See the returns that matter: IRET while NMIs are blocked, FRED is on or somebody asks; ERETS and ERETU."""
        self.engine.intercept(Intercept.IRET, self.nmi_blocked or self.fred.enabled or self.on_return is not None)
        self.engine.trap_clac(bool(self.registers.cr[4] & Cr4.FRED))

    def deliver(self, event: Event) -> None:
        """Deliver an event, which takes one unit of time."""
        self._stopped_at = None
        outcome, begun = self.events.deliver(event)
        if event.kind is EventKind.EXCEPTION:
            self.counts.exceptions += 1
        self.counts.page_faults += sum(one.vector == 14 and one.kind is EventKind.EXCEPTION for one in begun)
        if outcome is Outcome.SHUTDOWN:
            self.state = CpuState.SHUTDOWN
        elif outcome is Outcome.REPLACED and event.kind is EventKind.INTERRUPT and begun[-1].vector in (DF, PF):
            self._interrupted_delivery(event.vector)
        for observer in self.observers:
            observer.delivered(self.index, begun, outcome)
        self._spend(1)

    def _interrupted_delivery(self, vector: int) -> None:
        """An interrupt whose delivery met a page fault: given again, or lost (6.10, 6.15; mode)."""
        lost = self._board.modes.interrupted_delivery == "lost" and Rule.INTERRUPT_LOST in self._board.rules
        if not lost:
            self._board.withdraw(self.index, vector)

    # --- what the engine stopped for

    def _handle(self, stop: Stop) -> int:
        """Do what the stop asks for; units of virtual time spent beyond the stop's own."""
        kind = stop.kind
        if kind is StopKind.INTERRUPT_WINDOW and self.gate is not None and self.gate.stops_instruction("window"):
            self.yielded = True
        if kind in (StopKind.BUDGET, StopKind.INTERRUPT_WINDOW):
            return 0
        if kind is StopKind.HALT:
            self.state = CpuState.HALTED
            return 0
        if kind is StopKind.REFUSED:
            fault = self.mmu.take_fault()
            if fault is None and self.gate is not None and self.gate.held is not None:
                self.yielded = True
                return 0
            assert fault is not None
            if Rule.SHADOW_NOT_FOR_FAULTS not in self._board.rules and self.registers.shadow:
                return self._hold_off_fault()
            self.deliver(exception(fault.vector, fault.error, fault.address if fault.vector == 14 else None))
            return 1
        if kind is StopKind.EXCEPTION:
            return self._engine_exception(stop)
        if kind is StopKind.INTERCEPT and stop.code == _EXIT_IRET:
            return self._iret()
        return self._emulate()

    def _hold_off_fault(self) -> int:
        """What only a broken model does: the shadow swallows a fault, and the instruction with it."""
        instruction = decode(self.linear.code(self.registers.rip), self.registers.bits)
        assert instruction is not None
        self.registers.shadow = False
        self._advance(instruction)
        self._spend(1)
        return 1

    def _engine_exception(self, stop: Stop) -> int:
        registers = self.registers
        if stop.is_int:
            base = registers.segment(Seg.CS).base if registers.bits != 64 else 0
            single = self.linear.code(base + registers.rip - 1 & _MASK64, 1) == _SINGLE_BYTE.get(stop.code)
            start = registers.rip - (1 if single else 2) & _MASK64
            self.deliver(Event(stop.code, EventKind.SOFTWARE, start=start))
            return 1
        if stop.code == DB:
            registers.dr[6] |= DR6_SINGLE_STEP
        self.deliver(exception(stop.code, stop.error))
        return 1

    def _iret(self) -> int:
        """IRET ends NMI blocking, even if it faults (6.7.1); with FRED it cannot change ring."""
        faults_keep = self.nmi_blocked and Rule.NMI_UNBLOCKED_BY_FAULTING_IRET not in self._board.rules
        self.nmi_blocked = False
        if self.fred.enabled:
            instruction = self._instruction()
            assert instruction is not None
            try:
                self.fred.check_iret(instruction)
            except GuestFault as fault:
                self._block_nmi(faults_keep)
                self.deliver(exception(fault.vector, fault.error, fault.address))
                return 1
        self.engine.intercept(Intercept.IRET, False)
        stop = self.engine.run(1)
        if self.instructions is not None:
            self.instructions.ran(self.index, self._board.now(), stop)
        self._spend(stop.instructions)
        self._block_nmi(faults_keep and stop.instructions == 0)
        if stop.instructions:
            self.returned()
        return stop.instructions + self._handle(stop)

    def _instruction(self) -> Instruction | None:
        """The instruction at RIP."""
        return decode(self.linear.code(self.linear_rip()), self.registers.bits)

    def _emulate(self) -> int:
        registers = self.registers
        instruction = self._instruction()
        handler = handler_of(instruction) if instruction is not None else None
        if instruction is None or handler is None:
            self.deliver(exception(UD))
            return 1
        if self.gate is not None and self.gate.stops_instruction(instruction.name):
            self.yielded = True
            self._stop_here_again()
            return 0
        before = self._before(instruction) if self.instructions is not None else None
        try:
            result = handler(self, instruction)
        except GuestFault as fault:
            self.deliver(exception(fault.vector, fault.error, fault.address))
            return 1
        if result is Result.DELIVERED:
            return 1
        if result is Result.WAITING:
            self.yielded = True
            self._stop_here_again()
            self._spend(1)
            return 1
        if self.instructions is not None and before is not None:
            self.instructions.emulated(self.index, self._board.now(), instruction, before)
        stepping = registers.trap_flag
        registers.shadow = result is Result.SHADOWED
        if result is Result.DONE:
            self._advance(instruction)
        self._spend(1)
        if stepping and result not in (Result.JUMPED, Result.SHADOWED):
            registers.dr[6] |= DR6_SINGLE_STEP
            self.deliver(exception(DB))
            return 2
        return 1

    def _before(self, instruction: Instruction) -> Before:
        registers = self.registers
        code = self.linear.code(self.linear_rip(), instruction.length)
        return Before(self.linear_rip(), registers.gpr[Gpr.RSP], registers.cpl, code, registers.bits)

    def _advance(self, instruction: Instruction) -> None:
        registers = self.registers
        mask = {16: 0xFFFFFFFF, 32: 0xFFFFFFFF, 64: _MASK64}[registers.bits]
        registers.rip = registers.rip + instruction.length & mask

    # --- snapshot

    def snapshot(self) -> Any:
        """The whole CPU, immutable."""
        return (
            self.registers.save(),
            self.mmu.snapshot(),
            self.msrs.snapshot(),
            self.apic.snapshot(),
            tuple(vars(self.counts).values()),
            (self.state.name, self.nmi_pending, self.nmi_blocked, self.unsupported),
            tuple(self.recent),
        )

    def restore(self, state: Any) -> None:
        """Become what `snapshot` returned."""
        registers, mmu, msrs, apic, counts, (name, self.nmi_pending, blocked, self.unsupported), recent = state
        self._stopped_at = None
        self.registers.load(registers)
        self.mmu.restore(mmu)
        self.msrs.restore(msrs)
        self.apic.restore(apic)
        self.counts = Counts(*counts)
        self.state = CpuState[name]
        self.recent = deque(recent, maxlen=16)
        self._block_nmi(blocked)

    def paging_enabled(self) -> bool:
        """CR0.PG."""
        return bool(self.registers.cr[0] & Cr0.PG)
