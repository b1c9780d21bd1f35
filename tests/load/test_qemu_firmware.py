"""A guest finds what it finds on QEMU: firmware's registers, multiboot information and PVH start info."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.consoles import console_of
from tests.support.images import multiboot, printing, pvh
from tests.support.qemu import on_qemu

RAM: Final = 64
FIRMWARE: Final = (
    "mov esi, cr0",
    "mov esi, cr4",
    "in al, 0x21\nmovzx esi, al",
    "in al, 0xa1\nmovzx esi, al",
    "mov esi, [0xfee000f0]",
    "mov esi, [0xfee00350]\nand esi, 0x17fff",  # QEMU's is level-triggered, which an ExtINT always is
    "mov esi, [0xfee00360]\nand esi, 0x17fff",
)
MULTIBOOT: Final = (
    "mov esi, ebp",
    "mov esi, [ebx]\nand esi, 0x41",
    "mov esi, [ebx+4]",
    "mov edi, [ebx+48]\nmov esi, [edi]",
    *(f"mov esi, [edi+{at}]" for at in (4, 8, 12, 16, 20)),
)
PVH: Final = (
    *(f"mov esi, [ebx+{at}]" for at in (0, 4, 8, 12)),
    "mov edi, [ebx+40]\nmov esi, [ebx+44]",
    *(f"mov esi, [edi+{at}]" for at in (0, 4, 12, 16)),
)


@pytest.mark.system("qemu-system-x86_64")
@pytest.mark.parametrize(
    "image",
    [
        pytest.param(multiboot(printing(FIRMWARE)), id="firmware, multiboot"),
        pytest.param(pvh(printing(FIRMWARE)), id="firmware, PVH"),
        pytest.param(multiboot("mov ebp, eax\n" + printing(MULTIBOOT)), id="multiboot information"),
        pytest.param(pvh(printing(PVH)), id="PVH start info"),
    ],
)
def test_a_guest_finds_what_it_finds_on_qemu(image: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image)
    done = on_qemu(path, ram=RAM)
    assert done.returncode == 1, done.stdout + done.stderr
    assert console_of(image, ram=RAM << 20, limit=100_000).split() == done.stdout.split()
