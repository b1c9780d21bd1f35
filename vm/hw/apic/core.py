"""What a local APIC does: holds its CPU's interrupts, sends, counts (SDM volume 3A, chapter 10).

How guests reach it, by the xAPIC page and the x2APIC MSRs, is in `apic.py`. An APIC never touches
another: what it sends goes to an `ApicBus`, and the machine calls `accept` on the receiver when it
chooses. NMI, INIT and SIPI never enter an APIC here; they go from the bus to the CPU.

Not modelled: TSC-deadline mode (its LVT bit is dropped without #GP and reads 0), LVT CMCI,
thermal and performance sources, LINT pins other than the 8259's INTR (`passes_pic`), EOI messages
to an I/O APIC, delivery status (the bus takes a message at once), logical destinations between
APICs in different modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kstack.hw.apic.ipi import Command, Destination
from kstack.hw.apic.registers import (
    BANK_STEP,
    BASE_RESET,
    DFR_FLAT,
    ILLEGAL_MODE_CHANGES,
    LVT,
    PRIORITY_CLASS,
    WORD,
    ApicMode,
    Base,
    DeliveryMode,
    Error,
    Lvt,
    Reg,
    Svr,
)
from kstack.hw.apic.timer import ApicTimer, TimerState
from kstack.hw.rules import ALL, Rule
from kstack.x86.addresses import PHYSICAL_BITS
from kstack.x86.vectors import FIRST_LEGAL

# Plain integers for what is asked at every slice: an operation on an enum.IntFlag costs a microsecond.
_EN, _EXTD, _ADDRESS, _ENABLE = int(Base.EN), int(Base.EXTD), int(Base.ADDRESS), int(Svr.ENABLE)
_MASKED, _PERIODIC, _DELIVERY_MODE = int(Lvt.MASKED), int(Lvt.PERIODIC), int(Lvt.DELIVERY_MODE)
_TIMER = 0
_LINT0 = (Reg.LVT_LINT0 - Reg.LVT_TIMER) // BANK_STEP


class ApicBus(Protocol):
    """What carries messages between local APICs, when it sees fit."""

    @property
    def apics(self) -> Sequence[Destination]:
        """Every local APIC, to match destinations against."""
        ...

    def send(self, source: int, destinations: tuple[int, ...], mode: DeliveryMode, vector: int) -> None:
        """Take a message for the APICs with these ids; `mode` is FIXED, NMI, INIT or STARTUP."""
        ...


class ApicCore:
    """A local APIC without its registers' addresses.

    `clock` gives virtual time in instructions; `rules` is less than `ALL` only in tests.
    """

    def __init__(
        self,
        apic_id: int,
        bus: ApicBus,
        clock: Callable[[], int],
        rules: frozenset[Rule] = ALL,
        boot_cpu: bool = False,
    ) -> None:
        self.label = f"apic{apic_id}"
        self.apic_id = apic_id
        self._bus = bus
        self._clock = clock
        self._rules = rules
        self._base = BASE_RESET | (Base.BSP if boot_cpu else 0)
        self._timer = ApicTimer()
        self.reset()

    def reset(self) -> None:
        """The state after INIT (10.4.7.1, 10.4.7.3, 10.12.5.1); IA32_APIC_BASE and id are kept."""
        self.tpr = 0
        self._ldr = 0
        self._dfr = WORD
        self._svr = int(Svr.VECTOR)
        self._isr = self._tmr = self._irr = 0  # bit n is vector n
        self._surplus: tuple[int, ...] = ()  # only without TWO_PER_VECTOR
        self._errors = self._esr = 0  # gathered since the last write of ESR; what ESR reads
        self._icr = 0
        self._lvt: tuple[int, ...] = (int(Lvt.MASKED),) * len(LVT)
        self._timer.restore(TimerState(0, 0, None))

    # Mode

    @property
    def base_msr(self) -> int:
        """IA32_APIC_BASE (1BH)."""
        return self._base

    def set_base_msr(self, value: int) -> bool:
        """WRMSR to IA32_APIC_BASE; False is #GP(0): reserved bits, illegal change (10.12.5)."""
        if value & ~(Base.BSP | Base.EXTD | Base.EN | Base.ADDRESS) or value >> PHYSICAL_BITS:
            return False
        if value & Base.EXTD and not value & Base.EN:
            return False
        old, new = self.mode, _mode_of(value)
        if (old, new) in ILLEGAL_MODE_CHANGES:
            return False
        self._base = value
        if new is ApicMode.DISABLED:
            self.reset()  # 10.4.3: enabled again, it is as after power-up
        elif old is not new:
            self._icr &= WORD  # 10.12.5.1: the high half does not survive
        return True

    @property
    def mode(self) -> ApicMode:
        """Disabled, xAPIC or x2APIC."""
        return _mode_of(self._base)

    @property
    def mmio_enabled(self) -> bool:
        """Whether the register page at `mmio_base` is decoded."""
        return self.mode is ApicMode.XAPIC

    @property
    def mmio_base(self) -> int:
        """Physical address of the register page."""
        return self._base & _ADDRESS

    @property
    def present(self) -> bool:
        """Whether messages reach it at all (10.4.3)."""
        return self.mode is not ApicMode.DISABLED

    @property
    def software_enabled(self) -> bool:
        """SVR bit 8 (10.4.7.2)."""
        return bool(self._base & _EN and self._svr & _ENABLE)

    @property
    def passes_pic(self) -> bool:
        """Whether the 8259's INTR reaches the CPU: no APIC, or LINT0 unmasked as ExtINT."""
        lint0 = self._lvt[_LINT0]
        extint = (lint0 & _DELIVERY_MODE) >> 8 == DeliveryMode.EXTINT
        return not self._base & _EN or (extint and not lint0 & _MASKED)

    def virtual_wire(self) -> None:
        """What firmware leaves on the boot CPU: enabled, LINT0 ExtINT, LINT1 NMI (10.1)."""
        self._svr |= Svr.ENABLE
        self._set_entry(Reg.LVT_LINT0, DeliveryMode.EXTINT << 8)
        self._set_entry(Reg.LVT_LINT1, DeliveryMode.NMI << 8)

    # Interrupts

    def accept(self, vector: int, level: bool = False) -> None:
        """Take a fixed interrupt into IRR (10.8.4); dropped while software-disabled."""
        if vector < FIRST_LEGAL:
            self._error(Error.RECEIVE_ILLEGAL_VECTOR)
            return
        if not self.software_enabled:
            return
        bit = 1 << vector
        if self._irr & bit and Rule.TWO_PER_VECTOR not in self._rules:
            self._surplus += (vector,)
        self._irr |= bit
        self._tmr = self._tmr | bit if level else self._tmr & ~bit

    @property
    def ppr(self) -> int:
        """The processor priority (10.8.3.1)."""
        in_service = _highest(self._isr) & PRIORITY_CLASS if self._isr else 0
        return self.tpr if self.tpr & PRIORITY_CLASS >= in_service else in_service

    def pending(self) -> int | None:
        """The vector the CPU would be given now if it took interrupts, else None."""
        if not self._irr or not self.software_enabled:
            return None
        vector = _highest(self._irr)
        if Rule.PRIORITY in self._rules and vector & PRIORITY_CLASS <= self.ppr & PRIORITY_CLASS:
            return None
        return vector

    def acknowledge(self) -> int:
        """The CPU takes the pending vector: IRR to ISR. The spurious vector if there is none."""
        vector = self.pending()
        if vector is None:
            return self._svr & Svr.VECTOR
        if vector in self._surplus:
            at = self._surplus.index(vector)
            self._surplus = self._surplus[:at] + self._surplus[at + 1 :]
        else:
            self._irr &= ~(1 << vector)
        self._isr |= 1 << vector
        return vector

    def withdraw(self, vector: int) -> bool:
        """Undo `acknowledge`: the CPU could not deliver the vector, which waits in IRR again.

        Returns whether the vector was in service here (else it came from the 8259s).
        """
        if not self._isr >> vector & 1:
            return False
        self._isr &= ~(1 << vector)
        self._irr |= 1 << vector
        return True

    def eoi(self) -> None:
        """End of interrupt: the highest vector in service is done (10.8.5)."""
        if self._isr and Rule.EOI_HIGHEST in self._rules:
            self._isr ^= 1 << _highest(self._isr)
        elif self._isr:
            self._isr &= self._isr - 1

    def answers_logical(self, destination: int) -> bool:
        """Whether a logical destination names this APIC (10.6.2.2, 10.12.10.2)."""
        if self.mode is ApicMode.X2APIC:
            ours = self._logical_id()
            return destination >> 16 == ours >> 16 and bool(destination & ours & 0xFFFF)
        ours = self._ldr >> 24
        if self._dfr >> 28 == DFR_FLAT:
            return bool(destination & ours)
        return destination >> 4 in (ours >> 4, 0xF) and bool(destination & ours & 0xF)

    def _logical_id(self) -> int:
        if self.mode is ApicMode.X2APIC:
            return ((self.apic_id >> 4) << 16 | 1 << (self.apic_id & 0xF)) & WORD
        return self._ldr

    def _send(self) -> None:
        command = Command.decode(self._icr, self.mode is ApicMode.X2APIC)
        if command.ignored:
            return
        if command.carries_vector and command.vector < FIRST_LEGAL:
            self._error(Error.SEND_ILLEGAL_VECTOR)
            return
        targets = command.targets(self.apic_id, self._bus.apics)
        mode = DeliveryMode.FIXED if command.carries_vector else command.mode
        if targets:
            self._bus.send(self.apic_id, targets, mode, command.vector)

    def _self_ipi(self, vector: int) -> None:
        if Rule.SELF_IPI in self._rules:
            self.accept(vector)
        else:
            self._bus.send(self.apic_id, (self.apic_id,), DeliveryMode.FIXED, vector)

    def _error(self, error: Error) -> None:
        """Record an error; the first since ESR was last written raises LVT error (10.5.3)."""
        armed = not self._errors
        self._errors |= error
        if armed:
            self._raise_local(Reg.LVT_ERROR)

    # Local vector table and timer

    def _entry(self, register: int) -> int:
        return self._lvt[(register - Reg.LVT_TIMER) // BANK_STEP]

    def _set_entry(self, register: int, value: int) -> None:
        at = (register - Reg.LVT_TIMER) // BANK_STEP
        if not self._svr & Svr.ENABLE:
            value |= Lvt.MASKED  # 10.4.7.2: mask bits cannot be cleared
        self._lvt = (*self._lvt[:at], value, *self._lvt[at + 1 :])

    def _raise_local(self, register: int) -> None:
        entry = self._entry(register)
        if not entry & Lvt.MASKED:
            self.accept(entry & Lvt.VECTOR)

    @property
    def _periodic(self) -> bool:
        return bool(self._lvt[_TIMER] & _PERIODIC)

    def next_deadline(self) -> int | None:
        """The virtual time (instructions) at which the timer interrupts next, if it will."""
        return None if self._lvt[_TIMER] & _MASKED else self._timer.deadline

    def advance(self, now: int) -> None:
        """Let the timer act for the time up to and with `now` (instructions)."""
        deadline = self._timer.deadline
        if deadline is not None and now >= deadline and self._timer.expire(now, self._periodic):
            self._raise_local(Reg.LVT_TIMER)


def _mode_of(base: int) -> ApicMode:
    if not base & _EN:
        return ApicMode.DISABLED
    return ApicMode.X2APIC if base & _EXTD else ApicMode.XAPIC


def _highest(bits: int) -> int:
    """The number of the highest bit set; `bits` is not 0."""
    return bits.bit_length() - 1
