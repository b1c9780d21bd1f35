"""The local APIC of one CPU, as guests reach it (SDM volume 3A, 10.4.1 and 10.12).

In xAPIC mode it is a page of 32-bit registers 16 bytes apart, in x2APIC mode MSRs 800H to 83FH
with stricter rules. What the registers do is in `core.py`, with most of what is not modelled.

Not modelled here: a writable xAPIC ID. The manual leaves open what accesses to the page do that
are not aligned 32-bit ones: reads give the register's bytes and zeros after them, writes are
ignored, but for 64-bit ones at a register, which store its 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from kstack.hw.apic.core import ApicBus, ApicCore
from kstack.hw.apic.registers import (
    BANK_BYTES,
    BANK_STEP,
    DFR_FIXED_ONES,
    LVT,
    NOT_IN_X2APIC,
    PRIORITY_CLASS,
    REGISTER_BYTES,
    VERSION,
    WORD,
    WRITE_ONLY,
    X2APIC_IGNORED,
    X2APIC_WRITABLE,
    XAPIC_WRITABLE,
    ApicMode,
    DeliveryMode,
    Error,
    Icr,
    Lvt,
    Reg,
    Svr,
)
from kstack.hw.apic.timer import TimerState
from kstack.hw.rules import Rule
from kstack.x86.addresses import PAGE
from kstack.x86.msrs import X2APIC_FIRST_MSR, X2APIC_LAST_MSR

__all__ = ["ApicBus", "ApicMode", "DeliveryMode", "LocalApic"]

_ICR_MSR = X2APIC_FIRST_MSR + (Reg.ICR_LOW >> 4)
_ICR_HIGH_MSR = X2APIC_FIRST_MSR + (Reg.ICR_HIGH >> 4)
_TIMED = frozenset({Reg.LVT_TIMER, Reg.INITIAL, Reg.DIVIDE, Reg.SVR})
_STATE = (
    "_base",
    "tpr",
    "_ldr",
    "_dfr",
    "_svr",
    "_isr",
    "_tmr",
    "_irr",
    "_surplus",
    "_errors",
    "_esr",
    "_icr",
    "_lvt",
)
_get_state = attrgetter(*_STATE)


class ApicState(NamedTuple):
    """The registers of a local APIC, and its timer's."""

    base: int
    tpr: int
    ldr: int
    dfr: int
    svr: int
    isr: int
    tmr: int
    irr: int
    surplus: tuple[int, ...]
    errors: int
    esr: int
    icr: int
    lvt: tuple[int, ...]
    timer: TimerState


class LocalApic(ApicCore):
    """One local APIC: a `Device` for its page, and its MSRs."""

    # The page

    def read(self, offset: int, size: int) -> int:
        """A load from the page. All ones where it is not decoded (`mmio_enabled`)."""
        mask = (1 << 8 * size) - 1
        if not self.mmio_enabled:
            return mask
        offset %= PAGE
        register = offset - offset % BANK_STEP
        value = self._read(register)
        if value is None:
            self._error(Error.ILLEGAL_REGISTER)
            return 0
        return value >> 8 * (offset - register) & mask

    def write(self, offset: int, size: int, value: int) -> None:
        """A store to the page; ignored where it is not decoded (`mmio_enabled`)."""
        offset %= PAGE
        if not self.mmio_enabled or offset % BANK_STEP or size < REGISTER_BYTES:
            return
        if offset in XAPIC_WRITABLE:
            self._write(offset, value & XAPIC_WRITABLE[offset])
        elif self._read(offset) is None:
            self._error(Error.ILLEGAL_REGISTER)

    # The MSRs

    def read_msr(self, msr: int) -> int | None:
        """RDMSR of 800H to 83FH; None is #GP(0)."""
        register = self._msr_register(msr)
        if register is None:
            return None
        if msr == _ICR_MSR:
            whole = Rule.X2APIC_ICR in self._rules
            return self._icr if whole else self._icr & WORD | Icr.STATUS
        if msr == _ICR_HIGH_MSR and Rule.X2APIC_ICR not in self._rules:
            return self._icr >> 32
        if register in NOT_IN_X2APIC or register in WRITE_ONLY:
            return None
        return self._read(register)

    def write_msr(self, msr: int, value: int) -> bool:
        """WRMSR of 800H to 83FH; False is #GP(0)."""
        register = self._msr_register(msr)
        if register is None:
            return False
        if msr == _ICR_MSR:
            return self._write_x2apic_icr(value)
        if msr == _ICR_HIGH_MSR and Rule.X2APIC_ICR not in self._rules:
            self._icr = self._icr & WORD | (value & WORD) << 32
            return True
        writable = X2APIC_WRITABLE.get(register)
        if writable is None or value & ~(writable | X2APIC_IGNORED.get(register, 0)):
            return False
        self._write(register, value & writable)
        return True

    def _msr_register(self, msr: int) -> int | None:
        if self.mode is not ApicMode.X2APIC or not X2APIC_FIRST_MSR <= msr <= X2APIC_LAST_MSR:
            return None
        return (msr - X2APIC_FIRST_MSR) << 4

    def _write_x2apic_icr(self, value: int) -> bool:
        if value & ~(Icr.WRITABLE | WORD << 32):
            return False
        self._icr = value
        self._send()
        return True

    # Registers, however they are reached

    def _read(self, register: int) -> int | None:
        """The value of a register that exists, else None."""
        banks = ((Reg.ISR, self._isr), (Reg.TMR, self._tmr), (Reg.IRR, self._irr))
        for bank, bits in banks:
            if bank <= register < bank + BANK_BYTES:
                return bits >> 32 * ((register - bank) // BANK_STEP) & WORD
        if register in LVT:
            return self._entry(register)
        reader = _READERS.get(register)
        return None if reader is None else reader(self)

    def _write(self, register: int, value: int) -> None:
        """Store `value`, of which only writable bits are set, in a writable register."""
        now = self._clock()
        if register in _TIMED:
            self.advance(now)
        match register:
            case Reg.TPR:
                self.tpr = value
            case Reg.EOI:
                self.eoi()
            case Reg.LDR:
                self._ldr = value
            case Reg.DFR:
                self._dfr = value | DFR_FIXED_ONES
            case Reg.SVR:
                self._write_svr(value)
            case Reg.ESR:
                self._esr, self._errors = self._errors, 0
            case Reg.ICR_LOW | Reg.ICR_HIGH:
                self._write_xapic_icr(register, value)
            case Reg.INITIAL:
                self._timer.start(value, now)
            case Reg.DIVIDE:
                self._timer.divide(value, now, self._periodic)
            case Reg.SELF_IPI:
                self._self_ipi(value)
            case _:
                self._set_entry(register, value)

    def _write_svr(self, value: int) -> None:
        self._svr = value
        if not value & Svr.ENABLE:  # 10.4.7.2: every entry is masked
            self._lvt = tuple(entry | Lvt.MASKED for entry in self._lvt)

    def _write_xapic_icr(self, register: int, value: int) -> None:
        if register == Reg.ICR_LOW:
            self._icr = self._icr & ~WORD | value
        else:
            self._icr = self._icr & WORD | value << 32
        if (register == Reg.ICR_LOW) == (Rule.ICR_LOW_SENDS in self._rules):
            self._send()

    def _id(self) -> int:
        return self.apic_id if self.mode is ApicMode.X2APIC else self.apic_id << 24 & WORD

    def _arbitration(self) -> int:
        """APR (10.8.3, figure 10-19), which only old families show."""
        waiting = self._irr.bit_length() - 1 & PRIORITY_CLASS if self._irr else 0
        return max(self.ppr, waiting)

    # State

    def snapshot(self) -> ApicState:
        """The whole state but for the id, which never changes."""
        return ApicState(*(*_get_state(self), self._timer.snapshot()))

    def restore(self, state: ApicState) -> None:
        """Become what `snapshot` returned."""
        for name, value in zip(_STATE, state[:-1], strict=True):
            setattr(self, name, value)
        self._timer.restore(state.timer)


_READERS: dict[int, Callable[[LocalApic], int]] = {
    Reg.ID: LocalApic._id,
    Reg.VERSION: lambda apic: VERSION,
    Reg.TPR: lambda apic: apic.tpr,
    Reg.APR: LocalApic._arbitration,
    Reg.PPR: lambda apic: apic.ppr,
    Reg.EOI: lambda apic: 0,
    Reg.RRD: lambda apic: 0,
    Reg.LDR: LocalApic._logical_id,
    Reg.DFR: lambda apic: apic._dfr,
    Reg.SVR: lambda apic: apic._svr,
    Reg.ESR: lambda apic: apic._esr,
    Reg.ICR_LOW: lambda apic: apic._icr & WORD,
    Reg.ICR_HIGH: lambda apic: apic._icr >> 32,
    Reg.INITIAL: lambda apic: apic._timer.initial,
    Reg.CURRENT: lambda apic: apic._timer.current(apic._clock(), apic._periodic),
    Reg.DIVIDE: lambda apic: apic._timer.configuration,
}
