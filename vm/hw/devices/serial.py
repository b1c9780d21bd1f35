"""A 16550 serial port (National PC16550D data sheet; no SDM section). On a PC COM1 is 3F8H, IRQ 4.

What the guest sends is gone at once: the transmitter is always empty, and its interrupt comes
after each byte and whenever IER enables it. Received bytes wait here without bound.

Not modelled: baud rate, framing, breaks and errors of the line; the receive trigger level (any
byte interrupts) and the character timeout; FIFO overrun; modem lines but in loopback.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

COM1_PORT: Final = 0x3F8
UART_PORTS: Final = 8


class _Reg(enum.IntEnum):
    DATA = 0  # RBR, THR; with DLAB the divisor's low byte
    IER = 1  # with DLAB the divisor's high byte
    IIR_FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier(enum.IntEnum):
    """Interrupt enable register."""

    RECEIVED = 1 << 0
    THR_EMPTY = 1 << 1
    LINE = 1 << 2
    MODEM = 1 << 3
    ALL = 0xF


class Iir(enum.IntEnum):
    """Interrupt identification register."""

    MODEM = 0x0
    NONE = 0x1
    THR_EMPTY = 0x2
    RECEIVED = 0x4
    FIFOS = 0xC0


class _Fcr(enum.IntEnum):
    ENABLE = 1 << 0
    CLEAR_RECEIVER = 1 << 1


class Lcr(enum.IntEnum):
    """Line control register; the other bits mean nothing here."""

    DLAB = 1 << 7


class Mcr(enum.IntEnum):
    """Modem control register."""

    DTR = 1 << 0
    RTS = 1 << 1
    OUT1 = 1 << 2
    OUT2 = 1 << 3
    LOOP = 1 << 4
    ALL = 0x1F


class Lsr(enum.IntEnum):
    """Line status register."""

    DATA_READY = 1 << 0
    THR_EMPTY = 1 << 5
    TRANSMITTER_EMPTY = 1 << 6


class ModemStatus(enum.IntEnum):
    """Modem status register; the low half says what changed since it was read."""

    DELTA_RI = 1 << 2
    CTS = 1 << 4
    DSR = 1 << 5
    RI = 1 << 6
    DCD = 1 << 7
    LINES = 0xF0


_PEER_READY: Final = ModemStatus.CTS | ModemStatus.DSR | ModemStatus.DCD
_LOOPED: Final = (
    (Mcr.DTR, ModemStatus.DSR),
    (Mcr.RTS, ModemStatus.CTS),
    (Mcr.OUT1, ModemStatus.RI),
    (Mcr.OUT2, ModemStatus.DCD),
)


class SerialState(NamedTuple):
    """Registers, bytes that wait to be read, and everything sent."""

    ier: int
    lcr: int
    mcr: int
    scr: int
    divisor: int
    fifos: bool
    thr_interrupt: bool
    deltas: int
    received: bytes
    sent: bytes


class Uart:
    """A serial port. `output` gets each byte sent; `sent` keeps them all."""

    def __init__(self, output: Callable[[bytes], None], label: str = "serial") -> None:
        self.label = label
        self.sent = bytearray()
        self.output = output
        self._received: deque[int] = deque()
        self._ier = self._lcr = self._mcr = self._scr = 0
        self._divisor = 0
        self._fifos = False
        self._thr_interrupt = False
        self._deltas = 0

    def feed(self, data: bytes) -> None:
        """Let `data` arrive on the line; while looped back, the line is cut off."""
        if not self._mcr & Mcr.LOOP:
            self._received.extend(data)

    @property
    def irq(self) -> bool:
        """Whether the interrupt line is up; on a PC only OUT2 lets it through."""
        return bool(self._mcr & Mcr.OUT2) and self._cause() is not Iir.NONE

    def _cause(self) -> Iir:
        """The interrupt with the highest priority."""
        if self._ier & Ier.RECEIVED and self._received:
            return Iir.RECEIVED
        if self._ier & Ier.THR_EMPTY and self._thr_interrupt:
            return Iir.THR_EMPTY
        return Iir.MODEM if self._ier & Ier.MODEM and self._deltas else Iir.NONE

    def _lines(self) -> int:
        if not self._mcr & Mcr.LOOP:
            return _PEER_READY
        return sum(line for control, line in _LOOPED if self._mcr & control)

    def read(self, offset: int, size: int) -> int:
        """A register; wider accesses than a byte give its value and zeros."""
        match offset:
            case _Reg.DATA:
                if self._lcr & Lcr.DLAB:
                    return self._divisor & 0xFF
                return self._received.popleft() if self._received else 0
            case _Reg.IER:
                return self._divisor >> 8 if self._lcr & Lcr.DLAB else self._ier
            case _Reg.IIR_FCR:
                return self._read_iir()
            case _Reg.LCR:
                return self._lcr
            case _Reg.MCR:
                return self._mcr
            case _Reg.LSR:
                ready = Lsr.DATA_READY if self._received else 0
                return Lsr.THR_EMPTY | Lsr.TRANSMITTER_EMPTY | ready
            case _Reg.MSR:
                deltas, self._deltas = self._deltas, 0
                return self._lines() | deltas
            case _Reg.SCR:
                return self._scr
        return 0xFF

    def _read_iir(self) -> int:
        cause = self._cause()
        if cause is Iir.THR_EMPTY:
            self._thr_interrupt = False
        return cause | (Iir.FIFOS if self._fifos else 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store the low byte of `value` in a register."""
        value &= 0xFF
        match offset:
            case _Reg.DATA if self._lcr & Lcr.DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            case _Reg.DATA:
                self._transmit(value)
            case _Reg.IER if self._lcr & Lcr.DLAB:
                self._divisor = self._divisor & 0xFF | value << 8
            case _Reg.IER:
                if value & ~self._ier & Ier.THR_EMPTY:
                    self._thr_interrupt = True
                self._ier = value & Ier.ALL
            case _Reg.IIR_FCR:
                self._write_fcr(value)
            case _Reg.LCR:
                self._lcr = value
            case _Reg.MCR:
                self._write_mcr(value & Mcr.ALL)
            case _Reg.SCR:
                self._scr = value

    def _transmit(self, byte: int) -> None:
        self._thr_interrupt = True
        if self._mcr & Mcr.LOOP:
            self._received.append(byte)
        else:
            self.sent.append(byte)
            self.output(bytes([byte]))

    def _write_fcr(self, value: int) -> None:
        fifos = bool(value & _Fcr.ENABLE)
        if value & _Fcr.CLEAR_RECEIVER or fifos != self._fifos:
            self._received.clear()
        self._fifos = fifos

    def _write_mcr(self, value: int) -> None:
        before = self._lines()
        self._mcr = value
        deltas = (before ^ self._lines()) >> 4
        if self._lines() & ModemStatus.RI:
            deltas &= ~ModemStatus.DELTA_RI  # only the trailing edge of RI counts
        self._deltas |= deltas

    def snapshot(self) -> SerialState:
        """Registers, bytes that wait to be read, and everything sent."""
        return SerialState(
            self._ier,
            self._lcr,
            self._mcr,
            self._scr,
            self._divisor,
            self._fifos,
            self._thr_interrupt,
            self._deltas,
            bytes(self._received),
            bytes(self.sent),
        )

    def restore(self, state: SerialState) -> None:
        """Become what `snapshot` returned; `output` is told nothing."""
        self._ier, self._lcr, self._mcr, self._scr = state.ier, state.lcr, state.mcr, state.scr
        self._divisor, self._fifos = state.divisor, state.fifos
        self._thr_interrupt, self._deltas = state.thr_interrupt, state.deltas
        self._received = deque(state.received)
        self.sent = bytearray(state.sent)
