"""Targets: images, and the source of policies."""

from __future__ import annotations

import random

from kstack.guest.images import build_image
from kstack.load import load
from kstack.load.elf_file import ElfFile
from kstack.stacks.loading.registry import find_policy, policy_hash
from tests.fuzz.files import written
from tests.support import hostile_guests as hostile
from tests.support.command import ROOT
from tests.support.reset import machine_at_reset

RAM = 4 << 20
_STOP = b"raise ValueError('parsed')\n"


def image(data: bytes) -> object:
    """Load an image into a machine at reset, and run it for a few instructions."""
    machine = machine_at_reset(2, RAM)
    symbols = load(machine, data)
    machine.run(0, 50)
    return symbols.name(machine.cpus[0].registers.rip)


def images() -> list[bytes]:
    """An image of each format."""
    rng = random.Random(0)
    boot_sector = hostile.flat(rng)[:510].ljust(510, b"\0") + b"\x55\xaa"
    small = [boot_sector, hostile.multiboot(rng), *(hostile.elf(rng, bits, bits == 64) for bits in (32, 64))]
    return [(ROOT / "tests/golden/count.elf").read_bytes(), *small]


def elf(data: bytes) -> object:
    """Read all that a loader wants of an ELF file."""
    file = ElfFile(data if data.startswith(b"\x7fELF") else b"\x7fELF" + data[4:], "image")
    return file.loads(), file.pvh_entry(), file.symbols()


def elfs() -> list[bytes]:
    """The small ELF files, and a kernel with many symbols."""
    return [*(data for data in images() if data.startswith(b"\x7fELF")), build_image("selftest").to_elf()[: 1 << 16]]


def policy(data: bytes) -> object:
    """Read a policy file; its code is compiled, and ends before anything of it is run."""
    path = str(written("policy.py", _STOP + data))
    return find_policy(path), policy_hash(path)


def policies() -> list[bytes]:
    """The source of some policies."""
    return [(ROOT / "policies" / name).read_bytes() for name in ("entry_exit.py", "accessed_shrinker.py")]
