"""Every device passes one conformance suite."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

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

Access = tuple[bool, int, int, int, int]


def accesses(seed: int, ports: int, count: int, sizes: tuple[int, ...]) -> Iterator[Access]:
    """Accesses a guest might make, and time that passes between them."""
    chance = random.Random(seed)
    step = 16 if ports > 256 else 1
    for _ in range(count):
        offset = chance.randrange(ports) // step * step + chance.choice((0, 0, 0, step // 4))
        size = chance.choice(sizes)
        value = chance.getrandbits(8 * size) >> chance.choice((0, 0, 8 * size - 8))
        yield chance.random() < 0.6, offset, size, value, chance.randrange(5000)


def drive(device: Device, clock: Clock, script: list[Access]) -> list[int]:
    """What the reads of `script` gave."""
    values = []
    for is_write, offset, size, value, passed in script:
        clock.now += passed
        if is_write:
            device.write(offset, size, value)
        else:
            values.append(device.read(offset, size))
            assert 0 <= values[-1] < 1 << 8 * size, f"{offset:#x} size {size}"
    return values


@pytest.fixture(params=DEVICES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_device_has_a_label(kind: str) -> None:
    make, _ = DEVICES[kind]
    assert make(Clock()).label


@pytest.mark.parametrize("seed", range(5))
def test_a_restored_device_goes_on_as_the_first_did(kind: str, seed: int) -> None:
    make, ports = DEVICES[kind]
    clock = Clock()
    device = make(clock)
    drive(device, clock, list(accesses(seed, ports, 200, (1, 2, 4))))
    saved, then = device.snapshot(), clock.now
    rest = list(accesses(seed + 100, ports, 200, (1, 2, 4)))
    values, end = drive(device, clock, rest), device.snapshot()

    for again in (device, make(clock)):
        clock.now = then
        again.restore(saved)
        assert again.snapshot() == saved
        if kind != "speaker" or again is device:  # a gate is part of the timer, not of port 61H
            assert drive(again, clock, rest) == values
            assert again.snapshot() == end


def test_a_snapshot_is_immutable_and_survives_what_follows(kind: str) -> None:
    make, ports = DEVICES[kind]
    clock = Clock()
    device = make(clock)
    saved = device.snapshot()
    text, key = repr(saved), hash(saved)
    drive(device, clock, list(accesses(1, ports, 300, (1, 2, 4))))
    assert (repr(saved), hash(saved)) == (text, key)


def test_reading_the_state_does_not_change_it(kind: str) -> None:
    make, ports = DEVICES[kind]
    clock = Clock()
    device = make(clock)
    drive(device, clock, list(accesses(2, ports, 300, (1, 2, 4))))
    assert device.snapshot() == device.snapshot()


@pytest.mark.parametrize("seed", range(5))
def test_odd_sizes_and_offsets_never_raise_or_leave_the_range(kind: str, seed: int) -> None:
    make, ports = DEVICES[kind]
    clock = Clock()
    device = make(clock)
    chance = random.Random(seed)
    for _ in range(1000):
        offset, size = chance.randrange(ports + 16), chance.choice((1, 2, 3, 4, 5, 7, 8))
        drive(device, clock, [(chance.random() < 0.5, offset, size, chance.getrandbits(8 * size), 7)])


def test_two_devices_of_a_kind_never_influence_each_other(kind: str) -> None:
    make, ports = DEVICES[kind]
    clock = Clock()
    other = make(clock)
    before = other.snapshot()
    drive(make(clock), clock, list(accesses(3, ports, 300, (1, 2, 4))))
    assert other.snapshot() == before
