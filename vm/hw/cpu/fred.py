"""FRED: flexible return and event delivery, in 64-bit mode and without shadow stacks.

CR4 bit 32 switches it on. Events then go to one entry page (IA32_FRED_CONFIG), on a stack chosen by
level (IA32_FRED_STKLVLS, IA32_FRED_RSP0-3), with a frame of 64 bytes; ERETS and ERETU return. What
a fault during delivery becomes (table 6-5) is in `events.py` and the same as with the IDT.

Sources: Bochs (cpu/fred.cc), Linux (entry_64_fred.S, kernel/fred.c, asm/fred.h), Xen's notes; no text
of Intel's was at hand.

Chosen where those are silent or disagree:
- the entry is the page itself from ring 3 and 256 bytes on from ring 0, as Linux has it (Bochs: the
  other way round); rings 1 and 2 count as ring 3, and a fault nested in an event of ring 3 uses the
  entry for ring 3, since its frame describes ring 3;
- RFLAGS becomes 2 for SYSCALL too, whatever FMASK says; RCX and R11 are kept;
- CR2 is written for #PF besides the event data;
- an NMI whose delivery faults is lost, and NMIs stay blocked until a return whose frame has bit 18;
- IRET still ends NMI blocking; RF of a popped RFLAGS is dropped (there are no breakpoints);
- error codes have no EXT bit where it is the delivery by FRED itself that faults;
- a frame for #DF has the undefined RIP of the mode df-restart, as with the IDT.

Not modelled: shadow stacks and WAIT-FOR-ENDBRANCH (the SSP MSRs are stored only), SYSENTER, SYSCALL
from compatibility mode, LKGS (not announced), the #DB that bit 17 makes pending for a return with TF,
that ERETU refuses IOPL (Bochs does), that returns do not wait for older stores (memory is sequentially
consistent), prefixes in the length of INT1, INT3 and INT n. SWAPGS and SYSRET do not #UD: Unicorn executes them unseen.
SYSEXIT raises #GP(0) instead of #UD. Far CALL, JMP and RET may still change ring.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.hw.cpu.decode import Instruction
from kstack.hw.cpu.events import Event, EventKind
from kstack.hw.cpu.linear import GuestFault, LinearMemory
from kstack.hw.cpu.msr import Msrs
from kstack.hw.engine import Registers
from kstack.x86.addresses import is_canonical
from kstack.x86.control import Cr4
from kstack.x86.flags import Flags
from kstack.x86.fred import (
    CONFIG_INTERRUPT_LEVEL_SHIFT,
    CONFIG_PAGE,
    CONFIG_RED_ZONE,
    EVENT_BITS,
    FRAME_ALIGNED,
    FRAME_BYTES,
    KERNEL_ENTRY,
    LENGTH_SHIFT,
    LEVEL,
    LEVEL_SHIFT,
    LONG_BIT,
    NESTED_BIT,
    NMI_BIT,
    RFLAGS_CHECKED,
    SOFTWARE_BIT,
    STI_BIT,
    TYPE_SHIFT,
    USER_CS_CHECKED,
    USER_ENTRY,
    USER_SS_CHECKED,
    VECTOR_SHIFT,
    EventType,
)
from kstack.x86.msrs import STAR_SYSCALL_SHIFT, STAR_SYSRET_SHIFT, Msr
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import (
    CODE,
    DATA,
    DESCRIPTOR_BYTES,
    DPL_SHIFT,
    USER_RING,
    Segment,
    SegmentAttribute,
    Selector,
    unpack_descriptor,
)
from kstack.x86.vectors import DB, DF, GP, NP, PF, SS, UD

_MASK32: Final = (1 << 32) - 1
_MASK64: Final = (1 << 64) - 1
_IF, _RF, _AC, _FIXED = int(Flags.IF), int(Flags.RF), int(Flags.AC), int(Flags.FIXED)
_STI_OPCODE: Final = b"\xfb"
_WITHOUT_RPL, _TI, _INDEX = int(Selector.WITHOUT_RPL), int(Selector.TI), int(Selector.INDEX)
_USER: Final = USER_RING << DPL_SHIFT
_CODE: Final = CODE | SegmentAttribute.G
_DATA: Final = DATA | SegmentAttribute.G | SegmentAttribute.B
_CODE_BIT, _WRITABLE_BIT = int(SegmentAttribute.CODE), int(SegmentAttribute.WRITABLE)
_LONG, _BIG = int(SegmentAttribute.L), int(SegmentAttribute.B)
_PRESENT, _S = int(SegmentAttribute.P), int(SegmentAttribute.S)


class Returned(NamedTuple):
    """What a return changes beyond registers: whether it unblocks NMIs, and whether an STI shadow is back."""

    unblocks_nmi: bool
    shadow: bool


class _Frame(NamedTuple):
    """What ERETS and ERETU pop."""

    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int


def event_type(event: Event, length: int) -> EventType:
    """The type of an event; `length` is that of the instruction that asked for it (bytes)."""
    if event.kind is EventKind.SOFTWARE:
        return {DB: EventType.INT1}.get(event.vector, EventType.INT3) if length == 1 else EventType.INT_N
    return _TYPES[event.kind]


_TYPES: Final = {
    EventKind.INTERRUPT: EventType.INTERRUPT,
    EventKind.NMI: EventType.NMI,
    EventKind.EXCEPTION: EventType.EXCEPTION,
    EventKind.SYSCALL: EventType.OTHER,
}


class Fred:
    """FRED on one CPU.

    Args:
        registers: the engine's.
        linear: memory as the CPU reads it.
        msrs: its MSRs, among them FRED's.
    """

    def __init__(self, registers: Registers, linear: LinearMemory, msrs: Msrs) -> None:
        self._registers = registers
        self._linear = linear
        self._msrs = msrs

    @property
    def enabled(self) -> bool:
        """Whether events are delivered by FRED: CR4.FRED in IA-32e mode."""
        registers = self._registers
        return bool(registers.cr[4] & Cr4.FRED) and registers.long_mode

    @property
    def level(self) -> int:
        """The current stack level, 0 to 3."""
        return self._msrs.read(Msr.FRED_CONFIG) & LEVEL

    def _set_level(self, level: int) -> None:
        self._msrs.write(Msr.FRED_CONFIG, self._msrs.read(Msr.FRED_CONFIG) & ~LEVEL | level)

    # --- delivery

    def deliver(self, event: Event, rip: int, rflags: int) -> None:
        """Deliver one event; nothing but memory below the new RSP has changed if it faults.

        Args:
            event: what is delivered.
            rip: RIP for the frame.
            rflags: RFLAGS for the frame.

        Raises:
            GuestFault: the frame cannot be pushed.
        """
        registers, gpr = self._registers, self._registers.gpr
        cpl = registers.cpl
        length = registers.rip - event.start & 0xF if event.kind in (EventKind.SOFTWARE, EventKind.SYSCALL) else 0
        kind = event_type(event, length)
        old_level = 0 if cpl else self.level
        level = max(old_level, self._event_level(event, kind, cpl))
        rsp = self._stack(level, cpl, old_level)
        words = [0, self._data(event), self._saved_ss(event, kind, length), gpr[Gpr.RSP], rflags]
        words += [registers.segment(Seg.CS).selector | old_level << LEVEL_SHIFT, rip, event.error or 0]
        if not (is_canonical(rsp - 1 & _MASK64) and is_canonical(rsp - FRAME_BYTES & _MASK64)):
            raise GuestFault(SS)
        self._linear.push(rsp, words)
        config = self._msrs.read(Msr.FRED_CONFIG)
        if cpl or registers.bits != 64:
            self._load_kernel_segments()
        if cpl:
            self._swap_gs()
        gpr[Gpr.RSP] = rsp - FRAME_BYTES & _MASK64
        registers.rip = (config & CONFIG_PAGE) + (USER_ENTRY if cpl else KERNEL_ENTRY)
        registers.rflags = _FIXED
        registers.shadow = False
        self._set_level(level)

    def _event_level(self, event: Event, kind: EventType, cpl: int) -> int:
        is_double_fault = event.vector == DF and kind is EventType.EXCEPTION
        if cpl and not event.nested and not is_double_fault:
            return 0
        if kind is EventType.INTERRUPT:
            return self._msrs.read(Msr.FRED_CONFIG) >> CONFIG_INTERRUPT_LEVEL_SHIFT & LEVEL
        if kind in (EventType.INT_N, EventType.OTHER):
            return 0
        return self._msrs.read(Msr.FRED_STKLVLS) >> 2 * event.vector & LEVEL

    def _stack(self, level: int, cpl: int, old_level: int) -> int:
        if cpl or level > old_level:
            return self._msrs.read(Msr.FRED_RSP0 + level)
        red_zone = self._msrs.read(Msr.FRED_CONFIG) & CONFIG_RED_ZONE
        return self._registers.gpr[Gpr.RSP] - red_zone & FRAME_ALIGNED & _MASK64

    def _data(self, event: Event) -> int:
        if event.kind is not EventKind.EXCEPTION:
            return 0
        return event.address or 0 if event.vector in (PF, DB) else 0

    def _saved_ss(self, event: Event, kind: EventType, length: int) -> int:
        registers = self._registers
        word = registers.segment(Seg.SS).selector | event.vector << VECTOR_SHIFT
        word |= kind << TYPE_SHIFT | length << LENGTH_SHIFT
        word |= STI_BIT if not length and self._follows_sti() else 0
        word |= SOFTWARE_BIT if kind in (EventType.INT_N, EventType.OTHER) else 0
        word |= NMI_BIT if kind is EventType.NMI else 0
        word |= LONG_BIT if registers.bits == 64 else 0
        return word | (NESTED_BIT if event.nested else 0)

    def _follows_sti(self) -> bool:
        """Whether the shadow that covers this instruction is an STI's (a MOV SS has another opcode)."""
        registers = self._registers
        if not registers.shadow:
            return False
        base = registers.segment(Seg.CS).base if registers.bits != 64 else 0
        return self._linear.code(base + registers.rip - 1 & _MASK64, 1) == _STI_OPCODE

    def _load_kernel_segments(self) -> None:
        selector = self._msrs.read(Msr.STAR) >> STAR_SYSCALL_SHIFT & _WITHOUT_RPL
        self._registers.set_segment(Seg.SS, Segment(selector + 8 & 0xFFFF, 0, _MASK32, _DATA))
        self._registers.set_segment(Seg.CS, Segment(selector, 0, _MASK32, _CODE | _LONG))

    def _swap_gs(self) -> None:
        outside = self._msrs.read(Msr.KERNEL_GS_BASE)
        self._msrs.write(Msr.KERNEL_GS_BASE, self._registers.segment(Seg.GS).base)
        self._registers.set_base(Seg.GS, outside)

    # --- returns

    def erets(self) -> Returned:
        """ERETS: return to ring 0, at this stack level or a lower one.

        Raises:
            GuestFault: #UD without FRED or outside ring 0, #GP(0) for a frame that is none, #PF.
        """
        registers = self._registers
        frame = self._pop()
        same_cs = frame.cs & ~EVENT_BITS == registers.segment(Seg.CS).selector
        same_ss = frame.ss & _MASK32 & ~EVENT_BITS == registers.segment(Seg.SS).selector
        if not (same_cs and same_ss):
            raise GuestFault(GP)
        level = min(self.level, frame.cs >> LEVEL_SHIFT & LEVEL)
        registers.rip = frame.rip
        registers.gpr[Gpr.RSP] = frame.rsp
        was_on = registers.interrupt_flag
        registers.rflags = frame.rflags & ~_RF
        self._set_level(level)
        shadow = bool(frame.ss & STI_BIT and frame.rflags & _IF and not was_on)
        return Returned(bool(frame.ss & NMI_BIT), shadow)

    def eretu(self) -> Returned:
        """ERETU: return to ring 3.

        Raises:
            GuestFault: as ERETS; #GP(0) at a stack level above 0; #GP, #NP or #SS for bad selectors.
        """
        registers = self._registers
        frame = self._pop()
        if self.level or frame.cs & USER_CS_CHECKED != USER_RING or frame.ss & USER_SS_CHECKED != USER_RING:
            raise GuestFault(GP)
        code, stack = self._user_segments(frame.cs & 0xFFFF, frame.ss & 0xFFFF)
        wide = bool(code.flags & _LONG)
        registers.set_segment(Seg.CS, code)
        registers.set_segment(Seg.SS, stack)
        registers.rip = frame.rip if wide else frame.rip & _MASK32
        registers.gpr[Gpr.RSP] = frame.rsp if wide else frame.rsp & _MASK32
        registers.rflags = frame.rflags & ~_RF
        self._swap_gs()
        return Returned(bool(frame.ss & NMI_BIT), False)

    def _pop(self) -> _Frame:
        registers = self._registers
        if not self.enabled or registers.bits != 64 or registers.cpl:
            raise GuestFault(UD, None)
        start = registers.gpr[Gpr.RSP] + 8
        if not (is_canonical(start & _MASK64) and is_canonical(start + 39 & _MASK64)):
            raise GuestFault(SS)
        smap = not registers.rflags & _AC
        frame = _Frame._make(self._linear.read(start + 8 * n & _MASK64, 8, smap=smap) for n in range(5))
        if not is_canonical(frame.rip) or frame.rflags & RFLAGS_CHECKED != _FIXED:
            raise GuestFault(GP)
        return frame

    def _user_segments(self, cs: int, ss: int) -> tuple[Segment, Segment]:
        """CS and SS for ring 3: flat where the selectors are STAR's, else from the descriptor tables."""
        base = self._msrs.read(Msr.STAR) >> STAR_SYSRET_SHIFT
        if ss == base + 8 | USER_RING and cs in (base | USER_RING, base + 16 | USER_RING):
            mode = _BIG if cs == base | USER_RING else _LONG
            return Segment(cs, 0, _MASK32, _CODE | mode | _USER), Segment(ss, 0, _MASK32, _DATA | _USER)
        code = self._descriptor(cs)
        conforming = code.flags & SegmentAttribute.CONFORMING
        if (
            not code.flags & _CODE_BIT
            or (not conforming and code.dpl != USER_RING)
            or (code.flags & _LONG and code.flags & _BIG)
        ):
            raise GuestFault(GP, cs & _WITHOUT_RPL)
        if not code.flags & _PRESENT:
            raise GuestFault(NP, cs & _WITHOUT_RPL)
        if not ss & _WITHOUT_RPL and code.flags & _LONG:
            return code, Segment(ss, 0, 0, _USER)
        stack = self._descriptor(ss)
        if stack.flags & _CODE_BIT or not stack.flags & _WRITABLE_BIT or stack.dpl != USER_RING:
            raise GuestFault(GP, ss & _WITHOUT_RPL)
        if not stack.flags & _PRESENT:
            raise GuestFault(SS, ss & _WITHOUT_RPL)
        return code._replace(flags=code.flags | _USER), stack

    def _descriptor(self, selector: int) -> Segment:
        table = self._registers.segment(Seg.LDTR if selector & _TI else Seg.GDTR)
        if not selector & _WITHOUT_RPL:
            raise GuestFault(GP)
        at = selector & _INDEX
        if at + DESCRIPTOR_BYTES - 1 > table.limit:
            raise GuestFault(GP, selector & _WITHOUT_RPL)
        segment = unpack_descriptor(selector, self._linear.read(table.base + at, DESCRIPTOR_BYTES))
        if not segment.flags & _S:
            raise GuestFault(GP, selector & _WITHOUT_RPL)
        return segment

    def check_iret(self, instruction: Instruction) -> None:
        """Whether an IRET may go on: with FRED it cannot change ring.

        Raises:
            GuestFault: #GP(selector) if it would, #PF if its frame cannot be read.
        """
        registers = self._registers
        width = {"iretq": 8, "iretd": 4}.get(instruction.name, 2)
        at = registers.gpr[Gpr.RSP] + width
        if registers.bits != 64:
            at = (at & _MASK32) + registers.segment(Seg.SS).base & _MASK32
        if not is_canonical(at & _MASK64):
            raise GuestFault(SS)
        user = registers.cpl == USER_RING
        selector = self._linear.read(at & _MASK64, 2, user=user, smap=not registers.rflags & _AC)
        if selector & Selector.RPL != registers.cpl:
            raise GuestFault(GP, selector & _WITHOUT_RPL)
