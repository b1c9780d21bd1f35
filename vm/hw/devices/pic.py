"""Two 8259A interrupt controllers as in a PC (Intel 8259A data sheet; SDM volume 3A, 6.3.1).

The second one's output is the first one's input 2. Inputs are edge triggered: a rising edge is
remembered until it is acknowledged, even if the line falls before.

Not modelled: level triggering and the ELCR ports, MCS-80 mode, buffered mode, cascading by ICW3
(line 2 always carries the second chip).
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

PIC_PORTS: Final = 2
MASTER_PORT: Final = 0x20
SLAVE_PORT: Final = 0xA0

_LINES: Final = 8
_CASCADE: Final = 2
_SPURIOUS: Final = 7


class _Icw1(enum.IntEnum):
    NEEDS_ICW4 = 1 << 0
    SINGLE = 1 << 1
    INIT = 1 << 4


class _Icw4(enum.IntEnum):
    AUTO_EOI = 1 << 1
    FULLY_NESTED = 1 << 4  # special fully nested mode


class _Ocw2(enum.IntEnum):
    LINE = 7
    EOI = 1 << 5
    SPECIFIC = 1 << 6
    ROTATE = 1 << 7


class _Ocw3(enum.IntEnum):
    READ_ISR = 1 << 0
    READ = 1 << 1
    POLL = 1 << 2
    OCW3 = 1 << 3
    SPECIAL_MASK = 1 << 5
    SET_SPECIAL_MASK = 1 << 6


class _Step(enum.IntEnum):
    """Which initialisation word the data port takes next."""

    READY = 0
    ICW2 = 2
    ICW3 = 3
    ICW4 = 4


class PicState(NamedTuple):
    """Registers and modes of one chip."""

    base: int
    imr: int
    latched: int
    isr: int
    lines: int
    lowest: int
    icw1: int
    step: int
    auto_eoi: bool
    fully_nested: bool
    read_isr: bool
    poll: bool
    special_mask: bool
    rotate_on_auto_eoi: bool


class Pic8259:
    """One chip: command port at offset 0, data port at 1. `cascaded` drives its line 2."""

    def __init__(self, label: str, cascaded: Pic8259 | None = None) -> None:
        self.label = label
        self._cascaded = cascaded
        self.base = 0  # vector of line 0
        self.imr = 0
        self._lines = 0
        self._auto_eoi = self._fully_nested = False
        self._clear(0)

    def _clear(self, icw1: int) -> None:
        """What ICW1 does."""
        self._latched = self.isr = self.imr = 0
        self._lowest = _LINES - 1  # the line with the lowest priority; the next one is highest
        self._read_isr = self._poll = self._special_mask = False
        self._rotate_on_auto_eoi = False
        self._icw1 = icw1
        self._step = _Step.ICW2 if icw1 else _Step.READY

    def set_line(self, line: int, up: bool) -> None:
        """Drive an input; a rising edge requests an interrupt."""
        bit = 1 << line
        if up and not self._lines & bit:
            self._latched |= bit
        self._lines = self._lines | bit if up else self._lines & ~bit

    @property
    def irr(self) -> int:
        """Interrupt requests: edges remembered, and the other chip's output as a level."""
        if self._cascaded is None or self._cascaded.request() is None:
            return self._latched
        return self._latched | 1 << _CASCADE

    def request(self) -> int | None:
        """The line that is asking for service above what is in service, if any."""
        asking = self.irr & ~self.imr
        busy = self.isr & ~self.imr if self._special_mask else self.isr
        for step in range(1, _LINES + 1):
            line = (self._lowest + step) % _LINES
            nested = self._fully_nested and line == _CASCADE
            if busy >> line & 1 and not nested:
                return None
            if asking >> line & 1:
                return line
            if busy >> line & 1:
                return None
        return None

    def take(self) -> int:
        """Acknowledge: the line now in service, or the spurious line 7."""
        line = self.request()
        if line is None:
            return _SPURIOUS
        self._latched &= ~(1 << line)
        if not self._auto_eoi:
            self.isr |= 1 << line
        elif self._rotate_on_auto_eoi:
            self._lowest = line
        return line

    def give_back(self, line: int) -> None:
        """Undo `take`: the line's edge is remembered again."""
        self.isr &= ~(1 << line)
        self._latched |= 1 << line

    def read(self, offset: int, size: int) -> int:
        """IMR from the data port; IRR, ISR or a poll's answer from the command port."""
        if self._poll:
            self._poll = False
            return 0 if self.request() is None else 0x80 | self.take()
        if offset == 0:
            return self.isr if self._read_isr else self.irr
        return self.imr if offset == 1 else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Command and data words, by the data sheet's ICW and OCW numbers."""
        value &= 0xFF
        if offset == 1:
            self._write_data(value)
        elif offset == 0 and value & _Icw1.INIT:
            self._clear(value)
            self._auto_eoi = self._fully_nested = False
        elif offset == 0 and value & _Ocw3.OCW3:
            self._write_ocw3(value)
        elif offset == 0:
            self._write_ocw2(value)

    def _write_data(self, value: int) -> None:
        last = _Step.ICW4 if self._icw1 & _Icw1.NEEDS_ICW4 else _Step.READY
        match self._step:
            case _Step.ICW2:
                self.base = value & ~(_LINES - 1)
                self._step = last if self._icw1 & _Icw1.SINGLE else _Step.ICW3
            case _Step.ICW3:
                self._step = last
            case _Step.ICW4:
                self._auto_eoi = bool(value & _Icw4.AUTO_EOI)
                self._fully_nested = bool(value & _Icw4.FULLY_NESTED)
                self._step = _Step.READY
            case _Step.READY:
                self.imr = value

    def _write_ocw2(self, value: int) -> None:
        line = value & _Ocw2.LINE
        rotate = bool(value & _Ocw2.ROTATE)
        if not value & _Ocw2.EOI:
            if not value & _Ocw2.SPECIFIC:
                self._rotate_on_auto_eoi = rotate
            elif rotate:
                self._lowest = line
            return
        if not value & _Ocw2.SPECIFIC:
            highest = self._highest_in_service()
            if highest is None:
                return
            line = highest
        self.isr &= ~(1 << line)
        if rotate:
            self._lowest = line

    def _highest_in_service(self) -> int | None:
        busy = self.isr & ~self.imr if self._special_mask else self.isr
        order = ((self._lowest + step) % _LINES for step in range(1, _LINES + 1))
        return next((line for line in order if busy >> line & 1), None)

    def _write_ocw3(self, value: int) -> None:
        self._poll = bool(value & _Ocw3.POLL)
        if value & _Ocw3.READ:
            self._read_isr = bool(value & _Ocw3.READ_ISR)
        if value & _Ocw3.SET_SPECIAL_MASK:
            self._special_mask = bool(value & _Ocw3.SPECIAL_MASK)

    def snapshot(self) -> PicState:
        """Every register and mode."""
        return PicState(
            self.base,
            self.imr,
            self._latched,
            self.isr,
            self._lines,
            self._lowest,
            self._icw1,
            int(self._step),
            self._auto_eoi,
            self._fully_nested,
            self._read_isr,
            self._poll,
            self._special_mask,
            self._rotate_on_auto_eoi,
        )

    def restore(self, state: PicState) -> None:
        """Become what `snapshot` returned."""
        self.base, self.imr, self.isr = state.base, state.imr, state.isr
        self._latched, self._lines, self._lowest = state.latched, state.lines, state.lowest
        self._icw1, self._step = state.icw1, _Step(state.step)
        self._auto_eoi, self._fully_nested = state.auto_eoi, state.fully_nested
        self._read_isr, self._poll, self._special_mask = state.read_isr, state.poll, state.special_mask
        self._rotate_on_auto_eoi = state.rotate_on_auto_eoi


class PicPair:
    """Both chips; lines 0 to 7 are the master's, 8 to 15 the slave's. Map each as a device."""

    def __init__(self) -> None:
        self.slave = Pic8259("pic-slave")
        self.master = Pic8259("pic-master", cascaded=self.slave)

    def raise_irq(self, irq: int) -> None:
        """Raise line `irq`, 0 to 15."""
        self._drive(irq, True)

    def lower_irq(self, irq: int) -> None:
        """Lower line `irq`, 0 to 15."""
        self._drive(irq, False)

    def _drive(self, irq: int, up: bool) -> None:
        chip = self.slave if irq >= _LINES else self.master
        chip.set_line(irq % _LINES, up)

    def pulse_irq(self, irq: int) -> None:
        """A rising edge on line `irq`, whatever it was before."""
        self.lower_irq(irq)
        self.raise_irq(irq)

    def pending(self) -> int | None:
        """The vector that `acknowledge` would give now, if INTR is up."""
        line = self.master.request()
        slave = self.slave.request() if line == _CASCADE else None
        if slave is not None:
            return self.slave.base + slave
        return None if line is None else self.master.base + line

    def acknowledge(self) -> int:
        """The CPU's INTA cycles: the vector, now in service; line 7's when nothing asks."""
        line = self.master.take()
        if line != _CASCADE:
            return self.master.base + line
        return self.slave.base + self.slave.take()

    def withdraw(self, vector: int) -> None:
        """Undo `acknowledge`: the CPU could not deliver the vector, which is asked for again."""
        if vector & ~7 == self.master.base:
            self.master.give_back(vector & 7)
        elif vector & ~7 == self.slave.base:
            self.master.isr &= ~(1 << _CASCADE)
            self.slave.give_back(vector & 7)
