"""Guests that mean harm, the second generator: whole images by seed, of eighteen kinds, that `kstack run` takes as well.

    python -m tests.support.hostile_kinds 4711 guest.bin

writes the image of a seed into a file and says its kind. An image is a boot sector, a multiboot kernel or a 64-bit ELF file. Most set
up descriptors, interrupts with handlers that go on one byte behind what faulted, and registers, before they do what their kind says.

    at        multiboot and ELF64
    0x8000    16-bit code, for CPUs that are started (ELF64)
    CODE      what begins, then what means harm, up to 256 KiB
    DATA      GDT; IDT at +0x1000, TSS at +0x2000, handlers at +0x3000
    TABLES    page tables of four levels, the second entry of the first an alias of all
    STACK     its top
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from kstack.hw.modes import Modes
from kstack.load import load
from kstack.machine import Machine, MachineConfig
from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler
from tests.fuzz import hostile_code
from tests.support.hostile_guests import MSRS, damaged, numbers, snippet

RAM: Final = 4 << 20
UNITS: Final = 1500  # of virtual time that a guest may run
LARGE_UNITS: Final = 20_000
WORK: Final = 50_000  # of the host, that a guest may cause
STARTED, CODE, DATA, TABLES, STACK = 0x8000, 0x100000, 0x140000, 0x150000, 0x170000
END: Final = TABLES + 0x4000
SECTOR: Final = 0x7C00
_CODE_SELECTOR, _DATA_SELECTOR, _TASK_SELECTOR = 8, 0x10, 0x28
_WITH_ERROR: Final = (8, 10, 11, 12, 13, 14, 17, 21, 29, 30)
_APIC: Final = 0xFEE00000


def mov(register: int, value: int, bits: int) -> bytes:
    """MOV of a constant into one of the first eight registers."""
    if bits == 64:
        return bytes([0x48, 0xB8 + register]) + struct.pack("<Q", value & (1 << 64) - 1)
    return bytes([0xB8 + register]) + (value & (1 << bits) - 1).to_bytes(bits // 8, "little")


def at(register: int, address: int, bits: int) -> bytes:
    """A ModRM, and what belongs to it, of a register (or digit) and the memory at an address."""
    if bits == 16:
        return bytes([register << 3 | 6]) + struct.pack("<H", address & 0xFFFF)
    where = struct.pack("<I", address & 0xFFFFFFFF)
    return (bytes([register << 3 | 4, 0x25]) if bits == 64 else bytes([register << 3 | 5])) + where


def place(rng: random.Random, bits: int) -> int:
    """An address: of data, of code, of tables, of nothing; often where a page or a line ends."""
    if bits == 16:
        return rng.choice((SECTOR, 0x500, 0x8000, 0xF000, 0xFFFF, rng.getrandbits(16))) + rng.randrange(64) & 0xFFFF
    known = rng.choice((CODE, DATA, DATA + 0x1000, DATA + 0x2000, DATA + 0x3000, TABLES, STACK, _APIC, RAM, 0xB8000))
    inside = rng.choice((0, 0x10, 0x300, 0xFFF, 0xFF8, 0xFFC, 0x1000, rng.randrange(0x4000)))
    return known + inside - rng.choice((0, 0, 1, 3, 8)) if rng.random() < 0.9 else rng.getrandbits(31)


# --- what they do


def noise(rng: random.Random, bits: int) -> bytes:
    """Random bytes."""
    return rng.randbytes(rng.randrange(1, 2000))


def tables(rng: random.Random, bits: int) -> bytes:
    """Page tables that change while they are used; in 32-bit code also paging of both kinds, from no tables at all."""

    def one() -> bytes:
        level = rng.randrange(4)
        entry = TABLES + 0x1000 * level + 8 * rng.choice((0, 1, 3, 0x100, 0x140, 0x150, 0x16F, rng.randrange(512)))
        target = rng.choice((CODE, DATA, TABLES, TABLES + 0x1000, TABLES + 0x3000, RAM, _APIC, rng.getrandbits(40)))
        value = target & ~0xFFF | rng.choice((0, 1, 3, 7, 0x83, 0x87, 0x67, 0x103, rng.getrandbits(12)))
        value |= rng.choice((0, 0, 0, 1 << 63, 1 << rng.randrange(64)))
        store = mov(0, value, bits) + (b"\x48" if bits == 64 else b"") + b"\x89" + at(0, entry, bits)
        return rng.choice(
            (
                store,
                store + b"\x0f\x01" + at(7, place(rng, bits), bits),  # INVLPG
                store + b"\x0f\x20\xd8\x0f\x22\xd8",  # CR3 again
                mov(0, rng.choice((TABLES, numbers(rng))), bits) + b"\x0f\x22\xd8",
                b"\x0f\x20\xc0" + b"\x0f\xba\xf8" + bytes([rng.choice((31, 16, 0))]) + b"\x0f\x22\xc0",  # PG, WP, PE
                b"\x0f\x20\xe0" + b"\x0f\xba\xf8" + bytes([rng.choice((4, 5, 7, 12, 17, 20, 21))]) + b"\x0f\x22\xe0",
                b"\x8b" + at(1, place(rng, bits), bits),
                b"\x89" + at(1, place(rng, bits), bits),
                b"\xf0\x0f\xba" + at(7, entry, bits) + b"\0",  # LOCK BTC
                mov(7, entry, bits) + mov(1, rng.randrange(64), bits) + b"\xfc\xf3\xab",
            )
        )

    return pieces(rng, one, 40)


def self_modifying(rng: random.Random, bits: int) -> bytes:
    """Stores into what runs: next to the instruction, into loops, by strings, by the stack, by the FPU, through an alias."""
    base, body = SECTOR + 0x80 if bits == 16 else CODE + 0x80, b""
    for _ in range(rng.randrange(2, 40)):
        body += _modifying(rng, bits, base, base + len(body))
    return (_alias() if bits == 64 and rng.random() < 0.6 else b"") + body


def _modifying(rng: random.Random, bits: int, base: int, here: int) -> bytes:
    """One of them, for about `here`, in what begins at `base`."""
    away = rng.choice((0, 1, 2, 5, -3, -8, rng.randrange(-60, 60), rng.choice((-4096, 4096, 4090))))

    def near(register: int) -> bytes:
        if bits == 64:
            return bytes([register << 3 | 5]) + struct.pack("<i", away)
        return at(register, here + away, bits)

    patch = b"\xc6" + near(0)
    pieces = (
        patch + rng.randbytes(1),
        patch + rng.choice((b"\x90", b"\xf4", b"\xcc", b"\xeb", b"\x0f")),
        b"\x80" + near(6) + rng.randbytes(1),  # XOR
        b"\xf0\x0f\xc0" + near(0),  # LOCK XADD
        b"\x0f\x11" + near(0),  # MOVUPS
        b"\xd9" + near(6),  # FNSTENV
        b"\x9b\xdd" + near(6),  # FSAVE
        b"\x0f\xae" + near(0),  # FXSAVE
        b"\x8f" + near(0),  # POP
        mov(1, rng.randrange(3, 30), bits) + patch + b"\x90\xe2\xf8",
        mov(7, here + rng.randrange(-20, 60), bits) + mov(1, 40, bits) + b"\xb0\x90\xfc\xf3\xaa",
        mov(7, here + 20, bits) + mov(6, base, bits) + mov(1, 90, bits) + b"\xf3\xa4",
        mov(4, here + rng.randrange(-8, 80), bits) + b"\x50\x53\xe8\0\0\0\0",
        mov(3, 0x8000000000 + here + 12 + away, bits) + b"\xc6\x03\x90",
        b"\xe2" + bytes([rng.randrange(200, 254)]),
        rng.choice((b"\x90", b"\x40\x90", b"\x0f\xa2", b"\xeb\x00")),
    )
    return rng.choice(pieces)


def _alias() -> bytes:
    """Take the tables of the image, which map everything twice."""
    return mov(0, TABLES, 64) + b"\x0f\x22\xd8"


def far(rng: random.Random, bits: int) -> bytes:
    """Far jumps, calls and returns, through gates and to selectors of every kind; stacks of other segments."""

    def selector() -> int:
        return rng.choice(
            (0, 3, 8, 0x10, 0x18, 0x1B, 0x20, 0x23, 0x28, 0x30, 0x38, 0x40, 0x48, 0x4B, 0x50, 0x58, 0xFFF8)
        )

    def target() -> int:
        return rng.choice((SECTOR if bits == 16 else CODE, place(rng, bits), numbers(rng))) + rng.randrange(256)

    def push(value: int) -> bytes:
        return b"\x68" + (value & 0x7FFFFFFF).to_bytes(4, "little")[: 2 if bits == 16 else 4]

    def one() -> bytes:
        pointer = rng.choice((0x600, DATA + 0x4000, place(rng, bits)))
        fill = mov(0, target(), bits) + b"\x89" + at(0, pointer, bits) + b"\xc7" + at(0, pointer + bits // 8, bits)
        fill += selector().to_bytes(2, "little") + (b"" if bits == 16 else b"\0\0")
        direct = b"\xea" if rng.random() < 0.5 else b"\x9a"
        address = (target() & (1 << min(bits, 32)) - 1).to_bytes(2 if bits == 16 else 4, "little")
        frame = push(rng.choice((2, 0x202, 0x20202, 0x4002, 0x302, 0x3202))) + push(selector()) + push(target())
        stack = push(selector()) + push(STACK - 0x100)
        wide = rng.choice((b"", b"\x66", b"\x48"))
        return rng.choice(
            (
                direct + address + selector().to_bytes(2, "little"),
                fill + wide + b"\xff" + at(rng.choice((3, 5)), pointer, bits),
                push(selector()) + push(target()) + wide + rng.choice((b"\xcb", b"\xca\x08\x00")),
                frame + wide + b"\xcf",
                stack + frame + wide + b"\xcf",
                stack + push(selector()) + push(target()) + wide + b"\xcb",
                fill + wide + b"\x0f" + rng.choice((b"\xb2", b"\xb4", b"\xb5")) + at(4, pointer, bits),  # LSS, LFS, LGS
                b"\x66\xb8" + selector().to_bytes(2, "little") + b"\x8e" + bytes([0xC0 | 8 * rng.randrange(6)]),
                mov(0, selector(), bits)
                + b"\x0f"
                + rng.choice((b"\x00\xd0", b"\x00\xd8", b"\x02\xc8", b"\x03\xc8", b"\x00\xe0", b"\x00\xe8")),
                mov(1, target(), bits)
                + mov(2, target(), bits)
                + rng.choice((b"\x0f\x05", b"\x0f\x34", b"\x48\x0f\x07")),
            )
        )

    return pieces(rng, one, 30)


def msrs(rng: random.Random, bits: int) -> bytes:
    """Model-specific registers with any value, and what they decide."""

    def one() -> bytes:
        number = rng.choice((*MSRS, 0x800 + rng.randrange(64), rng.getrandbits(32), 0xC0000080 + rng.randrange(0x200)))
        wide = b"\x66" if bits == 16 else b""
        load = wide + b"\xb9" + struct.pack("<I", number)
        value, access = numbers(rng), rng.choice((b"\x0f\x30", b"\x0f\x30", b"\x0f\x32"))
        for register, part in ((b"\xb8", value), (b"\xba", rng.choice((0, value >> 32)))):
            load += wide + register + struct.pack("<I", part & 0xFFFFFFFF)
        after = (
            b"",
            b"\x0f\x05",
            b"\x0f\x34",
            b"\x0f\x01\xf8",
            b"\x0f\x01\xf9",
            b"\x0f\x33",
            b"\x65\x8b\x00",
            b"\xfb\x90",
        )
        if rng.random() < 0.2:  # one bit of EFER
            return (
                load[:0]
                + wide
                + b"\xb9\x80\0\0\xc0\x0f\x32\x0f\xba\xf8"
                + rng.choice(b"\x00\x08\x0a\x0b").to_bytes()
                + b"\x0f\x30"
            )
        return load + access + rng.choice(after)

    return pieces(rng, one, 30)


def rsp(rng: random.Random, bits: int) -> bytes:
    """A stack pointer that points nowhere, and everything that uses it."""
    uses = "50 58 9c 9d c3 cb cf cc 0f0b c9 c8100003 c8ffff1f e800000000 ff3424 8f0424 6a00 5c 54 cd20 60 61 0fa0 0fa9 f7f4 c20800 f4"

    def one() -> bytes:
        top = rng.choice(
            (0, 1, 2, 3, 7, 8, 0x7FFF, 0xFFFF, 0x10000, CODE, DATA + 0x1000, _APIC, RAM, numbers(rng), place(rng, bits))
        )
        use = b"".join(bytes.fromhex(rng.choice(uses.split())) for _ in range(rng.randrange(1, 5)))
        wide = rng.choice((b"", b"", b"\x66", b"\x48"))
        return rng.choice((mov(4, top, bits), mov(4, top, bits), b"\x83\xec" + rng.randbytes(1), b"")) + wide + use

    return pieces(rng, one, 40)


def interrupts(rng: random.Random, bits: int) -> bytes:
    """INT n, exceptions, single steps and breakpoints, one behind the other; also with tables that are not there."""
    raising = "cc f1 ce cd03 cd01 cd80 cd20 0f0b 0fb9c0 f7f0 f6f0 d400 62060000 9b 0f01c1 0fff cd0e cd08 cd02 8ed0cc 17cc fbcd21 f0f4"

    def one() -> bytes:
        flags = rng.choice((0x102, 0x302, 0x202, 0x2, 0x40002, 0x10102, 0x3102)) & (1 << min(bits, 32)) - 1
        step = b"\x68" + flags.to_bytes(2 if bits == 16 else 4, "little") + b"\x9d"
        debug = mov(0, place(rng, bits), bits) + b"\x0f\x23\xc0" + mov(0, rng.getrandbits(20), bits) + b"\x0f\x23\xf8"
        table = b"\x0f\x01" + at(rng.choice((2, 3)), place(rng, bits), bits)
        return rng.choice(
            (
                *(bytes.fromhex(rng.choice(raising.split())) for _ in range(6)),
                b"\xcd" + rng.randbytes(1),
                step,
                step + bytes.fromhex(rng.choice(raising.split())),
                debug if rng.random() < 0.5 else b"\x90",
                table if rng.random() < 0.2 else b"\x90",
            )
        )

    return pieces(rng, one, 80)


def apic(rng: random.Random, bits: int) -> bytes:
    """The local APIC's registers, in any size and with any value: IPIs, timers, INIT and SIPI, another base, x2APIC."""
    command, offsets = (
        (0xC4500, 0xC4608, 0xC0020, 0x40020, 0x84020, 0x44500, 0x608, 0xC4400, 0x4030),
        range(0, 0x400, 16),
    )

    def one() -> bytes:
        known = (
            0x20,
            0x80,
            0xB0,
            0xD0,
            0xE0,
            0xF0,
            0x280,
            0x300,
            0x310,
            0x320,
            0x350,
            0x360,
            0x370,
            0x380,
            0x390,
            0x3E0,
        )
        offset = rng.choice((*known, rng.choice(offsets))) + rng.choice((0, 0, 0, 0, 1, 4, 8))
        value = rng.choice(
            (*command, 0x1FF, 0x20040, 0x40041, rng.getrandbits(8), rng.getrandbits(32), 1 << 24, 10, 100)
        )
        if bits == 16:  # through a segment it is out of reach: x2APIC
            return _x2apic(rng, offset, value, b"\x66")
        return rng.choice((b"\xc7" + at(0, _APIC + offset, bits) + struct.pack("<I", value & 0x7FFFFFFF),) * 4
            + (b"\x8b" + at(0, _APIC + offset, bits), b"\x88" + at(0, _APIC + offset, bits),
               b"\x66\x89" + at(0, _APIC + offset, bits), b"\xf0\xff" + at(0, _APIC + offset, bits),
               b"\x0f\x11" + at(0, _APIC + offset, bits), b"\xff" + at(6, _APIC + offset, bits), b"\xfb\x90\xf3\x90", b"\xfa",
               _x2apic(rng, offset, value, b""), b"\xfb\xf4"))  # fmt: skip

    return b"\xfb" * rng.randrange(2) + pieces(rng, one, 40)


def _x2apic(rng: random.Random, offset: int, value: int, wide: bytes) -> bytes:
    number = rng.choice((0x800 + (offset >> 4 & 0x3F), 0x1B, 0x6E0))
    base = rng.choice((_APIC | 0xD00, _APIC | 0x900, _APIC | 0x100, CODE | 0x900, value))
    load = wide + b"\xb9" + struct.pack("<I", number)
    load += wide + b"\xb8" + struct.pack("<I", base if number == 0x1B else value)
    return (
        load
        + wide
        + b"\xba"
        + struct.pack("<I", rng.choice((0, 0, 1, 0xFFFFFFFF)))
        + rng.choice((b"\x0f\x30", b"\x0f\x32"))
    )


def halts(rng: random.Random, bits: int) -> bytes:
    """HLT, PAUSE, MWAIT: with interrupts on and off, in a shadow, while stepping, with timers that tick, one-shot or never."""

    def one() -> bytes:
        timer = (
            b"\xb0\x34\xe6\x43\xb0"
            + rng.randbytes(1)
            + b"\xe6\x40\xb0"
            + rng.randbytes(1)
            + b"\xe6\x40\xb0\xfe\xe6\x21"
        )
        local = b"" if bits == 16 else (
            b"\xc7" + at(0, _APIC + 0xF0, bits) + struct.pack("<I", 0x1FF)
            + b"\xc7" + at(0, _APIC + 0x320, bits) + struct.pack("<I", rng.choice((0x40, 0x20040, 0x10040, 0x40040)))
            + b"\xc7" + at(0, _APIC + 0x380, bits) + struct.pack("<I", rng.choice((1, 2, 7, 100, 5000)))
        )  # fmt: skip
        step = b"\x68" + (0x302).to_bytes(2 if bits == 16 else 4, "little") + b"\x9d"
        return rng.choice(
            (
                *(
                    b"\xfb\xf4",
                    b"\xf4",
                    b"\xfa\xf4",
                    b"\xfb\x8e\xd0\xf4",
                    b"\xfb\xfb\xf4",
                    b"\xf3\x90",
                    b"\xfb\xf3\x90",
                ),
                *(
                    step + b"\xf4",
                    b"\x0f\x01\xc8\x0f\x01\xc9",
                    timer,
                    timer,
                    local,
                    local,
                    b"\xf0\xf4",
                    b"\xfb\xcf",
                    b"\xfb\x9d",
                ),
                *(b"\xf4\xeb\xfd", b"\xfb\x0f\x0b", b"\xfb\x0f\x22\xd8\xf4", b"\x0f\x20\xc0\x0f\x22\xc0\xf4"),
            )
        )

    return pieces(rng, one, 30)


def strings(rng: random.Random, bits: int) -> bytes:
    """REP with counts without end, over everything, in both directions, of every size, from and to ports."""

    def one() -> bytes:
        count = rng.choice((0, 1, 2, 31, 32, 33, 1000, 0xFFFF, 0x10000, 0xFFFFFFFF, numbers(rng)))
        load = mov(1, count, bits) + mov(6, place(rng, bits), bits) + mov(7, place(rng, bits), bits)
        prefixes = rng.choice(
            (b"\xf3", b"\xf2", b"\xf3\xf2", b"\xf3\x66", b"\x67\xf3", b"\x64\xf3", b"\xf0\xf3", b"\x2e\xf3", b"")
        )
        wide = b"\x48" if bits == 64 and rng.random() < 0.4 else b""
        port = (
            b"\x66\xba" + rng.choice((0x3F8, 0x40, 0x70, 0x510, 0x20, 0xE5)).to_bytes(2, "little")
            if rng.random() < 0.2
            else b""
        )
        return (
            port
            + load
            + rng.choice((b"\xfc", b"\xfd"))
            + prefixes
            + wide
            + rng.choice(b"\xa4\xa5\xaa\xab\xac\xad\xa6\xa7\xae\xaf\x6c\x6d\x6e\x6f").to_bytes()
        )

    return pieces(rng, one, 20)


def ports(rng: random.Random, bits: int) -> bytes:
    """IN and OUT of every size, at devices and where there are none."""
    known = (
        0x20,
        0x21,
        0xA0,
        0xA1,
        0x40,
        0x41,
        0x42,
        0x43,
        0x61,
        0x70,
        0x71,
        0x3F8,
        0x3F9,
        0x3FA,
        0x3FB,
        0x3FC,
        0x3FD,
        0x3FF,
        0x510,
        0x511,
    )

    def one() -> bytes:
        port = rng.choice((*known, *known, rng.choice(known) + rng.randrange(-2, 4), rng.getrandbits(16), 0xFFFF, 0x80))
        port = port if port not in (0xE5, 0xF4) or rng.random() < 0.02 else 0x80
        value = rng.choice((0, 0x11, 0x20, 0x34, 0x36, 0xFE, 0xFF, 0x0A, 0x0B, 0xC0, rng.getrandbits(8)))
        short = rng.choice(b"\xe4\xe5\xe6\xe6\xe7").to_bytes() + bytes([port & 0xFF if port & 0xFF != 0xF4 else 0x80])
        long = (
            (b"" if bits == 16 else b"\x66")
            + b"\xba"
            + struct.pack("<H", port & 0xFFFF)
            + rng.choice(b"\xec\xed\xee\xee\xef").to_bytes()
        )
        return (
            bytes([0xB0, value])
            + rng.choice((b"", b"", b"\x66", b"\xf3"))
            + rng.choice((short, long, long))
            + rng.choice((b"", b"\xfb", b""))
        )

    return pieces(rng, one, 100)


def hypercalls(rng: random.Random, bits: int) -> bytes:
    """Hypercalls of a kernel with stack policies, in any order and with any argument."""
    empty = mov(7, TABLES + 0x3000 + 8 * (hostile_code.AREA >> 12), 64) + mov(1, 16, 64) + b"\x31\xc0\xfc\xf3\x48\xab"
    boot = (
        _alias() + (empty if rng.random() < 0.8 else b"") + (hostile_code.boot(rng, 1) if rng.random() < 0.95 else b"")
    )
    return boot + pieces(rng, lambda: _hypercall(rng), 30)


def _hypercall(rng: random.Random) -> bytes:
    if rng.random() < 0.04:
        return hostile_code.hypercall(rng)
    return rng.choice((hostile_code.sensible, hostile_code.sensible, lambda rng: snippet(rng, 64)))(rng)


def fpu(rng: random.Random, bits: int) -> bytes:
    """x87, MMX and SSE, with operands of every alignment, in every state of CR0 and CR4."""
    return pieces(rng, lambda: _float(rng, bits, wild=True), 150)


def _float(rng: random.Random, bits: int, wild: bool) -> bytes:
    """An instruction of x87, MMX or SSE; `wild` ones may also be none, or change what the FPU may do."""
    memory = at(rng.randrange(8), place(rng, bits) if wild else DATA + 0x5000 + 16 * rng.randrange(64), bits)
    operand = memory if rng.random() < (0.5 if wild else 0.3) else bytes([0xC0 | rng.getrandbits(6)])
    if not wild and bits == 16:
        operand = bytes([0xC0 | rng.getrandbits(6)])
    prefix = rng.choice((b"", b"\x66", b"\xf2", b"\xf3"))
    moves = (
        0x10,
        0x11,
        0x28,
        0x29,
        0x6F,
        0x7F,
        0x58,
        0x59,
        0x5C,
        0x5E,
        0x51,
        0x54,
        0xEF,
        0xFE,
        0xC6,
        0x70,
        0x2A,
        0x2D,
        0x5A,
    )
    choice = rng.randrange(12)
    if choice < 4:
        return bytes([0xD8 + rng.randrange(8)]) + operand
    if choice < 7:
        opcode = rng.choice(moves)
        return prefix + b"\x0f" + bytes([opcode]) + operand + (rng.randbytes(1) if opcode in (0xC6, 0x70) else b"")
    if choice < 9 and wild:
        return (
            prefix
            + b"\x0f"
            + bytes([rng.randrange(0x10, 0x80) if rng.random() < 0.4 else rng.randrange(0xD0, 0x100)])
            + operand
        )
    if choice < 10 and wild:
        third = rng.choice((b"\x38", b"\x3a"))
        return prefix + b"\x0f" + third + rng.randbytes(1) + operand + (rng.randbytes(1) if third == b"\x3a" else b"")
    if choice < 11 and wild:
        return b"\x0f\xae" + memory
    if wild and rng.random() < 0.3:
        bit = rng.choice((1, 2, 3, 5))
        return rng.choice(
            (
                b"\x0f\x20\xc0\x0f\xba\xf8" + bytes([bit]) + b"\x0f\x22\xc0",
                b"\x0f\x06",
                b"\x0f\x20\xe0\x0f\xba\xf8\x09\x0f\x22\xe0",
            )
        )
    return rng.choice(
        (
            b"\xd9\xe8",
            b"\xd9\xee",
            b"\xd9\xfa",
            b"\xde\xc1",
            b"\xdb\xe3",
            b"\x0f\x77",
            b"\x9b",
            b"\xd9\xc9",
            b"\xd9\xf6",
        )
    )


def anything(rng: random.Random, bits: int) -> bytes:
    """A little of each."""
    made = [rng.choice(ALL)(rng, bits)[: rng.randrange(1, 120)] for _ in range(rng.randrange(1, 8))]
    return b"".join(made) + pieces(rng, lambda: snippet(rng, bits), 10)


def switching(rng: random.Random, bits: int) -> bytes:
    """To protected mode and back, to 16-bit segments, to paging, to virtual-8086 mode; with a little of each between."""
    flip = b"\x0f\x20\xc0\x0f\xba\xf8" + bytes([rng.choice((0, 0, 31, 16, 18))]) + b"\x0f\x22\xc0"
    begin = b""
    if bits == 16:
        flip, begin = b"\x0f\x20\xc0\x34\x01\x0f\x22\xc0", _protected(SECTOR + 0x80)
    reach = b"\xea" + ((SECTOR if bits == 16 else CODE) + rng.randrange(256)).to_bytes(2 if bits == 16 else 4, "little")
    virtual = (
        b"".join(b"\x68" + (value).to_bytes(4, "little") for value in (0, 0x600, 0, 0x7000, 0x20202, 0x7C0, 0))
        + b"\xcf"
    )
    middle = (flip, flip + reach + b"\x08\0", flip + reach + b"\x38\0", virtual if bits == 32 else flip, b"")
    return begin + b"".join(rng.choice(middle) + anything(rng, bits)[:200] for _ in range(rng.randrange(1, 5)))


def _protected(start: int) -> bytes:
    """Code for `start` that loads descriptor tables for protected mode, with segments and gates of 16 bits."""
    segments = struct.pack("<8Q", 0, 0x9B000000FFFF, 0x93000000FFFF, 0, 0, 0, 0, 0x9B000000FFFF)
    plain = bytes.fromhex("5589e5ff46025dcf")
    handlers, at_handlers = plain + b"\x83\xc4\x02" + plain, start + 25
    gates = b"".join(
        struct.pack("<HHHH", at_handlers + (8 if vector in _WITH_ERROR else 0), 8, 0x8600, 0) for vector in range(256)
    )
    tables = at_handlers + len(handlers)
    pointers = struct.pack("<HIHI", len(segments) - 1, tables, len(gates) - 1, tables + len(segments))
    load = b"\x0f\x01" + at(2, start + 13, 16) + b"\x0f\x01" + at(3, start + 19, 16)
    data = pointers + handlers + segments + gates
    return load + b"\xe9" + struct.pack("<H", len(data)) + data


def large(rng: random.Random, bits: int) -> bytes:
    """64 KiB of code and more: floating point or integers without a branch, a branch everywhere, stores into what is to run."""
    size, style = rng.choice((0x10000, 0x12000, 0x18000, 0x20000, 0x30000)), rng.randrange(5)
    base, made, length = SECTOR if bits == 16 else CODE, [], 0
    stretch = [_plain(rng, bits, style, base, size) for _ in range(rng.choice((16, 256, 1024)))]
    while length < size:
        piece = rng.choice(stretch)
        if bits == 16 and (length + 0x40) // 0x6000 != (length + 0x60) // 0x6000:  # on, before the segment ends
            linear = SECTOR + 0x80 + length
            piece = b"\xea" + struct.pack("<HH", linear + 5 & 0xF, linear + 5 >> 4)
        made.append(piece)
        length += len(piece)
    again = b"" if bits == 16 else b"\xe9" + struct.pack("<i", -min(length, size // 2))
    return b"".join(made) + again


def _plain(rng: random.Random, bits: int, style: int, base: int, size: int) -> bytes:
    if style == 0 or (style == 4 and rng.random() < 0.5):
        return _float(rng, bits, wild=False)
    if style == 1:
        return bytes([rng.choice(b"\x01\x09\x21\x29\x31\x39\x85\x89"), 0xC0 | rng.randrange(4) << 3 | rng.randrange(4)])
    if style == 2:
        return rng.choice(
            (b"\xeb\x00", b"\x74\x00", b"\x75\x01\x90", b"\x40\x90", b"\x0f\xa2" if rng.random() < 0.1 else b"\x90")
        )
    if style == 3:
        target = base + rng.randrange(size)
        return rng.choice(
            (b"\xc6" + at(0, target, bits) + b"\x90", b"\x0f\x11" + at(0, target, bits), b"\x90", b"\xeb\x00")
        )
    return snippet(rng, bits)


def pieces(rng: random.Random, one: Callable[[], bytes], most: int) -> bytes:
    """Some of these, and sometimes something else; the end is a halt, a loop, or what lies behind."""
    made = [one() for _ in range(rng.randrange(1, most))]
    return b"".join(made) + rng.choice((b"\xf4\xeb\xfd", b"\xeb\xfe", b"", b"\xe9\0\xff\xff\xff"))


Body = Callable[[random.Random, int], bytes]
ALL: Final[tuple[Body, ...]] = (
    noise,
    tables,
    self_modifying,
    far,
    msrs,
    rsp,
    interrupts,
    apic,
    halts,
    strings,
    ports,
    fpu,
)


# --- images


def sector(rng: random.Random, body: Body) -> bytes:
    """A boot sector, whatever its length; most have handlers for all interrupts."""
    handler = bytes.fromhex("5589e5ff46025dcf")  # on, one byte behind
    begin = bytes.fromhex("31c08ed88ec08ed0bc007c31ffb90001")
    fill = b"\xc7\x05" + struct.pack("<H", SECTOR + 3) + b"\xc7\x45\x02\0\0\x83\xc7\x04\xe2\xf2"
    start = b"\xe9" + struct.pack("<h", len(handler)) + handler
    start += begin + fill + _registers(rng, 16) if rng.random() < 0.8 else b""
    start = start.ljust(0x80, b"\x90")
    code = start + body(rng, 16)
    if len(code) > 510:  # the signature is in its middle
        return code[:510] + b"\x55\xaa" + code[512:]
    return code.ljust(510, b"\0") + b"\x55\xaa"


def multiboot(rng: random.Random, body: Body) -> bytes:
    """Behind a multiboot header, in protected mode."""
    flags = 1 << 16
    header = struct.pack("<3I5I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, CODE, CODE, 0, 0, CODE + 32)
    return header + _memory(rng, body, 32, len(header))


def elf64(rng: random.Random, body: Body) -> bytes:
    """A 64-bit ELF file, entered in long mode; with 16-bit code for other CPUs."""
    memory, started = (
        _memory(rng, body, 64, 0),
        (noise(rng, 16) if rng.random() < 0.3 else snippet(rng, 16)) + b"\xf4\xeb\xfd",
    )
    return elf64_of([(CODE, memory), (STARTED, started)], CODE)


def elf64_of(segments: list[tuple[int, bytes]], entry: int) -> bytes:
    """A 64-bit ELF file of segments at these addresses."""
    begin = 64 + 56 * len(segments)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    data = b""
    for address, content in segments:
        header += struct.pack("<IIQQQQQQ", 1, 7, begin + len(data), address, address, len(content), len(content), 1)
        data += content
    return header + data


def _registers(rng: random.Random, bits: int) -> bytes:
    return b"".join(mov(register, numbers(rng), bits) for register in (0, 1, 2, 3, 5, 6, 7) if rng.random() < 0.7)


def _memory(rng: random.Random, body: Body, bits: int, before: int) -> bytes:
    """Everything from CODE on, less the `before` bytes of a header there."""
    wide = bits == 64
    start = (
        b"\x0f\x01"
        + at(2, DATA + 0x3F00, bits)
        + (b"\x0f\x01" + at(3, DATA + 0x3F10, bits) if rng.random() < 0.9 else b"")
    )
    start += mov(4, STACK, bits)
    if wide:
        start += b"\x6a\x08\x68" + struct.pack("<I", CODE + before + len(start) + 9) + b"\x48\xcb"
    else:
        start += b"\xea" + struct.pack("<IH", CODE + before + len(start) + 7, _CODE_SELECTOR)
    start += b"\x66\xb8\x10\0\x8e\xd8\x8e\xc0\x8e\xd0" + b"\x66\xb8\x28\0\x0f\x00\xd8"
    begin = start + _registers(rng, bits) if rng.random() < 0.85 else b""
    begin = begin.ljust(0x80 - before, b"\x90") + (b"\xfb" if rng.random() < 0.3 else b"\x90")
    code = (begin + body(rng, bits))[: DATA - CODE - before]
    return code.ljust(DATA - CODE - before, b"\0") + _data(rng, wide) + _tables(wide)


def _data(rng: random.Random, wide: bool) -> bytes:
    """Descriptor tables, a task state and handlers, where nearly everything is right."""
    size = 16 if wide else 8
    code, data = (0xAF9B000000FFFF, 0xCF93000000FFFF) if wide else (0xCF9B000000FFFF, 0xCF93000000FFFF)
    user, task = (0xAFFB000000FFFF, 0x89 if wide else rng.choice((0x89, 0x81))), DATA + 0x2000
    gate = (DATA + 0x3000) & 0xFFFF | _CODE_SELECTOR << 16 | 0xEC << 40 | (DATA + 0x3000) >> 16 << 48
    entries = [
        0,
        code,
        data,
        0xCFF3000000FFFF,
        user[0],
        0x67 | (task & 0xFFFFFF) << 16 | user[1] << 40 | task >> 24 << 56,
        0,
    ]
    entries += [0x009B000000FFFF, 0x0093000000FFFF, gate, 0, rng.getrandbits(64), 0x500280000, 0xCF9F000000FFFF]
    table = struct.pack(f"<{len(entries)}Q", *entries)
    tss = (
        struct.pack("<I3Q", 0, *[STACK - 0x2000] * 3) if wide else struct.pack("<3I", 0, STACK - 0x2000, _DATA_SELECTOR)
    )
    tss = tss.ljust(0x24, b"\0") + struct.pack("<2Q", STACK - 0x4000, STACK - 0x6000)
    plain, coded = ("48ff042448cf", "4883c40848ff042448cf") if wide else ("ff0424cf", "83c404ff0424cf")
    gates = b""
    for vector in range(256):
        target = DATA + 0x3000 + (0x40 if vector in _WITH_ERROR else 0)
        kind = rng.choice((0x8E, 0x8E, 0x8F, 0xEE, 0xEF)) if rng.random() < 0.98 else rng.getrandbits(8)
        ist = rng.choice((0, 0, 0, 1, 2)) if wide else 0
        gates += struct.pack("<HHBBHQ", target & 0xFFFF, _CODE_SELECTOR, ist, kind, target >> 16, 0)[:size]
    handlers = bytes.fromhex(plain).ljust(0x40, b"\xcc") + bytes.fromhex(coded)
    pointers = struct.pack("<HQ", len(table) - 1, DATA).ljust(16, b"\0") + struct.pack(
        "<HQ", 256 * size - 1, DATA + 0x1000
    )
    parts = ((0, table), (0x1000, gates), (0x2000, tss), (0x3000, handlers), (0x3F00, pointers))
    made = bytearray(TABLES - DATA)
    for offset, part in parts:
        made[offset : offset + len(part)] = part
    return bytes(made)


def _tables(wide: bool) -> bytes:
    """Everything one to one: the first 2 MiB in small pages, what is behind in large ones, the APIC's GiB in one."""
    made = [[0] * 512 for _ in range(4)]
    made[0][0] = made[0][1] = TABLES + 0x1000 | 7
    made[1][0], made[1][3] = TABLES + 0x2000 | (7 if wide else 1), 3 << 30 | 0x83
    made[2] = [index << 21 | 0x87 for index in range(512)]
    made[2][0] = TABLES + 0x3000 | 7
    made[3] = [page << 12 | 7 for page in range(512)]
    return b"".join(struct.pack("<512Q", *table) for table in made)


def any_image(*makers: Callable[[random.Random, Body], bytes]) -> Callable[[random.Random, Body], bytes]:
    """One of these."""
    return lambda rng, body: rng.choice(makers)(rng, body)


def plain_headers(rng: random.Random, body: Body) -> bytes:
    """Boot sectors and multiboot headers, most of them damaged."""
    image = rng.choice((sector, multiboot))(rng, body)
    return damaged(rng, image, 64) if rng.random() < 0.7 else image


def long_headers(rng: random.Random, body: Body) -> bytes:
    """ELF headers with many segments, which lie anywhere, or damaged ones."""
    segments = [(CODE, _memory(rng, body, 64, 0))]
    for _ in range(rng.choice((0, 1, 3, 40))):
        address = rng.choice((STARTED, DATA + 0x20000, RAM - 100, numbers(rng), rng.randrange(RAM)))
        segments.append((address & (1 << 64) - 1, rng.randbytes(rng.randrange(200))))
    entry = CODE if rng.random() < 0.9 else numbers(rng)
    image = elf64_of(segments, entry & (1 << 64) - 1)
    return damaged(rng, image, 64 + 56 * len(segments)) if rng.random() < 0.6 else image


class Kind(NamedTuple):
    """A kind of guests: what they do, in which images, and how long."""

    body: Body
    image: Callable[[random.Random, Body], bytes]
    units: int = UNITS


_ANY: Final = any_image(sector, multiboot, elf64, elf64)
_PROTECTED: Final = any_image(multiboot, elf64)
KINDS: Final[dict[str, Kind]] = {
    "noise": Kind(noise, _ANY),
    "tables": Kind(tables, _PROTECTED),
    "self-modifying": Kind(self_modifying, _ANY),
    "far": Kind(far, _ANY),
    "msrs": Kind(msrs, _ANY),
    "rsp": Kind(rsp, _ANY),
    "int": Kind(interrupts, _ANY),
    "apic": Kind(apic, _ANY),
    "hlt": Kind(halts, _ANY),
    "rep": Kind(strings, _ANY),
    "io": Kind(ports, _ANY),
    "hypercalls": Kind(hypercalls, elf64),
    "fpu": Kind(fpu, _ANY),
    "plain headers": Kind(anything, plain_headers),
    "long headers": Kind(anything, long_headers),
    "real mode": Kind(switching, sector),
    "protected mode": Kind(switching, multiboot),
    "large code": Kind(large, _ANY, LARGE_UNITS),
}


def kind_of(seed: int) -> str:
    """The kind of a seed's guest."""
    return list(KINDS)[seed % len(KINDS)]


def image_of(seed: int) -> bytes:
    """The image of a seed."""
    kind = KINDS[kind_of(seed)]
    return kind.image(random.Random(f"image {seed}"), kind.body)


def run_kind(seed: int) -> tuple[str, Machine]:
    """How a seed's guest ended, and its machine.

    Raises:
        KstackError: the loader refused it, or its policy did what none may.
        Exception: what no guest may cause.
    """
    rng, kind = random.Random(f"run {seed}"), kind_of(seed)
    modes = Modes().with_option("tlb=adversarial") if rng.random() < 0.1 else Modes()
    machine = Machine(MachineConfig(rng.choice((1, 1, 1, 2)), RAM, modes))
    symbols = load(machine, image_of(seed), f"seed {seed}")
    schedule: Scheduler = RoundRobin(rng.choice((1, 7, 33, 200, 1000, 1000)))
    if rng.random() < 0.3:
        schedule = RandomSchedule(seed)
    policy = SwitchSpIpi() if kind == "hypercalls" else None
    options = RunOptions(KINDS[kind].units, adversary=seed, hashed=False, max_work=WORK)
    result = Session(machine, symbols, schedule, policy, options).run()
    stopped = any(cpu.unsupported for cpu in machine.cpus)
    return f"{kind}: {'not modelled' if stopped else result.ended}", machine


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(image_of(int(sys.argv[1])))
    sys.stdout.write(f"{kind_of(int(sys.argv[1]))}\n")
