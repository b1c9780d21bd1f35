"""Flat images: the bytes of a boot sector or a bigger blob, run in real mode at 0000:7C00."""

from __future__ import annotations

from typing import Final

from kstack.load.layout import ImagePart, Layout
from kstack.machine import Machine
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import CODE, REAL_LIMIT, Segment

ADDRESS: Final = 0x7C00
SIGNATURE: Final = b"\x55\xaa"  # by which a BIOS knows a boot sector
SIGNATURE_AT: Final = 510


def is_signed(image: bytes) -> bool:
    """Whether its first 512 bytes end as a boot sector's do."""
    return image[SIGNATURE_AT : SIGNATURE_AT + len(SIGNATURE)] == SIGNATURE


def load(machine: Machine, image: bytes, name: str) -> None:
    """Put the image at 0x7c00, all of it, and start there, as a BIOS starts a boot sector (DL = 0x80).

    Raises:
        ImageError: it does not fit into RAM.
    """
    Layout(machine, name, [ImagePart(ADDRESS, image, len(image))])
    registers = machine.cpus[0].registers
    registers.set_segment(Seg.CS, Segment(0, 0, REAL_LIMIT, CODE))
    registers.gpr[Gpr.RSP] = ADDRESS
    registers.gpr[Gpr.RDX] = 0x80
    registers.rip = ADDRESS
