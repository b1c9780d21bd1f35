"""Every device passes one conformance suite."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from kstack.hw.devices.device import Device
from tests.support.devices import (
    DEVICES,
    Clock,
)

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
