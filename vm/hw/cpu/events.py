"""Event delivery: SDM volume 3, chapter 6.

Exceptions, interrupts and NMIs go through the guest's own IDT, GDT and TSS, by accesses that can
fault themselves; table 6-5 says what a fault during delivery becomes, up to #DF and shutdown. Where FRED
is on, each delivery is `fred.py`'s.

Not modelled: virtual-8086 mode, task gates, 16-bit gates in protected mode, machine checks,
shadow stacks. #DB conditions other than single step.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, Protocol

from kstack.hw.cpu.linear import GuestFault, LinearMemory
from kstack.hw.engine import Registers
from kstack.hw.modes import Modes
from kstack.hw.rules import ALL, Rule
from kstack.x86.addresses import is_canonical
from kstack.x86.control import Cr0
from kstack.x86.errors import SelectorError, gate_error
from kstack.x86.flags import Flags
from kstack.x86.gates import (
    GATE_BYTES,
    INTERRUPT_GATES,
    LONG_GATE_BYTES,
    LONG_GATES,
    SHORT_GATES,
    VECTOR_BYTES,
    GateDescriptor,
    unpack_gate,
)
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import (
    DESCRIPTOR_BYTES,
    DPL_SHIFT,
    Segment,
    SegmentAttribute,
    Selector,
    unpack_descriptor,
)
from kstack.x86.tss import interrupt_stack, ring_stack
from kstack.x86.vectors import CONTRIBUTORY, DB, DF, GP, NP, PAGE_FAULTS, PF, SS, TRAPS, TS, WITH_ERROR_CODE

_ENTRY_CLEARS: Final = Flags.TF | Flags.NT | Flags.RF | Flags.VM
_REAL_CLEARS: Final = Flags.TF | Flags.IF | Flags.AC
# Plain integers: to look up a member of an enum costs more than what is done with it.
_IF, _RF, _PE = int(Flags.IF), int(Flags.RF), int(Cr0.PE)
_P, _L, _B = int(SegmentAttribute.P), int(SegmentAttribute.L), int(SegmentAttribute.B)
_IS_CODE, _CONFORMING = SegmentAttribute.S | SegmentAttribute.CODE, int(SegmentAttribute.CONFORMING)
_TI, _INDEX, _WITHOUT_RPL = int(Selector.TI), int(Selector.INDEX), int(Selector.WITHOUT_RPL)
_EXT: Final = int(SelectorError.EXT)
_MASK64: Final = (1 << 64) - 1
UNDEFINED_RIP: Final = 0x0BAD0BAD0BAD0BAD
"""What #DF saves as RIP where its saved state is undefined: not canonical, so that no use of it can succeed."""


class EventKind(enum.Enum):
    """Where an event comes from; it decides privilege checks and the error code's EXT bit."""

    EXCEPTION = "exception"
    INTERRUPT = "external interrupt"
    NMI = "NMI"
    SOFTWARE = "INT n"
    SYSCALL = "SYSCALL"  # an event with FRED only


class Event(NamedTuple):
    """An event to be delivered.

    `error` is the error code or None; `address` goes to CR2, and of a #DB it is what DR6 was given; `start` is the RIP of the instruction
    for SOFTWARE and SYSCALL events, whose faults are reported there; `nested` says that it arose
    during the delivery of another event, and is not #DF.
    """

    vector: int
    kind: EventKind
    error: int | None = None
    address: int | None = None
    start: int = 0
    nested: bool = False


class Outcome(enum.Enum):
    """What became of an event."""

    DELIVERED = "delivered"
    REPLACED = "a fault during its delivery was delivered instead"
    SHUTDOWN = "shutdown (triple fault)"
    NOBODY = "real mode, and nobody handles it"


def exception(vector: int, error: int | None = None, address: int | None = None) -> Event:
    """A fault or trap as an event, with an error code (0 if none is given) where the vector has one."""
    return Event(vector, EventKind.EXCEPTION, (error or 0) if vector in WITH_ERROR_CODE else None, address)


class _NobodyHandles(Exception):
    """The entry in the interrupt vector table is empty."""


class OtherDelivery(Protocol):
    """What delivers in place of the IDT while it is enabled."""

    @property
    def enabled(self) -> bool:
        """Whether it is."""
        ...

    def deliver(self, event: Event, rip: int, rflags: int) -> None:
        """Deliver one event; `rip` and `rflags` are for its frame.

        Raises:
            GuestFault: the frame cannot be pushed.
        """
        ...


class EventDelivery:
    """Delivers events on one CPU.

    Args:
        registers: the engine's.
        linear: memory as the CPU reads it.
        modes: architecture modes.
        rules: the rules it obeys.
        fred: delivers in place of the IDT while it is enabled.
    """

    def __init__(
        self,
        registers: Registers,
        linear: LinearMemory,
        modes: Modes,
        rules: frozenset[Rule] = ALL,
        fred: OtherDelivery | None = None,
    ) -> None:
        self._registers = registers
        self._linear = linear
        self._modes = modes
        self._rules = rules
        self._fred = fred
        self._ist_used: set[int] = set()  # only a broken model remembers

    def deliver(self, event: Event) -> tuple[Outcome, list[Event]]:
        """Deliver `event`, or what table 6-5 makes of it.

        Returns:
            The outcome, and the events that were begun, in order.
        """
        begun = [event]
        while True:
            try:
                self._deliver_once(event)
            except _NobodyHandles:
                if event.kind is EventKind.SOFTWARE:
                    self._registers.rip = event.start
                return Outcome.NOBODY, begun
            except GuestFault as fault:
                if event.kind in (EventKind.SOFTWARE, EventKind.SYSCALL):
                    self._registers.rip = event.start
                event_or_none = self._combine(event, fault)
                if event_or_none is None:
                    return Outcome.SHUTDOWN, begun
                event = event_or_none
                begun.append(event)
                continue
            return (Outcome.DELIVERED if len(begun) == 1 else Outcome.REPLACED), begun

    def why_nobody(self, event: Event) -> str:
        """What `Outcome.NOBODY` was, for people."""
        empty = f"entry {event.vector:#x} of the interrupt vector table is empty"
        if event.kind is not EventKind.SOFTWARE:
            return f"{event.kind.value} {event.vector:#x} in real mode, and nobody handles it: {empty}"
        ax = self._registers.gpr[Gpr.RAX] & 0xFFFF
        return (
            f"INT {event.vector:#x} with AX={ax:#06x}, and there is no BIOS: {empty}; all of the image is in memory "
            "already, and the serial port is at 0x3f8"
        )

    def _combine(self, first: Event, fault: GuestFault) -> Event | None:
        """Table 6-5: what a fault during the delivery of `first` becomes; None is shutdown."""
        rules = self._rules
        second = exception(fault.vector, fault.error, fault.address)._replace(nested=True)
        if first.kind is not EventKind.EXCEPTION:
            return second
        severe = second.vector in CONTRIBUTORY or second.vector in PAGE_FAULTS
        if first.vector == DF:
            return None if severe and Rule.TRIPLE_FAULT in rules else second
        if first.vector in CONTRIBUTORY:
            doubled = second.vector in CONTRIBUTORY and Rule.DOUBLE_FAULT_CONTRIBUTORY in rules
            if second.vector in PAGE_FAULTS and Rule.SERIAL_FAULTS not in rules:
                doubled = True
        elif first.vector in PAGE_FAULTS:
            doubled = severe and Rule.DOUBLE_FAULT_PAGE_FAULT in rules
        else:
            doubled = False
        if not doubled:
            return second
        if second.vector == PF:
            self._set_cr2(second)
        return Event(DF, EventKind.EXCEPTION, 0 if Rule.DF_ERROR_ZERO in rules else second.error)

    def _set_cr2(self, event: Event) -> None:
        if event.address is not None and event.vector == PF and Rule.PF_CR2 in self._rules:
            self._registers.cr[2] = event.address

    def _deliver_once(self, event: Event) -> None:
        self._set_cr2(event)
        if Rule.PF_ERROR_CODE not in self._rules and event.vector == PF:
            event = event._replace(error=0)
        registers = self._registers
        if self._fred is not None and self._fred.enabled:
            self._fred.deliver(event, self._saved_rip(event), self._saved_flags(event))
        elif not registers.cr[0] & _PE:
            self._deliver_real(event)
        elif registers.long_mode:
            self._deliver_long(event)
        else:
            self._deliver_protected(event)

    # --- IA-32e mode (6.14)

    def _deliver_long(self, event: Event) -> None:
        registers, linear = self._registers, self._linear
        ext = 0 if event.kind is EventKind.SOFTWARE else _EXT
        idt_error = gate_error(event.vector, ext)
        gate = self._gate(event, LONG_GATE_BYTES, idt_error)
        if gate.kind not in LONG_GATES:
            raise GuestFault(GP, idt_error)
        self._check_gate(event, gate, idt_error)
        code = self._code_segment(gate.selector, ext)
        if not code.flags & _L or code.flags & _B:
            raise GuestFault(GP, code.selector & _WITHOUT_RPL | ext)
        cpl = registers.cpl
        new_cpl = cpl if code.flags & _CONFORMING else code.dpl
        old_rsp = registers.gpr[Gpr.RSP]
        rsp = self._stack(gate.ist, new_cpl, cpl, ext)
        if Rule.FRAME_ALIGNED in self._rules:
            rsp &= ~0xF
        words = [registers.segment(Seg.SS).selector, old_rsp, self._saved_flags(event)]
        words += [registers.segment(Seg.CS).selector, self._saved_rip(event)]
        if event.error is not None and Rule.FRAME_WORDS in self._rules:
            words.append(event.error)
        if not (is_canonical(rsp - 8 & _MASK64) and is_canonical(rsp - 8 * len(words) & _MASK64)):
            raise GuestFault(SS, ext)
        linear.push(rsp, words)
        rsp = rsp - 8 * len(words) & _MASK64
        if not is_canonical(gate.offset):
            raise GuestFault(GP, ext)
        if new_cpl != cpl:
            registers.set_segment(Seg.SS, Segment(new_cpl, 0, 0, new_cpl << DPL_SHIFT))
        registers.set_segment(Seg.CS, code._replace(selector=code.selector & _WITHOUT_RPL | new_cpl))
        registers.gpr[Gpr.RSP] = rsp
        registers.rip = gate.offset
        self._enter(gate.kind in INTERRUPT_GATES)

    def _gate(self, event: Event, size: int, error: int) -> GateDescriptor:
        idt = self._registers.segment(Seg.IDTR)
        if event.vector * size + size - 1 > idt.limit:
            raise GuestFault(GP, error)
        return unpack_gate(self._linear.read(idt.base + event.vector * size, size))

    def _check_gate(self, event: Event, gate: GateDescriptor, error: int) -> None:
        is_int1 = event.vector == DB and self._registers.rip - event.start == 1
        if event.kind is EventKind.SOFTWARE and not is_int1 and gate.dpl < self._registers.cpl:
            raise GuestFault(GP, error)
        if not gate.present:
            raise GuestFault(NP, error)

    def _code_segment(self, selector: int, ext: int) -> Segment:
        if not selector & _WITHOUT_RPL:
            raise GuestFault(GP, ext)
        error = selector & _WITHOUT_RPL | ext
        table = self._registers.segment(Seg.LDTR if selector & _TI else Seg.GDTR)
        at = selector & _INDEX
        if at + DESCRIPTOR_BYTES - 1 > table.limit:
            raise GuestFault(GP, error)
        segment = unpack_descriptor(selector, self._linear.read(table.base + at, DESCRIPTOR_BYTES))
        if segment.flags & _IS_CODE != _IS_CODE or segment.dpl > self._registers.cpl:
            raise GuestFault(GP, error)
        if not segment.flags & _P:
            raise GuestFault(NP, error)
        return segment

    def _stack(self, ist: int, new_cpl: int, cpl: int, ext: int) -> int:
        """RSP for the frame (6.14.4, 6.14.5)."""
        registers, rules = self._registers, self._rules
        if Rule.IST_SWITCH not in rules and new_cpl == cpl:
            ist = 0
        if ist:
            if Rule.IST_REWINDS not in rules and ist in self._ist_used:
                return registers.gpr[Gpr.RSP]
            self._ist_used.add(ist)
            return self._tss_stack(interrupt_stack(ist), ext)
        if new_cpl < cpl or Rule.NO_SWITCH_AT_EQUAL_CPL not in rules:
            return self._tss_stack(ring_stack(new_cpl), ext)
        return registers.gpr[Gpr.RSP]

    def _tss_stack(self, offset: int, ext: int) -> int:
        tss = self._registers.segment(Seg.TR)
        if offset + 7 > tss.limit:
            raise GuestFault(TS, tss.selector & _WITHOUT_RPL | ext)
        rsp = self._linear.read(tss.base + offset, 8)
        if not is_canonical(rsp):
            raise GuestFault(SS, ext)
        return rsp

    def _saved_flags(self, event: Event) -> int:
        """RFLAGS for the frame; a fault sets RF in it, so that it can be restarted (SDM 17.3.1.1)."""
        flags = self._registers.rflags
        is_fault = event.kind is EventKind.EXCEPTION and event.vector not in TRAPS and event.vector != DF
        return flags | _RF if is_fault else flags

    def _saved_rip(self, event: Event) -> int:
        undefined = Rule.DF_STATE_UNDEFINED in self._rules and self._modes.df_restart == "undefined"
        if event.vector == DF and event.kind is EventKind.EXCEPTION and undefined:
            return UNDEFINED_RIP
        return self._registers.rip

    def _enter(self, clears_if: bool) -> None:
        registers = self._registers
        cleared = _ENTRY_CLEARS | (_IF if clears_if else 0)
        registers.rflags = registers.rflags & ~cleared
        registers.shadow = False

    # --- real-address mode (volume 3, 20.1.4)
    #
    # An entry of zeros is taken for one that nobody has filled: what would run from 0000:0000 on is the table itself.

    def _deliver_real(self, event: Event) -> None:
        registers, linear = self._registers, self._linear
        idt = registers.segment(Seg.IDTR)
        if event.vector * VECTOR_BYTES + VECTOR_BYTES - 1 > idt.limit:
            raise GuestFault(GP, 0)
        entry = linear.read(idt.base + event.vector * VECTOR_BYTES, VECTOR_BYTES)
        if not entry:
            raise _NobodyHandles
        stack = registers.segment(Seg.SS)
        sp = registers.gpr[Gpr.RSP]
        for word in (registers.rflags, registers.segment(Seg.CS).selector, registers.rip):
            sp = sp & ~0xFFFF | sp - 2 & 0xFFFF
            linear.write(stack.base + (sp & 0xFFFF), 2, word & 0xFFFF)
        registers.gpr[Gpr.RSP] = sp
        selector = entry >> 16
        registers.set_segment(Seg.CS, registers.segment(Seg.CS)._replace(selector=selector, base=selector << 4))
        registers.rip = entry & 0xFFFF
        registers.rflags = registers.rflags & ~_REAL_CLEARS
        registers.shadow = False

    # --- protected mode without IA-32e (6.12)

    def _deliver_protected(self, event: Event) -> None:
        registers, linear = self._registers, self._linear
        ext = 0 if event.kind is EventKind.SOFTWARE else _EXT
        idt_error = gate_error(event.vector, ext)
        gate = self._gate(event, GATE_BYTES, idt_error)
        if gate.kind not in LONG_GATES and gate.kind not in SHORT_GATES:
            raise GuestFault(GP, idt_error)
        width = 2 if gate.kind in SHORT_GATES else 4
        self._check_gate(event, gate, idt_error)
        code = self._code_segment(gate.selector, ext)
        cpl = registers.cpl
        new_cpl = cpl if code.flags & _CONFORMING else code.dpl
        esp, stack = registers.gpr[Gpr.RSP] & 0xFFFFFFFF, registers.segment(Seg.SS)
        words = [registers.rflags & 0xFFFFFFFF, registers.segment(Seg.CS).selector, registers.rip & 0xFFFFFFFF]
        if new_cpl < cpl:
            words = [stack.selector, esp, *words]
            tss = registers.segment(Seg.TR)
            esp = linear.read(tss.base + ring_stack(new_cpl), 4)
            selector = linear.read(tss.base + ring_stack(new_cpl) + 4, 2)
            table = registers.segment(Seg.LDTR if selector & _TI else Seg.GDTR)
            stack = unpack_descriptor(selector, linear.read(table.base + (selector & _INDEX), DESCRIPTOR_BYTES))
        if event.error is not None:
            words.append(event.error)
        for word in words:
            esp = esp - width & 0xFFFFFFFF
            linear.write(stack.base + esp & 0xFFFFFFFF, width, word & (1 << 8 * width) - 1)
        registers.set_segment(Seg.SS, stack)
        registers.set_segment(Seg.CS, code._replace(selector=code.selector & _WITHOUT_RPL | new_cpl))
        registers.gpr[Gpr.RSP] = esp
        registers.rip = gate.offset if width == 4 else gate.offset & 0xFFFF
        self._enter(gate.kind in INTERRUPT_GATES)
