"""Guest images to be timed: the guest kernel with one of the programs in bench/guests."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Final

from kstack.guest.asm import KERNEL_LAYOUT, assemble, build
from kstack.guest.images import CORE, ENTRY, KERNEL

GUESTS: Final = Path(__file__).parent / "guests"
COUNT_PATTERN: Final = struct.pack("<Q", 0x6B737461636B2121)
BARE_CODE: Final = 0x1000
BARE_BUFFER: Final = 0x200000
BARE_STACK: Final = 0x300000
BARE_TABLES: Final = {  # 0 to 2 MiB: code; 2 to 4 MiB: data, not executable
    0x100000: 0x101003,
    0x101000: 0x102003,
    0x102000: 0xE3,
    0x102008: 0x200000 | 0xE3 | 1 << 63,
}


@cache
def _kernel_with(programs: tuple[str, ...]) -> bytes:
    sources = [KERNEL / f"{name}.s" for name in CORE] + [GUESTS / f"{name}.s" for name in ("count", *programs)]
    return build(sources, KERNEL_LAYOUT, entry=ENTRY, include=[KERNEL]).to_elf()


def image(programs: tuple[str, ...], count: int) -> bytes:
    """An ELF image of the guest kernel and `programs` (names in bench/guests), to run `count` iterations."""
    elf = _kernel_with(programs)
    if elf.count(COUNT_PATTERN) != 1:
        raise ValueError(f"bench/guests: {programs}: the count's pattern must be in the image once")
    return elf.replace(COUNT_PATTERN, struct.pack("<Q", count))


def bare_loop(program: str, count: int) -> bytes:
    """Code for BARE_CODE that runs one loop program `count` times and halts; no kernel, no paging."""
    prologue = f"mov esp, {BARE_STACK}\nmov esi, {BARE_BUFFER}\nmov edi, {count}\ncall bench_loop\nhlt\n"
    return assemble(prologue + (GUESTS / f"{program}.s").read_text(), BARE_CODE)
