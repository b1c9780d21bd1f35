"""Flat images: the bytes of a boot sector or a bigger blob, run in real mode at 0000:7C00."""

from __future__ import annotations

from typing import Final

from vm.hw.engine import Gpr, Seg, Segment
from vm.load.boot_state import put
from vm.machine import Machine

ADDRESS: Final = 0x7C00


def load(machine: Machine, image: bytes, name: str) -> None:
    """Put the image at 0x7c00 and start there, as a BIOS starts a boot sector (DL = 0x80)."""
    put(machine, name, ADDRESS, image)
    registers = machine.cpus[0].registers
    registers.set_segment(Seg.CS, Segment(0, 0, 0xFFFF, 0x9B00))
    registers.gpr[Gpr.RSP] = ADDRESS
    registers.gpr[Gpr.RDX] = 0x80
    registers.rip = ADDRESS
