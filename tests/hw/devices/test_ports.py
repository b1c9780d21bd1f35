"""Ports reach the device behind them whole or in bytes; the small devices answer as they should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstack.base.errors import ConfigError
from kstack.hw.devices.cmos import CMOS_PORT, CMOS_PORTS, Cmos, CmosRegister
from kstack.hw.devices.debug_exit import DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit
from kstack.hw.devices.fw_cfg import FWCFG_PORT, FWCFG_PORTS, FwCfg, Item
from kstack.hw.devices.ports import PortBus
from kstack.hw.devices.serial import COM1_PORT, UART_PORTS, Uart
from tests.support.devices import silent


def full_bus() -> PortBus:
    bus = PortBus()
    bus.map(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit())
    bus.map(COM1_PORT, UART_PORTS, Uart(silent))
    bus.map(CMOS_PORT, CMOS_PORTS, Cmos(64 << 20))
    bus.map(FWCFG_PORT, FWCFG_PORTS, FwCfg(4))
    return bus


@given(st.integers(0, 0xFFFF), st.sampled_from((1, 2, 4)), st.integers(0, 0xFFFF_FFFF))
def test_every_port_can_be_read_and_written(port: int, size: int, value: int) -> None:
    bus = full_bus()
    bus.write(port, size, value & (1 << 8 * size) - 1)
    assert 0 <= bus.read(port, size) < 1 << 8 * size


def test_nothing_behind_a_port_reads_as_all_ones() -> None:
    bus = PortBus()
    bus.write(0x1234, 2, 0)
    assert [bus.read(0x1234, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]


def test_an_overlap_names_both_devices() -> None:
    with pytest.raises(ConfigError, match=r"fw_cfg and serial both want port 0x3ff"):
        full_bus().map(COM1_PORT + 7, 2, FwCfg(1))


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (0xFFFF, 2), (0x80, 0)])
def test_a_range_outside_the_ports_is_refused(first: int, count: int) -> None:
    with pytest.raises(ConfigError, match="choose a range inside"):
        PortBus().map(first, count, FwCfg(1))


def test_a_wide_access_to_a_byte_device_becomes_bytes() -> None:
    bus = full_bus()
    bus.write(CMOS_PORT, 2, 0x5A << 8 | 0x40)
    assert bus.read(CMOS_PORT + 1, 1) == 0x5A
    assert bus.read(CMOS_PORT + 1, 4) == 0xFFFF_FF5A, "past the end nothing answers"


def test_devices_are_listed_once_in_port_order() -> None:
    bus = full_bus()
    twice = DebugExit()
    twice.label = "twice"
    bus.map(0x10, 1, twice)
    bus.map(0x8000, 1, twice)
    labels = [device.label for device in bus.devices]
    assert labels == ["twice", "cmos", "debug-exit", "serial", "fw_cfg"]


# Small devices


@pytest.mark.parametrize(("size", "value"), [(1, 0x10), (2, 0x1234), (4, 0x8000_0001)])
def test_the_exit_port_keeps_the_first_code(size: int, value: int) -> None:
    bus, port = PortBus(), DebugExit()
    bus.map(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, port)
    assert port.snapshot() is None
    bus.write(DEBUG_EXIT_PORT, size, value)
    bus.write(DEBUG_EXIT_PORT, size, 0)
    assert (port.code, port.status) == (value, value << 1 | 1)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Item.SIGNATURE, b"QEMU"),
        (Item.ID, b"\1\0\0\0"),
        (Item.NB_CPUS, b"\3\0"),
        (Item.MAX_CPUS, b"\x08\0"),
        (0x1234, b""),
    ],
)
def test_fw_cfg_gives_an_item_byte_by_byte_then_zeros(item: int, expected: bytes) -> None:
    bus = PortBus()
    bus.map(FWCFG_PORT, FWCFG_PORTS, FwCfg(3, 8))
    for _ in range(2):
        bus.write(FWCFG_PORT, 2, item)
        data = bytes(bus.read(FWCFG_PORT + 1, 1) for _ in range(6))
        assert data == expected.ljust(6, b"\0")


def test_cmos_holds_the_memory_size_and_a_date_that_never_moves() -> None:
    cmos = Cmos(5 << 30)

    def cell(at: int) -> int:
        cmos.write(0, 1, 0x80 | at)
        return cmos.read(1, 1)

    assert cell(CmosRegister.EXTENDED_KIB) | cell(CmosRegister.EXTENDED_KIB + 1) << 8 == 0xFFFF
    assert cell(CmosRegister.ABOVE_16M_64KIB) | cell(CmosRegister.ABOVE_16M_64KIB + 1) << 8 == 0xFF00
    assert cell(CmosRegister.ABOVE_4G_64KIB + 1) == (1 << 30) // (64 << 10) >> 8
    assert [cell(at) for at in (CmosRegister.CENTURY, CmosRegister.YEAR, CmosRegister.MONTH, CmosRegister.DAY)] == [
        0x20,
        0,
        1,
        1,
    ]


def test_a_wide_access_across_two_devices_reaches_both() -> None:
    bus, first, second = PortBus(), DebugExit(), DebugExit()
    bus.map(0, 2, first)
    bus.map(2, 1, second)
    bus.write(0, 4, 0x44332211)
    assert (first.code, second.code) == (0x11, 0x33)
    assert bus.read(0, 4) == 0xFF00_0000


def test_the_first_and_the_last_port_can_be_mapped() -> None:
    bus, device = PortBus(), DebugExit()
    bus.map(0, 1, device)
    bus.map(0xFFFF, 1, device)
    bus.write(0xFFFF, 1, 7)
    assert device.code == 7


def test_cmos_cells_keep_what_is_written_but_for_the_status_registers() -> None:
    cmos = Cmos(2 << 20)
    for cell, value, expected in ((0x40, 0xA5, 0xA5), (0x41, 0x3C, 0x3C), (CmosRegister.STATUS_D, 0, 0x80)):
        cmos.write(0, 1, cell)
        cmos.write(1, 1, value)
        assert cmos.read(1, 1) == expected
    cmos.write(0, 1, CmosRegister.EXTENDED_KIB + 1)
    assert cmos.read(1, 1) == 1024 >> 8
    assert cmos.read(0, 1) == 0xFF
