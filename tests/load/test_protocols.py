"""What each boot protocol promises at entry: registers and structures, read by guests and from outside."""

from __future__ import annotations

import struct
from typing import Final

import pytest

from kstack.base.errors import ImageError
from kstack.guest.asm import assemble
from kstack.load import load
from kstack.machine import Machine, MachineConfig
from kstack.x86.registers import Gpr, Seg
from tests.support.consoles import console_of
from tests.support.images import ADDRESSES, BASE, EXIT, Segment, boot_sector, elf, multiboot_header, pvh_note

RAM: Final = 16 << 20
HIGH_HALF: Final = 0xFFFF_FFFF_8000_0000
SAY_K: Final = f"mov edx, 0x3f8\nmov al, 'K'\nout dx, al\n{EXIT}"


def loaded(image: bytes, ram: int = RAM) -> Machine:
    machine = Machine(MachineConfig(2, ram))
    load(machine, image)
    return machine


def printed(image: bytes) -> str:
    """What a guest prints until it ends."""
    return console_of(image, 2, RAM, limit=10_000)


def code(source: str, address: int, bits: int = 32) -> bytes:
    return assemble(f".code{bits}\n{source}", address=address, bits=bits)


# --- PVH


@pytest.mark.parametrize("ram", [1 << 20, RAM])
def test_pvh_start_info_is_laid_out_as_version_1(ram: int) -> None:
    machine = loaded(elf([Segment(0x20000, b"\x90"), pvh_note(0x20000)], 0), ram)
    info = machine.cpus[0].registers.gpr[Gpr.RBX]
    magic, version, flags, modules = struct.unpack("<4I", machine.memory.read(info, 16))
    assert (magic, version, flags, modules) == (0x336EC578, 1, 0, 0)
    module_list, command_line, rsdp, table = struct.unpack("<4Q", machine.memory.read(info + 16, 32))
    assert (module_list, command_line, rsdp) == (0, 0, 0)
    count, reserved = struct.unpack("<2I", machine.memory.read(info + 48, 8))
    entries = [struct.unpack("<2Q2I", machine.memory.read(table + 24 * at, 24)) for at in range(count)]
    above = [(0x100000, ram - 0x100000, 1, 0)] if ram > 1 << 20 else []
    assert (entries, reserved) == ([(0, 0x9FC00, 1, 0), *above], 0)


def test_pvh_is_entered_where_the_note_says_in_32_bit_mode_without_paging() -> None:
    machine = loaded(elf([Segment(BASE, bytes(64)), pvh_note(BASE + 5)], BASE + 9))
    registers = machine.cpus[0].registers
    assert (registers.rip, registers.bits, registers.cpl) == (BASE + 5, 32, 0)
    assert (registers.cr[0], registers.cr[4], registers.efer, registers.rflags) == (0x11, 0, 0, 2)
    assert all(registers.segment(seg)[1:3] == (0, 0xFFFFFFFF) for seg in (Seg.CS, Seg.DS, Seg.ES, Seg.SS))
    assert registers.segment(Seg.TR)[1:] == (0, 0x67, 0x8B00)


@pytest.mark.parametrize("entry", [BASE - 1, BASE + 64, 1 << 32 | BASE])
def test_a_pvh_entry_outside_of_the_image_is_refused(entry: int) -> None:
    with pytest.raises(ImageError, match=f"its entry {entry:#x} is in none of the segments"):
        loaded(elf([Segment(BASE, bytes(64)), pvh_note(entry)], BASE))


def test_a_pvh_note_comes_before_a_multiboot_header() -> None:
    header = multiboot_header(ADDRESSES, (0x200000, 0x200000, 0x200020, 0, 0x200000))
    machine = loaded(elf([Segment(BASE, header), pvh_note(BASE + 8)], BASE))
    assert machine.cpus[0].registers.rip == BASE + 8


# --- multiboot 1


@pytest.mark.parametrize("ram", [1 << 20, RAM])
def test_multiboot_information_has_the_sizes_of_memory_and_a_map(ram: int) -> None:
    machine = loaded(elf([Segment(0x20000, multiboot_header())], 0x20000, bits=32), ram)
    registers, memory = machine.cpus[0].registers, machine.memory
    assert registers.gpr[Gpr.RAX] == 0x2BADB002
    info = memory.read(registers.gpr[Gpr.RBX], 52)
    flags, lower, upper = struct.unpack_from("<3I", info)
    assert (flags, lower, upper) == (1 << 0 | 1 << 6, 639, (ram >> 10) - 1024)
    assert info[12:44] == bytes(32), "nothing that the flags do not announce"
    length, at = struct.unpack_from("<2I", info, 44)
    found, end = [], at + length
    while at < end:
        found.append(struct.unpack("<IQQI", memory.read(at, 24)))
        at += found[-1][0] + 4
    above = [(20, 0x100000, ram - 0x100000, 1)] if ram > 1 << 20 else []
    assert (found, at) == ([(20, 0, 0x9FC00, 1), *above], end)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_multiboot_header_with_addresses_is_honoured_in_an_elf_file(bits: int) -> None:
    """As kernels for x86-64 have it whose e_entry is a virtual address where 64-bit code begins."""
    instructions = code(SAY_K, BASE + 32)
    end = BASE + 32 + len(instructions)
    body = multiboot_header(ADDRESSES, (BASE, BASE, end, end + 100, BASE + 32)) + instructions
    high = BASE + (HIGH_HALF if bits == 64 else 0xC0000000)
    assert printed(elf([Segment(BASE, body, virtual=high)], high, bits)) == "K"


def test_a_multiboot_header_with_addresses_loads_the_file_from_where_they_say() -> None:
    body = (
        bytes(8) + multiboot_header(ADDRESSES, (BASE + 8, BASE, BASE + 50, BASE + 99, BASE + 40)) + bytes(10) + b"more"
    )
    machine = loaded(body)
    assert machine.memory.read(BASE, 60) == body[:50] + bytes(10)
    assert machine.cpus[0].registers.rip == BASE + 40


def test_a_load_end_of_zero_is_the_end_of_the_file() -> None:
    body = multiboot_header(ADDRESSES, (BASE, BASE, 0, 0, BASE + 32)) + b"to the end"
    assert loaded(body).memory.read(BASE, len(body) + 1) == body + b"\0"


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        ((BASE - 1, BASE, 0, 0, BASE), "contradict"),  # loaded from behind the header
        ((BASE + 33, BASE, 0, 0, BASE), "contradict"),  # and from before the file
        ((BASE, BASE, BASE + 33, 0, BASE), "contradict"),  # more than there is
        ((BASE, BASE, BASE - 1, 0, BASE), "contradict"),
        ((BASE, BASE, BASE + 20, BASE + 19, BASE), "contradict"),  # bss before its end
        ((BASE, BASE, 0, 0, BASE + 32), "its entry 0x100020 is in none"),
        ((BASE, BASE, BASE, 0, BASE), "its entry 0x100000 is in none"),
        ((0xFFFFFFF0, 0xFFFFFFF0, 0, 0, 0xFFFFFFF0), "no machine has RAM there"),
        ((BASE, BASE, 0, 0xFFFFFFFF, BASE), "no machine has RAM there"),
        ((RAM - 4, RAM - 4, 0, 0, RAM - 4), "give more with --ram"),
    ],
)
def test_a_multiboot_header_that_contradicts_itself_or_the_file_is_refused(
    addresses: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ImageError, match=says):
        loaded(multiboot_header(ADDRESSES, addresses))


def test_a_multiboot_header_that_is_cut_off_is_refused() -> None:
    whole = multiboot_header(ADDRESSES, (BASE, BASE, 0, 0, BASE))
    loaded(whole)
    for size in range(12, 32):
        with pytest.raises(ImageError, match="multiboot header is cut off"):
            loaded(whole[:size])


def test_a_header_counts_only_within_the_first_8_kib() -> None:
    body = multiboot_header(ADDRESSES, (BASE + 8160, BASE, 0, 0, BASE + 8160))
    loaded(bytes(8160) + body)
    with pytest.raises(ImageError, match="multiboot header is cut off"):
        loaded(bytes(8164) + body)
    with pytest.raises(ImageError, match="no multiboot header"):
        loaded(bytes(8192) + body)


def test_a_multiboot_header_without_addresses_needs_an_elf_file() -> None:
    with pytest.raises(ImageError, match="no ELF; set flag bit 16"):
        loaded(multiboot_header(3).ljust(100, b"\0"))


@pytest.mark.parametrize(("flags", "says"), [(4, "a video mode"), (7, "a video mode"), (0x8000, "flags 0x8000")])
def test_what_a_multiboot_header_asks_for_in_vain_is_named(flags: int, says: str) -> None:
    """Section 3.1.2: a loader that cannot do what bits 0 to 15 want must say so and load nothing."""
    with pytest.raises(ImageError, match=f"asks for {says}"):
        loaded(elf([Segment(BASE, multiboot_header(flags))], BASE, bits=32))
    loaded(elf([Segment(BASE, multiboot_header(flags & 3 | 1 << 17))], BASE, bits=32))


# --- where an ELF file is entered


@pytest.mark.parametrize(("bits", "offset"), [(32, 0xC0000000), (64, HIGH_HALF)])
def test_a_higher_half_entry_is_entered_where_its_segment_is_loaded(bits: int, offset: int) -> None:
    body = multiboot_header() + code(SAY_K, BASE + 12)
    assert printed(elf([Segment(BASE, body, virtual=offset + BASE)], offset + BASE + 12, bits)) == "K"


def test_an_entry_that_is_no_virtual_address_of_a_segment_is_a_physical_one() -> None:
    body = multiboot_header() + code(SAY_K, BASE + 12)
    assert printed(elf([Segment(BASE, body, virtual=0x80000000 + BASE)], BASE + 12, 32)) == "K"


@pytest.mark.parametrize("entry", [0, BASE - 1, BASE + 64, 0xC0000000])
def test_an_entry_in_no_segment_is_refused(entry: int) -> None:
    for bits in (32, 64):
        with pytest.raises(ImageError, match=f"its entry {entry:#x} is in none of the segments"):
            loaded(elf([Segment(BASE, multiboot_header(), 64)], entry, bits))
    with pytest.raises(ImageError, match=f"its entry {entry:#x} is in none of the segments"):
        loaded(elf([Segment(BASE, b"", 64)], entry))


# --- 64-bit ELF files, and boot sectors


def test_a_plain_64_bit_elf_runs_in_long_mode_with_a_stack_and_4_gib_mapped() -> None:
    source = f"mov eax, 0xfee00030\nmov eax, [rax]\npush rax\npop rbx\nmov edx, 0x3f8\nmov al, bl\nadd al, 0x30\nout dx, al\n{EXIT}"
    body = code(source, BASE, 64)
    assert printed(elf([Segment(BASE, body, virtual=HIGH_HALF + BASE)], HIGH_HALF + BASE)) == "D", "APIC version 14h"
    registers = loaded(elf([Segment(BASE, body)], BASE)).cpus[0].registers
    assert (registers.cr[0], registers.cr[4], registers.efer, registers.bits) == (0x80000011, 0x20, 0xD00, 64)


def test_a_boot_sector_is_loaded_whole_and_entered_in_real_mode_with_the_drive_in_dl() -> None:
    image = boot_sector("jmp 0x7c00") + b"behind the sector"
    machine = loaded(image)
    registers = machine.cpus[0].registers
    assert machine.memory.read(0x7C00, len(image)) == image
    assert (registers.rip, registers.segment(Seg.CS).base, registers.bits) == (0x7C00, 0, 16)
    assert registers.gpr[Gpr.RDX] == 0x80


# --- hostile headers


def corrupted(image: bytes, at: int, size: int) -> list[bytes]:
    """`image` with the field there set to what is extreme."""
    values = {0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1, (1 << 31) - 1, len(image), len(image) + 1, RAM, RAM - 1}
    fitting = [value for value in sorted(values) if value < 1 << 8 * size]
    return [image[:at] + value.to_bytes(size, "little") + image[at + size :] for value in fitting]


@pytest.mark.parametrize("bits", [32, 64])
def test_no_field_of_a_header_brings_anything_but_an_image_error(bits: int) -> None:
    image = elf([Segment(BASE, multiboot_header()), Segment(0x20000, b"x", 99), pvh_note(BASE)], BASE, bits)
    plain = elf([Segment(BASE, b"\xf4"), Segment(0x20000, b"x", 99)], BASE, bits)
    word, ehdr, phdr = (8, 64, 56) if bits == 64 else (4, 52, 32)
    fields = [(at, 2) for at in (16, 18, *range(ehdr - 12, ehdr, 2))] + [(24 + word * at, word) for at in range(3)]
    for number in range(3):
        fields += [(ehdr + phdr * number + at, 4) for at in (0, 4)]
        fields += [(ehdr + phdr * number + at, word) for at in range(8, phdr, word)]
    machine = Machine(MachineConfig(1, RAM))
    reset, refused = machine.snapshot(), 0
    for base in (image, plain):
        for at, size in fields:
            for damaged in corrupted(base, at, size) if at + size <= len(base) else ():
                machine.restore(reset)
                try:
                    load(machine, damaged)
                except ImageError:
                    refused += 1
    assert refused > 100
