"""The serial port is a 16550A, as guests and Linux's driver know it."""

from __future__ import annotations

from kstack.hw.devices.serial import Ier, Iir, Lcr, Lsr, Mcr, ModemStatus, Uart
from tests.support.devices import silent


def test_what_is_sent_comes_out_at_once_and_is_kept() -> None:
    heard: list[bytes] = []
    uart = Uart(heard.append)
    for byte in b"hello":
        assert uart.read(5, 1) & Lsr.THR_EMPTY
        uart.write(0, 1, byte)
    assert b"".join(heard) == bytes(uart.sent) == b"hello"


def test_restoring_takes_back_what_was_sent_without_sending_again() -> None:
    heard: list[bytes] = []
    uart = Uart(heard.append)
    uart.write(0, 1, ord("a"))
    saved = uart.snapshot()
    uart.write(0, 1, ord("b"))
    uart.restore(saved)
    assert (bytes(uart.sent), heard) == (b"a", [b"a", b"b"])


def test_dlab_shows_the_divisor_and_sends_nothing() -> None:
    uart = Uart(silent)
    uart.write(3, 1, Lcr.DLAB)
    uart.write(0, 1, 0x0C)
    uart.write(1, 1, 0x01)
    assert (uart.read(0, 1), uart.read(1, 1), bytes(uart.sent)) == (0x0C, 0x01, b"")
    uart.write(3, 1, 3)
    assert uart.read(1, 1) == 0


def test_the_transmitter_interrupt_ends_when_iir_names_it() -> None:
    uart = Uart(silent)
    uart.write(4, 1, Mcr.OUT2)
    uart.write(1, 1, Ier.THR_EMPTY)
    assert uart.irq
    assert uart.read(2, 1) == Iir.THR_EMPTY
    assert not uart.irq
    uart.write(0, 1, 0)
    assert uart.irq


def test_the_receiver_interrupts_until_it_is_empty() -> None:
    uart = Uart(silent)
    uart.write(4, 1, Mcr.OUT2)
    uart.write(1, 1, Ier.RECEIVED | Ier.THR_EMPTY)
    uart.feed(b"ab")
    assert uart.read(2, 1) == Iir.RECEIVED, "before the transmitter's"
    assert [uart.read(0, 1), uart.read(0, 1)] == [*b"ab"]
    assert uart.read(2, 1) == Iir.THR_EMPTY
    assert not uart.irq


def test_out2_gates_the_interrupt_line() -> None:
    uart = Uart(silent)
    uart.write(1, 1, Ier.RECEIVED)
    uart.feed(b"x")
    assert not uart.irq
    uart.write(4, 1, Mcr.OUT2)
    assert uart.irq


def test_linux_finds_a_16550a() -> None:
    uart = Uart(silent)
    uart.write(1, 1, 0)
    assert uart.read(1, 1) & 0xF == 0
    uart.write(1, 1, 0xF)
    assert uart.read(1, 1) & 0xF == 0xF
    uart.write(4, 1, Mcr.LOOP | Mcr.OUT2 | Mcr.RTS)
    assert uart.read(6, 1) & ModemStatus.LINES == ModemStatus.DCD | ModemStatus.CTS
    uart.write(0, 1, 0x55)
    assert (uart.read(0, 1), bytes(uart.sent)) == (0x55, b"")
    uart.write(2, 1, 1)
    assert uart.read(2, 1) & Iir.FIFOS == Iir.FIFOS


def test_the_divisors_halves_are_written_apart() -> None:
    uart = Uart(silent)
    uart.write(3, 1, Lcr.DLAB)
    for offset, value in ((0, 0x0C), (1, 0x01), (0, 0x30), (1, 0x02)):
        uart.write(offset, 1, value)
    assert (uart.read(0, 1), uart.read(1, 1)) == (0x30, 0x02)


def test_a_change_of_the_modem_lines_interrupts_until_msr_is_read() -> None:
    uart = Uart(silent)
    uart.write(1, 1, Ier.MODEM)
    uart.write(4, 1, Mcr.LOOP | Mcr.OUT1 | Mcr.OUT2)
    assert uart.irq
    assert uart.read(2, 1) == Iir.MODEM
    assert uart.read(6, 1) == ModemStatus.DCD | ModemStatus.RI | 0b0011, "CTS and DSR fell, RI only rose"
    assert not uart.irq
    uart.write(4, 1, Mcr.LOOP | Mcr.OUT2)
    assert uart.read(6, 1) == ModemStatus.DCD | ModemStatus.DELTA_RI


def test_sources_that_are_not_enabled_do_not_interrupt() -> None:
    uart = Uart(silent)
    uart.write(4, 1, Mcr.OUT2)
    uart.write(0, 1, 0)
    uart.feed(b"x")
    assert not uart.irq
    uart.write(1, 1, Ier.LINE)
    assert not uart.irq
    assert uart.read(2, 1) == Iir.NONE


def test_the_receiver_is_cleared_by_command_and_when_the_fifos_change() -> None:
    uart = Uart(silent)
    for fcr, left in ((0, True), (1, False), (1, True), (3, False), (0, False)):
        uart.feed(b"x")
        uart.write(2, 1, fcr)
        assert bool(uart.read(5, 1) & Lsr.DATA_READY) is left


def test_what_arrives_while_looped_back_is_lost() -> None:
    uart = Uart(silent)
    uart.write(4, 1, Mcr.LOOP)
    uart.feed(b"x")
    assert not uart.read(5, 1) & Lsr.DATA_READY
