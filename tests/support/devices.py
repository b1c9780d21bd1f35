"""Every device, ready to be driven, with a clock that a test moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kstack.hw.apic.apic import DeliveryMode, LocalApic
from kstack.hw.apic.registers import Reg, Svr
from kstack.hw.devices.cmos import CMOS_PORTS, Cmos
from kstack.hw.devices.debug_exit import DEBUG_EXIT_PORTS, DebugExit
from kstack.hw.devices.device import Device
from kstack.hw.devices.fw_cfg import FWCFG_PORTS, FwCfg
from kstack.hw.devices.pic import PIC_PORTS, PicPair
from kstack.hw.devices.pit import PIT_PORTS, Pit, SpeakerPort
from kstack.hw.devices.serial import UART_PORTS, Uart


@dataclass
class Clock:
    """Virtual time that a test moves."""

    now: int = 0

    def __call__(self) -> int:
        return self.now


@dataclass
class Nowhere:
    """An APIC bus that loses everything."""

    apics: list[LocalApic] = field(default_factory=list)

    def send(self, source: int, destinations: tuple[int, ...], mode: DeliveryMode, vector: int) -> None: ...


def silent(data: bytes) -> None: ...


def make_apic(clock: Clock) -> LocalApic:
    bus = Nowhere()
    bus.apics.append(LocalApic(0, bus, clock))
    bus.apics[0].write(Reg.SVR, 4, Svr.ENABLE | Svr.VECTOR)
    return bus.apics[0]


def make_uart(clock: Clock) -> Uart:
    uart = Uart(silent)
    uart.feed(bytes(range(200)))
    return uart


def make_pics(clock: Clock) -> PicPair:
    pair = PicPair()
    pair.raise_irq(1)
    pair.raise_irq(9)
    return pair


def make_pit(clock: Clock) -> Pit:
    return Pit(clock, lambda: None)


def make_speaker(clock: Clock) -> SpeakerPort:
    return SpeakerPort(make_pit(clock))


DEVICES: dict[str, tuple[Callable[[Clock], Device], int]] = {
    "apic": (make_apic, 0x1000),
    "uart": (make_uart, UART_PORTS),
    "pic-master": (lambda clock: make_pics(clock).master, PIC_PORTS),
    "pic-slave": (lambda clock: make_pics(clock).slave, PIC_PORTS),
    "pit": (make_pit, PIT_PORTS),
    "speaker": (make_speaker, 1),
    "fw_cfg": (lambda clock: FwCfg(4), FWCFG_PORTS),
    "debug-exit": (lambda clock: DebugExit(), DEBUG_EXIT_PORTS),
    "cmos": (lambda clock: Cmos(64 << 20), CMOS_PORTS),
}
