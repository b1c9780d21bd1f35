"""The port bus: which device an IN or OUT reaches (SDM volume 1, chapter 19; ISA).

Nothing behind a port reads as all ones, and swallows what is written. An access that one device
decodes whole reaches it whole; any other one, too wide for the device or across its end, becomes
byte accesses at rising ports, as a chipset makes of it on an 8-bit bus.

A device decodes bytes only, unless it has an attribute `port_sizes` that lists more sizes.

Not modelled: the time an access takes, the I/O permission bitmap (the CPU's business), 16-bit
halves of a 32-bit access that is split.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from kstack.base.errors import ConfigError
from kstack.hw.devices.device import Device

PORTS: Final = 0x1_0000
_BYTE_SIZES: Final = (1,)


@dataclass(frozen=True, slots=True)
class PortRange:
    """`count` ports from `first` on, answered by `device`."""

    first: int
    count: int
    device: Device
    sizes: Collection[int]


class PortBus:
    """Port ranges and the devices behind them."""

    def __init__(self) -> None:
        self._ranges: list[PortRange] = []
        self._by_port: dict[int, PortRange] = {}

    def map(self, first: int, count: int, device: Device) -> None:
        """Put `device` behind `count` ports from `first` on.

        Raises ConfigError if the range leaves the 64 Ki ports or meets another device's.
        """
        if count < 1 or first < 0 or first + count > PORTS:
            raise ConfigError(
                f"{device.label}: {count} ports from {first:#x} are not all in 0 to 0xffff; choose a range inside"
            )
        ports = range(first, first + count)
        for port in ports:
            if port in self._by_port:
                raise ConfigError(
                    f"{device.label} and {self._by_port[port].device.label} both want port "
                    f"{port:#x}; map one of them elsewhere"
                )
        sizes: Collection[int] = getattr(device, "port_sizes", _BYTE_SIZES)
        mapped = PortRange(first, count, device, sizes)
        self._ranges.append(mapped)
        self._ranges.sort(key=lambda each: each.first)
        self._by_port.update(dict.fromkeys(ports, mapped))

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device once, in the order of its first port, to snapshot them."""
        unique = {id(each.device): each.device for each in self._ranges}
        return tuple(unique.values())

    def read(self, port: int, size: int) -> int:
        """What IN of `size` bytes (1, 2 or 4) gives at `port`."""
        mapped = self._whole(port, size)
        if mapped is not None:
            return mapped.device.read(port - mapped.first, size)
        return sum(self._read_byte(port + at) << 8 * at for at in range(size))

    def write(self, port: int, size: int, value: int) -> None:
        """What OUT of `size` bytes (1, 2 or 4) does at `port`."""
        mapped = self._whole(port, size)
        if mapped is not None:
            mapped.device.write(port - mapped.first, size, value)
            return
        for at in range(size):
            byte = self._by_port.get(port + at)
            if byte is not None:
                byte.device.write(port + at - byte.first, 1, value >> 8 * at & 0xFF)

    def _whole(self, port: int, size: int) -> PortRange | None:
        mapped = self._by_port.get(port)
        if mapped is None or size not in mapped.sizes:
            return None
        return mapped if port + size <= mapped.first + mapped.count else None

    def _read_byte(self, port: int) -> int:
        mapped = self._by_port.get(port)
        return 0xFF if mapped is None else mapped.device.read(port - mapped.first, 1)
