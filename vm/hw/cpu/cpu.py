"""One CPU: engine, MMU, registers, local APIC and event delivery, put together.

`run` executes a slice: it takes pending events at instruction boundaries, lets the engine run, and
carries out what the engine stopped for. Every instruction and every delivered event is one unit of
virtual time, so that no guest can spin without time passing.

Not modelled: SMM, performance counters, power states beyond HLT.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from kstack.hw.apic.apic import ApicState, LocalApic
from kstack.hw.cpu.breakpoints import Breakpoints
from kstack.hw.cpu.checked import look_at, rule_of, tables
from kstack.hw.cpu.corrections import CarriedOut, Native, keep_bases
from kstack.hw.cpu.counts import Counts, CountState
from kstack.hw.cpu.cpuid import SIGNATURE, Cpuid, mask_engine
from kstack.hw.cpu.declared import Declared, set_up
from kstack.hw.cpu.decode import STACK_INSTRUCTIONS, Instruction, decode, effective_address
from kstack.hw.cpu.encoding import encoding_of, taken_as
from kstack.hw.cpu.events import Event, EventDelivery, EventKind, Outcome, exception
from kstack.hw.cpu.fred import Fred
from kstack.hw.cpu.hooks import Before, CpuHooks, Delivery
from kstack.hw.cpu.instructions import Result, handler_of
from kstack.hw.cpu.linear import GuestFault, LinearMemory, NotCanonical
from kstack.hw.cpu.msr import Msrs, MsrState
from kstack.hw.cpu.processor import Processor
from kstack.hw.engine import (
    Check,
    CheckKind,
    Engine,
    Intercept,
    Look,
    MmuIndex,
    Registers,
    RegisterState,
    Stop,
    StopKind,
)
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.broadcast import Broadcast
from kstack.hw.mmu.mmu import Mmu, MmuState
from kstack.hw.mmu.moments import MmuHooks
from kstack.hw.mmu.tracking import FrameTracker
from kstack.hw.mmu.translator import Translator
from kstack.hw.modes import Modes
from kstack.hw.rules import Rule
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE, is_canonical
from kstack.x86.control import CR0_RESET, Cr0, Cr4
from kstack.x86.debug_registers import DR6_BS, DR6_FIXED, DR7_FIXED, DR7_GD
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import BUSY_TSS, CODE, DATA, LDT, REAL_LIMIT, Segment
from kstack.x86.vectors import BP, DB, DF, GP, NMI, OF, PF, SS, UD

_MASK64: Final = (1 << 64) - 1
_TABLES: Final = tables()
_EXIT_IRET: Final = 0x74
_STI: Final = 0xFB
_SINGLE_BYTE: Final = {DB: b"\xf1", BP: b"\xcc", OF: b"\xce"}  # INT1, INT3, INTO


class ActivityState(enum.Enum):
    """What a CPU is doing (SDM volume 3, 25.4.2)."""

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
    WORK = "bound of host work"


class Slice(NamedTuple):
    """One slice: why it ended, and the units of virtual time it took."""

    end: SliceEnd
    elapsed: int


class EventState(NamedTuple):
    """What a CPU is doing, and what waits for it.

    Attributes:
        activity: the name of its `ActivityState`.
        nmi_pending: NMIs that wait.
        nmi_blocked: they are held off, up to a return.
        unsupported: what ended it that is not modelled.
        resumed: the linear RIP to which it has returned with RF set, if nothing has run since.
        init_comes: it has sent itself an INIT.
    """

    activity: str
    nmi_pending: int
    nmi_blocked: bool
    unsupported: str | None
    resumed: int | None
    init_comes: bool


class CpuState(NamedTuple):
    """The whole of a CPU; `recent` are linear RIPs that only reports show."""

    registers: RegisterState
    mmu: MmuState
    msrs: MsrState
    apic: ApicState
    counts: CountState
    events: EventState
    recent: tuple[int, ...]


class Board(Protocol):
    """What a CPU needs of the machine it sits in."""

    memory: PhysicalMemory
    tracker: FrameTracker
    broadcast: Broadcast
    modes: Modes
    rules: frozenset[Rule]
    mmu_hooks: MmuHooks
    cpu_hooks: CpuHooks
    cpu_count: int
    work: int
    work_limit: int

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

    def tell(self, cpu: int, declared: Declared) -> None:
        """A CPU has something set up that is not modelled."""
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
        self.on_return: Callable[[int], None] | None = None  # told of returns from events, if set
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
        self.linear.on_watch = self._note_access if self.breakpoints.data else None
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

    # --- running

    def run(self, budget: int) -> Slice:
        """Execute at most `budget` units of virtual time (instructions and delivered events).

        Args:
            budget: units, at least 1.
        """
        done = 0
        self.yielded = False
        self._apply_stored_code()
        board = self._board
        while done < budget:
            if board.work >= board.work_limit:
                return Slice(SliceEnd.WORK, done)
            if self._init_comes:
                self._init_comes = False
                self.init()
                if self.index == 0:
                    self.not_modelled("INIT of the boot CPU, which begins at FFFFFFF0H, where there is no firmware")
            limit, left = board.slice_limit(), budget - done
            if limit < left:
                board.work += 1  # a timer's
            else:
                limit = left
            if self.state is not ActivityState.RUNNING and not self._wakes():
                end = SliceEnd.SHUTDOWN if self.state is ActivityState.SHUTDOWN else SliceEnd.HALTED
                return Slice(end, done)
            external = board.has_external(self.index)
            if (external or self.nmi_pending) and self._take_pending(external):
                spent = 1
            else:
                spent = self._engine(limit, external)
            done += spent
            if self.yielded:
                return Slice(SliceEnd.YIELDED, done)
        if self.state is ActivityState.SHUTDOWN:
            return Slice(SliceEnd.SHUTDOWN, done)
        return Slice(SliceEnd.BUDGET, done)

    def _spend(self, units: int) -> None:
        self.counts.instructions += units
        self._board.elapse(units)

    def _engine(self, limit: int, wants_window: bool) -> int:
        self._apply_stored_code()
        if self._stopped_at is not None and self._stops_again():
            return self._emulate()
        if self.translator is not None and not self.translator.granted and not self.registers.interrupt_flag:
            wants_window = True  # that interrupts can be taken now is something others can tell
        self.engine.set_interrupt_window(wants_window)
        if self._nmi_waits():
            limit = 1
        self.in_engine, self._location, walks = True, 0, self.mmu.walks
        try:
            stop = self.engine.run(limit)
        finally:
            self.in_engine = False
        board, registers, instructions = self._board, self.registers, stop.instructions
        board.work += self.engine.take_work() + self.mmu.walks - walks
        registers.clear_resume()
        if instructions:
            self._resumed = None
        if self._hooks.run:
            self._hooks.run(self.index, board.now(), stop)
        self._spend(instructions)
        if not registers.is_plain:
            self._tell_set_up()
        self.recent.append(self.linear_rip())
        if stop.kind is StopKind.BUDGET:
            if is_canonical(registers.rip):
                return instructions
            self._back_to_branch()  # here, and not in the next slice, which knows of no branch
            self.deliver(exception(GP))
            return instructions + 1
        return instructions + self._handle(stop)

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
        registers = self.registers
        if registers.bits == 64:
            return registers.rip
        return registers.segment(Seg.CS).base + registers.rip & _MASK64

    def _apply_stored_code(self) -> None:
        if self.mmu.softmmu.stored_code:
            self._stopped_at = None
            for address, size in sorted(self.mmu.softmmu.stored_code):
                self.engine.drop_code(address, size)
            self.mmu.softmmu.stored_code.clear()

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
        if self.on_return is not None:
            self.on_return(self.index)

    def watch_returns(self) -> None:
        """See the returns that matter: IRET while NMIs are blocked, FRED is on or somebody asks; ERETS and ERETU."""
        self.engine.intercept(Intercept.IRET, self.nmi_blocked or self.fred.enabled or self._sees_returns())
        self.engine.trap_clac(bool(self.registers.cr[4] & Cr4.FRED))

    def _sees_returns(self) -> bool:
        return self.on_return is not None or bool(self.breakpoints.code)

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
        if self._hooks.delivery:
            self._hooks.delivery(Delivery(self.index, begun, outcome))
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
        if self.unsupported is not None:
            return 0  # a strict machine: this CPU has come to its end before the stop
        if (
            kind is StopKind.INTERRUPT_WINDOW
            and self.translator is not None
            and self.translator.stops_instruction("window")
        ):
            self.yielded = True
        if kind in (StopKind.BUDGET, StopKind.INTERRUPT_WINDOW):
            return 0
        if kind is StopKind.HALT:
            if self.registers.trap_flag:  # the trap wakes it at once
                return self._debug_trap(DR6_BS)
            self.state = ActivityState.HALTED
            return 0
        if kind is StopKind.REFUSED:
            if self._watched:
                self._watched = False
                return self._run_watched()
            fault = self.mmu.take_fault()
            if fault is None and self.translator is not None and self.translator.is_stopped:
                self.yielded = True
                return 0
            assert fault is not None
            if Rule.SHADOW_NOT_FOR_FAULTS not in self._board.rules and self.registers.shadow:
                return self._hold_off_fault()
            vector = fault.vector
            if vector == GP and fault.address == self.linear_rip():
                self._back_to_branch()
            elif vector == GP and self._is_on_stack(fault.address):
                vector = SS
            self.deliver(exception(vector, fault.error, fault.address if vector == PF else None))
            return 1
        if kind is StopKind.EXCEPTION:
            return self._engine_exception(stop)
        if kind is StopKind.INTERCEPT and stop.code == _EXIT_IRET:
            return self._iret()
        return self._checked() if kind is StopKind.CHECKED else self._emulate()

    def _is_on_stack(self, address: int) -> bool:
        """Whether the instruction at RIP reaches linear `address` by the stack segment (volume 1, 3.7.5)."""
        instruction = self._instruction()
        if instruction is None:
            return False
        if instruction.memory is not None:
            operand = effective_address(instruction, self.registers)
            is_operand = address - operand & _MASK64 < max(instruction.memory.width, 1)
            if is_operand or instruction.name not in STACK_INSTRUCTIONS:
                return instruction.memory.segment is Seg.SS
        return instruction.name in STACK_INSTRUCTIONS

    def _back_to_branch(self) -> None:
        """RIP is not canonical: a near JMP, CALL or RET should have faulted before it had any effect (volume 2).

        The engine finds out at the target. A CALL's return address has been stored below RSP, and stays there.
        """
        at = self.engine.last_instruction()
        if at is None:
            return
        registers, instruction = self.registers, decode(self.linear.code(at), self.registers.bits)
        if registers.bits != 64 or instruction is None or instruction.name not in ("jmp", "call", "ret"):
            return
        if instruction.name == "call":
            registers.gpr[Gpr.RSP] = registers.gpr[Gpr.RSP] + 8 & _MASK64
        elif instruction.name == "ret":
            registers.gpr[Gpr.RSP] = registers.gpr[Gpr.RSP] - 8 - sum(instruction.immediates) & _MASK64
        registers.rip = at

    def _run_watched(self) -> int:
        """Execute an instruction that a breakpoint on data watches, and the one behind it if that was a MOV SS."""
        self._watching, self.hits = True, 0
        try:
            stop = self._run_checked()
        finally:
            self._watching = False
        hits, self.hits = self.hits, 0
        spent = stop.instructions + self._handle(stop)
        if not stop.instructions or not hits:
            return spent
        if self.registers.shadow and self.state is ActivityState.RUNNING and not self._after_sti():
            after = self._run_checked()
            spent += after.instructions + self._handle(after)
        return spent + self._debug_trap(hits)

    def _debug_trap(self, bits: int) -> int:
        """The trap behind an instruction, for what DR6 says."""
        self.registers.dr[6] |= bits
        self.deliver(exception(DB, None, bits))
        return 1

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
            return self._debug_trap(DR6_BS)
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
        after = keep_bases(self.registers)
        stop = self._run_checked()
        self._block_nmi(faults_keep and stop.instructions == 0)
        if stop.instructions:
            after()
            self.returned()
        return stop.instructions + self._handle(stop)

    def _run_checked(self) -> Stop:
        """Execute the instruction at RIP in the engine, whatever its check says."""
        stop = self.engine.run_checked()
        self._resumed = self.linear_rip() if self.engine.resumes() else None
        self.registers.clear_resume()
        if self._hooks.run:
            self._hooks.run(self.index, self._board.now(), stop)
        self._spend(stop.instructions)
        if not self.registers.is_plain:
            self._tell_set_up()
        return stop

    def _tell_set_up(self) -> None:
        """Tell the board of what the guest has set up and is not modelled; it may be the end of this CPU."""
        for declared in set_up(self.registers):
            self._board.tell(self.index, declared)

    def _let_run(self, native: Native) -> int:
        """An instruction whose check has left the engine is to run there after all."""
        stop = self._run_checked()
        if native.restore is not None:
            native.restore()
        if stop.instructions and native.after is not None:
            native.after()
        return stop.instructions + self._handle(stop)

    def _instruction(self) -> Instruction | None:
        """The instruction at RIP."""
        return decode(self.linear.code(self.linear_rip()), self.registers.bits)

    def _checked(self) -> int:
        """An instruction that its check has held back."""
        bits, resumed = self.breakpoints.code.get(self.linear_rip(), 0), self._resumed == self.linear_rip()
        self._resumed = None
        if bits and not resumed and not (self.registers.shadow and not self._after_sti()):
            self.registers.dr[6] |= bits
            self.registers.rflags |= Flags.RF  # in the frame, so that the instruction can be gone on with
            self.deliver(exception(DB, None, bits))
            return 1
        if self._beyond_code(self.linear_rip()):
            self.deliver(exception(GP))
            return 1
        code = taken_as(self.linear.code(self.linear_rip()), self.registers.bits)
        instruction, found = decode(code, self.registers.bits), encoding_of(code, self.registers.bits)
        rule = None if found is None else rule_of(found)
        if rule is not None and rule.act is None:
            self.deliver(exception(UD))
            return 1
        if rule is None or rule.act is None or found is None or instruction is None:
            return self._let_run(Native())  # its code has changed since, or the engine knows what to say of it
        try:
            native = rule.act(self, instruction, found)
        except CarriedOut as carried:
            return self._emulate(carried.handler)
        except GuestFault as fault:
            return self._faults(fault)
        if self.unsupported is not None:
            return 0
        return self._let_run(native)

    def _faults(self, fault: GuestFault) -> int:
        """The instruction at RIP faults as it is carried out here."""
        on_stack = isinstance(fault, NotCanonical) and self._is_on_stack(fault.linear)
        self.deliver(exception(SS if on_stack else fault.vector, fault.error, fault.address))
        return 1

    def _emulate(self, handler: Callable[[Processor, Instruction], Result] | None = None) -> int:
        """Carry out the instruction at RIP, by its own handler if none is given."""
        registers = self.registers
        self._board.work += 1
        instruction = self._instruction()
        if handler is None and instruction is not None:
            handler = handler_of(instruction)
        if instruction is None or handler is None:
            self.deliver(exception(UD))
            return 1
        if self.translator is not None and self.translator.stops_instruction(instruction.name):
            self.yielded = True
            self._stop_here_again()
            return 0
        self.hits = 0
        before = self._before(instruction) if self._hooks.emulation else None
        try:
            result = handler(self, instruction)
        except GuestFault as fault:
            return self._faults(fault)
        if result is Result.DELIVERED:
            return 1
        if result is Result.WAITING:
            self.yielded = True
            self._stop_here_again()
            self._spend(1)
            return 1
        if before is not None:
            self._hooks.emulation(self.index, self._board.now(), instruction, before)
        stepping = registers.trap_flag
        registers.shadow = result is Result.SHADOWED
        if result is Result.DONE:
            self._advance(instruction)
        self._spend(1)
        if instruction.name == "syscall":
            stepping = registers.trap_flag  # what FMASK has left of it counts
        bits = self.hits
        if stepping and (result not in (Result.JUMPED, Result.SHADOWED) or instruction.name == "syscall"):
            bits |= DR6_BS
        return 1 + (self._debug_trap(bits) if bits else 0)

    def _before(self, instruction: Instruction) -> Before:
        registers = self.registers
        code = self.linear.code(self.linear_rip(), instruction.length)
        return Before(self.linear_rip(), registers.gpr[Gpr.RSP], registers.cpl, code, registers.bits)

    def _advance(self, instruction: Instruction) -> None:
        registers = self.registers
        mask = {16: 0xFFFFFFFF, 32: 0xFFFFFFFF, 64: _MASK64}[registers.bits]
        registers.rip = registers.rip + instruction.length & mask

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
