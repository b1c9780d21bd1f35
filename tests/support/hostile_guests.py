"""Guests that mean harm, each made from a seed, and their run within bounds.

Run as a program it takes a kind, a first seed and a count, and prints each seed before it is run,
so that whoever started it can name the one that crashed or hung:

    python -m tests.support.hostile_guests flat 0 500

Anything but a `KstackError` that comes out of a run ends the program with its traceback.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kstack.base.errors import KstackError
from kstack.load import Format, load
from kstack.machine import Machine, MachineConfig
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment

RAM: Final = 1 << 20
UNITS: Final = 1000  # of virtual time a guest may run
KERNEL_UNITS: Final = 30_000
MASK64: Final = (1 << 64) - 1
KERNEL: Final = "KSTACK_HOSTILE_KERNEL"  # environment: path of a real kernel to damage

# Physical memory of the long-mode guest.
GDT, IDT, TSS, HANDLERS = 0x5000, 0x6000, 0x7000, 0x8000
TABLES, TABLES_END = 0x10000, 0x14000
CODE, USER_CODE, STACK_TOP = 0x20000, 0x30000, 0x50000
KCODE, KDATA, UDATA, UCODE, TASK, CODE32, UCODE32, GATE = 8, 0x10, 0x18 | 3, 0x20 | 3, 0x28, 0x38, 0x40 | 3, 0x48

VECTORS: Final = struct.pack("<2H", 0x600, 0) * 256
"""An interrupt vector table whose handlers are the zeros below the boot sector; through an empty one a run ends."""

PREFIXES: Final = b"\x66\x67\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65\x48\x4c\x41\x40"
MSRS: Final = (
    *(0x10, 0x1B, 0x174, 0x175, 0x176, 0x277, 0x2FF, 0x1A0, 0x1D9, 0x6E0, 0xE1, 0x40000000),
    *(0xC0000080, 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084, 0xC0000100, 0xC0000101, 0xC0000102),
    *(0xC0000103, 0xC0010117, 0xC0010015, 0x808, 0x80B, 0x80F, 0x830, 0x832, 0x838, 0x83E, 0x83F, 0x802),
)
SYSTEM: Final = (  # opcodes that touch more than registers
    *(
        "0f05",
        "480f07",
        "0f07",
        "0f34",
        "480f35",
        "0f35",
        "0f01f8",
        "0fa2",
        "0f31",
        "0f01f9",
        "0f33",
        "f30fc7f8",
        "0fc7f0",
    ),
    *("f4", "f390", "0f01c8", "0f01c9", "0f01d8", "0f01d9", "0f01da", "0f01db", "0f01dc", "0f01dd", "0f01de", "0f01df"),
    *("0f01c1", "0f01c2", "0f01c3", "0f01c4", "f30fc730", "0fc730", "660fc730", "0f78c8", "0f79c8", "0fae20", "0fae28"),
    *("0fae30", "480fae20", "480fae28", "0f01d0", "0f01d1", "0fae00", "0fae08", "0fae10", "0fae18", "0fc720", "0fc728"),
    *(
        "0f0138",
        "660f388208",
        "0f01fe",
        "0f01ff",
        "0f09",
        "0f08",
        "0fae38",
        "fa",
        "fb",
        "9d",
        "9c",
        "48cf",
        "cf",
        "66cf",
    ),
    *(
        "48cb",
        "cb",
        "66cb",
        "48ff2c24",
        "ff2c24",
        "48ff1c24",
        "66ff2c24",
        "cc",
        "f1",
        "ce",
        "cd80",
        "0f0b",
        "0fff",
        "0fb9",
    ),
    *(
        "0f0010",
        "0f0018",
        "0f0008",
        "0f0000",
        "0f0020",
        "0f0028",
        "0f0110",
        "0f0118",
        "0f0100",
        "0f0108",
        "0f0130",
        "0f0120",
    ),
    *(
        "0f06",
        "8ed0",
        "8ed8",
        "8ec0",
        "8ee0",
        "8ee8",
        "8ec8",
        "0fa1",
        "0fa9",
        "0fa0",
        "0fb208",
        "0fb408",
        "0fb508",
        "17",
        "1f",
    ),
    *(
        "f3a4",
        "f3aa",
        "f3ab",
        "f348a5",
        "f36c",
        "f36d",
        "6e",
        "6f",
        "f36e",
        "ec",
        "ee",
        "ed",
        "ef",
        "e460",
        "e6f4",
        "e720",
        "e540",
    ),
    *(
        "48f7f0",
        "f7f1",
        "f7f9",
        "d40a",
        "d400",
        "c8100005",
        "c80000ff",
        "c9",
        "480fc708",
        "0fc708",
        "d7",
        "62c0",
        "0f32",
        "0f30",
    ),
    *(
        "f30f01c8",
        "f30f01ee",
        "f20f01ca",
        "0f01ca",
        "0f01cb",
        "f30f01e8",
        "f30faed0",
        "f3480faed8",
        "0f18c0",
        "0f0d08",
        "9b",
        "dbe3",
    ),
    *(
        "0f77",
        "0f10c1",
        "660f6fc1",
        "c5f877",
        "c5fc28c1",
        "62f17c4828c1",
        "dd20",
        "dd30",
        "d920",
        "9bd930",
        "dbe2",
        "f30f1efa",
    ),
    *(
        "e2fe",
        "ebfe",
        "e8fbffffff",
        "c3",
        "c20800",
        "ff24c0",
        "ff14c0",
        "ea00000000",
        "0f03c1",
        "0f02c1",
        "0f00e0",
        "63c1",
        "6690",
    ),
    *(
        "0f013c24",
        "0f011c24",
        "0f011424",
        "0f013424",
        "f00fba2800",
        "f0ff00",
        "f0480fc708",
        "f00f0b",
        "f090",
        "f0f390",
        "f00f22d8",
    ),
)


def numbers(rng: random.Random) -> int:
    """A 64-bit number of the kinds that go wrong."""
    choice = rng.randrange(10)
    if choice < 4:
        return rng.choice(
            (GDT, IDT, TSS, HANDLERS, TABLES, TABLES + 0x1000, CODE, USER_CODE, STACK_TOP - 64, 0xFEE00000, 0xFEE00300)
        ) + (rng.randrange(4096) if rng.random() < 0.5 else 0)
    if choice < 6:
        return rng.choice(
            (
                0,
                1,
                2,
                7,
                8,
                0x10,
                0x1B,
                0x23,
                0x28,
                0x33,
                0xFF,
                0x202,
                0x4000,
                0xFFFF,
                0x3000,
                0xFFFFFFFF,
                1 << 31,
                1 << 63,
            )
        )
    if choice < 7:
        return rng.choice(
            (
                1 << 47,
                (1 << 47) - 1,
                (1 << 47) - 8,
                MASK64,
                MASK64 - 7,
                MASK64 - 4095,
                1 << 40,
                1 << 39,
                (1 << 64) - (1 << 47),
            )
        )
    if choice < 8:
        return 1 << rng.randrange(64)
    return rng.getrandbits(rng.choice((8, 16, 32, 64)))


def snippet(rng: random.Random, bits: int) -> bytes:
    """A few instructions that may do anything."""
    choice = rng.randrange(20)
    if choice < 5:
        return bytes.fromhex(rng.choice(SYSTEM))
    if choice < 9:
        register, value = rng.randrange(8), numbers(rng)
        if bits == 64:
            return bytes([0x48 | rng.randrange(2), 0xB8 + register]) + struct.pack("<Q", value)
        return bytes([0xB8 + register]) + (value & (1 << bits) - 1).to_bytes(bits // 8, "little")
    if choice < 10:
        rex = bytes([0x40 | rng.randrange(16)]) if bits == 64 and rng.random() < 0.4 else b""
        modrm = 0xC0 | rng.choice((0, 2, 3, 4, 8, rng.randrange(8))) % 8 << 3 | rng.randrange(8)
        return rex + b"\x0f" + bytes([rng.choice(b"\x20\x22\x22\x21\x23"), modrm])
    if choice < 11:
        access = b"\x0f" + rng.choice((b"\x30", b"\x32"))
        return b"\xb9" + struct.pack("<I", rng.choice(MSRS)) + access if bits != 16 else access
    if choice < 12:
        return bytes(rng.choice(PREFIXES) for _ in range(rng.randrange(16))) + rng.randbytes(rng.randrange(1, 5))
    if choice < 13:
        pushes = b"".join(b"\x68" + struct.pack("<I", numbers(rng) & 0xFFFFFFFF) for _ in range(rng.randrange(1, 6)))
        return pushes + bytes.fromhex(rng.choice(("48cf", "cf", "48cb", "cb", "9d", "c3", "66cf", "9d9090")))
    if choice < 14:
        return (
            b"\x68"
            + struct.pack("<I", numbers(rng) & 0x3F7FFF | rng.choice((0, 0x100, 0x200, 0x4000, 0x40000)))
            + b"\x9d"
        )
    if choice < 15 and bits == 64:  # store to a known place: tables, descriptors, own code
        address = rng.choice(
            (GDT, IDT, TSS, TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000, CODE, USER_CODE)
        )
        address += rng.randrange(0, 512) * rng.choice((1, 8))
        return b"\x48\x89\x04\x25" + struct.pack("<I", address & 0x7FFFFFFF)
    if choice < 16:  # a store close by, into what runs
        return b"\xc6\x05" + struct.pack("<i", rng.randrange(-40, 40)) + rng.randbytes(1)
    if choice < 17:
        return bytes([rng.choice(b"\x70\x74\x75\x79\xeb\xe2\xe3"), rng.randrange(256)])
    if choice < 18:
        return bytes([0xCD, rng.choice((rng.randrange(256), rng.randrange(32)))])
    return rng.randbytes(rng.randrange(1, 12))


def program(rng: random.Random, bits: int) -> bytes:
    """A random program: snippets, or noise."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(1, 600))
    return b"".join(snippet(rng, bits) for _ in range(rng.randrange(1, 60))) + rng.choice(
        (b"\xf4\xeb\xfd", b"\xeb\xfe", b"")
    )


# --- images


def flat(rng: random.Random) -> bytes:
    """A boot sector."""
    return program(rng, 16)


def multiboot(rng: random.Random) -> bytes:
    """Behind a multiboot header with addresses, mostly right ones."""
    address = 0x20000 if rng.random() < 0.9 else numbers(rng) & 0xFFFFFFFF
    fields = [address, address, 0, 0, address + 32 & 0xFFFFFFFF]
    if rng.random() < 0.2:
        fields[rng.randrange(5)] = numbers(rng) & 0xFFFFFFFF
    flags = 1 << 16 if rng.random() < 0.95 else rng.getrandbits(32)
    header = struct.pack("<3I5I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, *fields)
    return header + program(rng, 32)


def elf(rng: random.Random, bits: int, pvh: bool) -> bytes:
    """A small ELF executable, entered in 32-bit code by a PVH note or a multiboot header, or in 64-bit code by its entry."""
    code, address = program(rng, 32 if pvh or bits == 32 else 64), 0x20000
    header = struct.pack("<3I", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF) if bits == 32 else b""
    code, entry = header + code, address + len(header)
    count = 2 if pvh else 1
    note = struct.pack("<3I", 4, 8, 18) + b"Xen\0" + struct.pack("<Q", address if rng.random() < 0.9 else numbers(rng))
    if bits == 64:
        start = 64 + 56 * count
        header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0)
        loads = struct.pack("<IIQQQQQQ", 1, 7, start, address, address, len(code), len(code) + 64, 4096)
        notes = struct.pack("<IIQQQQQQ", 4, 4, start + len(code), 0, 0, len(note), len(note), 4)
    else:
        start = 52 + 32 * count
        header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, entry, 52, 0, 0, 52, 32, count, 40, 0, 0)
        loads = struct.pack("<IIIIIIII", 1, start, address, address, len(code), len(code) + 64, 7, 4096)
        notes = struct.pack("<IIIIIIII", 4, start + len(code), 0, 0, len(note), len(note), 4, 4)
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    image = ident + header + loads + (notes if pvh else b"") + code + (note if pvh else b"")
    return damaged(rng, image, 120) if rng.random() < 0.3 else image


def damaged(rng: random.Random, image: bytes, within: int) -> bytes:
    """`image` cut short, or with some of its first `within` bytes changed."""
    if rng.random() < 0.3:
        return image[: rng.randrange(len(image))]
    changed = bytearray(image)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        at = rng.randrange(min(within, len(changed))) if rng.random() < 0.7 else rng.randrange(len(changed))
        changed[at] = rng.choice((0, 0xFF, rng.randrange(256), changed[at] ^ 1 << rng.randrange(8)))
    return bytes(changed)


def small_image(rng: random.Random) -> bytes:
    """Any of the small ones."""
    kind = rng.randrange(5)
    if kind == 0:
        return flat(rng)
    if kind == 1:
        return multiboot(rng)
    return elf(rng, 64 if kind < 4 else 32, kind == 2)


# --- a guest in long mode, with tables and handlers that go wrong


def _descriptor(access: int, flags: int) -> int:
    return 0xFFFF | access << 40 | (0xF | flags << 4) << 48


def _gate(target: int, ist: int, dpl: int) -> bytes:
    return struct.pack("<HHBBHII", target & 0xFFFF, KCODE, ist, 0x8E | dpl << 5, target >> 16, 0, 0)


def long_mode(machine: Machine, rng: random.Random) -> None:
    """The boot CPU in 64-bit mode at CODE, CPL 0 or 3, with GDT, IDT, TSS and handlers that go on behind what faulted."""
    memory, cpu = machine.memory, machine.cpus[0]
    memory.write64(TABLES, TABLES + 0x1000 | 7)
    memory.write64(TABLES + 0x1000, TABLES + 0x2000 | 7)
    memory.write64(TABLES + 0x2000, TABLES + 0x3000 | 7)
    memory.write64(TABLES + 0x1000 + 3 * 8, 3 << 30 | 0x83)  # the APIC, in a 1 GiB page
    for page in range(RAM >> 12):
        user = page << 12 in (USER_CODE, STACK_TOP - 0x1000) or rng.random() < 0.05
        memory.write64(TABLES + 0x3000 + 8 * page, page << 12 | (7 if user else 3) | rng.choice((0, 0, 0x60, 0x100)))
    descriptors = [0, _descriptor(0x9B, 0xA), _descriptor(0x93, 0xC), _descriptor(0xF3, 0xC), _descriptor(0xFB, 0xA)]
    descriptors += [0x67 | TSS << 16 | 0x8B << 40, 0, _descriptor(0x9B, 0xC), _descriptor(0xFB, 0xC)]
    descriptors += [HANDLERS & 0xFFFF | KCODE << 16 | 0xEC << 40 | HANDLERS >> 16 << 48, 0, 0x9300000FFFF | 2 << 40]
    memory.write(GDT, struct.pack(f"<{len(descriptors)}Q", *descriptors))
    memory.write(TSS + 4, struct.pack("<3Q", STACK_TOP - 0x2000, 0, 0))
    memory.write(TSS + 0x24, struct.pack("<2Q", STACK_TOP - 0x4000, STACK_TOP - 0x6000))
    memory.write(HANDLERS, bytes.fromhex("48ff0424 48cf".replace(" ", "")))
    memory.write(HANDLERS + 0x40, bytes.fromhex("4883c408 48ff0424 48cf".replace(" ", "")))
    for vector in range(256):
        with_error = vector in (8, 10, 11, 12, 13, 14, 17, 21, 29, 30)
        memory.write(
            IDT + 16 * vector,
            _gate(HANDLERS + (0x40 if with_error else 0), rng.choice((0, 0, 0, 1, 2)), 3 * rng.randrange(2)),
        )
    memory.write(CODE, program(rng, 64))
    memory.write(USER_CODE, program(rng, 64))
    registers = cpu.registers
    registers.cr[4] = 0x20 | rng.choice((0, 0x600, 0x80, 0x100000, 0x200000, 0x10000))
    registers.cr[3], registers.cr[0] = TABLES, 0x80000011 | rng.choice((0, 1 << 16))
    user = rng.random() < 0.3
    registers.set_segment(Seg.CS, Segment(UCODE if user else KCODE, 0, 0xFFFFFFFF, 0xAFFB00 if user else 0xAF9B00))
    for seg in (Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        registers.set_segment(seg, Segment(UDATA if user else KDATA, 0, 0xFFFFFFFF, 0xCFF300 if user else 0xCF9300))
    registers.set_segment(Seg.GDTR, Segment(0, GDT, 8 * len(descriptors) - 1, 0))
    registers.set_segment(Seg.IDTR, Segment(0, IDT, 0xFFF, 0))
    registers.set_segment(Seg.TR, Segment(TASK, TSS, 0x67, 0x8B00))
    registers.efer = 0xD01
    registers.rflags = rng.choice((2, 0x202, 0x302, 0x40202, 0x4002, 0x3002))
    for number in range(16):
        registers.gpr[number] = numbers(rng)
    registers.gpr[Gpr.RSP] = STACK_TOP - rng.choice((0, 8, 64, 5))
    registers.rip = USER_CODE if user else CODE
    cpu.mmu.update()
    cpu.engine.flush()


def mutate_tables(machine: Machine, rng: random.Random) -> None:
    """Change page tables, descriptors or code under a running guest, and perhaps interrupt it."""
    memory, cpu = machine.memory, rng.choice(machine.cpus)
    for _ in range(rng.randrange(1, 6)):
        where = rng.choice((TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000))
        where += 8 * (rng.choice((0, 0, 0x20, 0x10, 0x5, 0x6, 0x4F, 3)) if rng.random() < 0.7 else rng.randrange(512))
        entry = memory.read64(where)
        kind = rng.randrange(4)
        if kind == 0:
            entry ^= 1 << rng.choice((0, 1, 2, 5, 6, 7, 8, 63, rng.randrange(64)))
        elif kind == 1:
            entry = rng.getrandbits(64)
        elif kind == 2:
            entry = rng.choice((TABLES, TABLES + 0x1000, TABLES + 0x3000, CODE, 0, RAM, 0xFEE00000)) | rng.choice(
                (3, 7, 0x83, 0x87, 0x67)
            )
        else:
            entry = 0
        memory.write64(where, entry)
    if rng.random() < 0.2:
        memory.write(rng.choice((GDT, IDT, TSS, CODE, HANDLERS)) + rng.randrange(256), rng.randbytes(8))
    event = rng.random()
    if event < 0.1:
        cpu.nmi()
    elif event < 0.2:
        machine.apics[cpu.index].accept(rng.randrange(256))
    elif event < 0.3:
        cpu.mmu.invlpg(numbers(rng))


# --- runs


def run(machine: Machine, rng: random.Random, units: int, between: Callable[[], None] = lambda: None) -> None:
    """Run within `units` of virtual time; a machine that makes no progress is an error."""
    limit, idle, quantum = machine.time + units, 0, rng.choice((1, 7, 33, 200, 1000))
    while machine.time < limit and machine.end() is None:
        before = machine.time
        ready = machine.runnable()
        if ready:
            machine.run(rng.choice(ready), min(quantum, limit - machine.time))
        elif not machine.warp():
            break
        idle = idle + 1 if machine.time == before else 0
        if idle > 100:
            raise RuntimeError(f"no progress at time {machine.time}, RIP {machine.cpus[0].registers.rip:#x}")
        between()


def run_image(
    seed: int, make: Callable[[random.Random], bytes], units: int = UNITS, ram: int = RAM, format: Format = "auto"
) -> Machine | None:
    """Load and run one image; None where the loader refused it."""
    rng = random.Random(seed)
    image = make(rng)
    machine = Machine(MachineConfig(cpus=rng.choice((1, 1, 2)), ram=ram))
    try:
        load(machine, image, f"seed {seed}", format)
    except KstackError:
        return None
    if format == "flat" and seed % 4:
        machine.memory.write(0, VECTORS)
    run(machine, rng, units)
    return machine


def run_long(seed: int, mutate: bool) -> Machine:
    """Run one long-mode guest, its tables changing under it if `mutate`."""
    rng = random.Random(seed)
    machine = Machine(MachineConfig(cpus=rng.choice((1, 1, 2)), ram=RAM))
    long_mode(machine, rng)
    run(machine, rng, UNITS, (lambda: mutate_tables(machine, rng)) if mutate else lambda: None)
    return machine


def _kernel_image(rng: random.Random) -> bytes:
    return damaged(rng, Path(os.environ[KERNEL]).read_bytes(), 0x3000)


KINDS: Final[dict[str, Callable[[int], Machine | None]]] = {
    "flat": lambda seed: run_image(seed, flat, format="flat"),
    "multiboot": lambda seed: run_image(seed, multiboot),
    "pvh": lambda seed: run_image(seed, lambda rng: elf(rng, 64, True)),
    "elf32": lambda seed: run_image(seed, lambda rng: elf(rng, 32, False)),
    "elf64": lambda seed: run_image(seed, lambda rng: elf(rng, 64, False)),
    "kernel": lambda seed: run_image(seed, _kernel_image, KERNEL_UNITS, 16 << 20),
    "long": lambda seed: run_long(seed, False),
    "tables": lambda seed: run_long(seed, True),
}


def main(kind: str, first: int, count: int) -> None:
    """Run `count` guests of a kind, naming each seed before it runs and when all are done."""
    for seed in range(first, first + count):
        sys.stdout.write(f"{seed}\n")
        sys.stdout.flush()
        try:
            machine = KINDS[kind](seed)
        except KstackError as error:
            sys.stdout.write(f"refused: {error}\n")
        else:
            if machine is not None and hasattr(machine, "close"):
                machine.close()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
