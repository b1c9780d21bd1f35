"""Devices of one's own: what they must be, and those that a machine has, to begin with or to copy."""

from kstack.hw.devices.debug_exit import DebugExit
from kstack.hw.devices.device import Device
from kstack.hw.devices.ports import PortBus
from kstack.hw.devices.serial import Uart

__all__ = ["DebugExit", "Device", "PortBus", "Uart"]
