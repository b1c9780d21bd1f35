"""What `kstack run` takes for an image, and what it refuses by name, in one line that says what to do."""

from __future__ import annotations

import gzip
import lzma
import os
from pathlib import Path
from typing import Final

import pytest

from kstack.kernels.kstack.scenarios import MAX_IMAGE_BYTES
from tests.support.command import kstack
from tests.support.images import BASE, INTERP, Segment, boot_sector, elf, multiboot, multiboot_header, pvh, pvh_note

SAY_B: Final = "mov dx, 0x3f8\nmov al, 'B'\nout dx, al\nmov al, 0\nout 0xf4, al"
SIGNED: Final = boot_sector(SAY_B)
BARE: Final = SIGNED[:16]
KERNEL: Final = Segment(BASE, b"\xf4")


def with_bytes(image: bytes, *changes: tuple[int, bytes]) -> bytes:
    """`image`, made as long as it takes, with other bytes at these offsets."""
    changed = bytearray(image)
    for at, data in changes:
        changed.extend(bytes(max(0, at + len(data) - len(changed))))
        changed[at : at + len(data)] = data
    return bytes(changed)


REFUSED: Final[dict[str, tuple[bytes, tuple[str, ...]]]] = {
    "bzImage": (with_bytes(SIGNED, (0, b"MZ"), (0x202, b"HdrS")), ("bzImage", "vmlinux", "CONFIG_PVH=y")),
    "AArch64 Image": (with_bytes(b"MZ", (0x38, b"ARMd")), ("AArch64", "build it for x86")),
    "gzip": (gzip.compress(pvh("hlt")), ("compressed with gzip", "unpack it")),
    "xz": (lzma.compress(pvh("hlt")), ("compressed with xz", "unpack it")),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), ("compressed with zstd", "unpack it")),
    "PE": (with_bytes(b"MZ", (0x80, b"PE\0\0")), ("PE or EFI executable", "no EFI firmware", "ELF")),
    "Mach-O": (b"\xcf\xfa\xed\xfe" + bytes(100), ("Mach-O", "ELF")),
    "CD image": (with_bytes(SIGNED, (0x8001, b"CD001")), ("CD image", "give the kernel that is on it")),
    "archive": (b"!<arch>\n" + bytes(100), ("static library", "ld")),
    "script": (b"#!/bin/sh\nexec qemu\n", ("a script", "image")),
    "text": (b"mov eax, 1\nhlt\n" * 50, ("text file", "assemble or compile")),
    "other letters": (("x" + "é" * 5000).encode(), ("text file", "assemble or compile")),
    "JSON": (b'{"version": 1}\n', ("JSON", "kstack replay")),
    "empty": (b"", ("empty", "ELF")),
    "zeros": (bytes(2048), ("no boot sector", "0x55 and 0xaa", "--format flat")),
    "five bytes": (b"\xba\xe5\x00\x6c\xf4", ("no boot sector", "--format flat")),
    "signature elsewhere": (SIGNED[:509] + b"\x55\xaa", ("no boot sector", "--format flat")),
    "half a signature": (SIGNED[:511], ("no boot sector", "--format flat")),
    "AArch64": (elf([KERNEL], BASE, machine=183), ("ELF file for AArch64", "build it for x86")),
    "RISC-V, 32-bit": (elf([KERNEL], BASE, 32, machine=243), ("ELF file for RISC-V", "build it for x86")),
    "big-endian": (
        with_bytes(elf([KERNEL], BASE), (5, b"\2"), (16, b"\0\2\0\x15")),
        ("PowerPC 64", "build it for x86"),
    ),
    "unknown machine": (elf([KERNEL], BASE, machine=9999), ("machine of number 9999", "build it for x86")),
    "32-bit": (elf([KERNEL], BASE, 32), ("32-bit ELF file without a multiboot 1 header", "PVH note", "add one")),
    "PIE": (elf([KERNEL], BASE, kind=3), ("position-independent", "-no-pie", "PVH note")),
    "PIE with multiboot": (elf([Segment(BASE, multiboot_header())], BASE, kind=3), ("position-independent", "-no-pie")),
    "relocatable object": (elf([KERNEL], BASE, kind=1), ("relocatable object", "link it with ld")),
    "core dump": (elf([KERNEL], BASE, kind=4), ("core dump", "executable")),
    "type 9": (elf([KERNEL], BASE, kind=9), ("file of type 9", "link it")),
    "program": (elf([KERNEL, Segment(0, b"/lib/ld.so\0", kind=INTERP)], BASE), ("dynamic linker", "-static")),
    "multiboot 2": (
        elf([Segment(BASE, b"\xd6\x50\x52\xe8" + bytes(4) + b"\x10\0\0\0\x1a\xaf\xad\x17")], BASE),
        ("multiboot 2", "multiboot 1 header or a PVH note"),
    ),
    "no segments": (elf([pvh_note(BASE)], BASE), ("without loadable segments",)),
    "damaged": (b"\x7fELF" + bytes(100), ("damaged ELF file",)),
    "cut off": (elf([Segment(BASE, bytes(100))], BASE)[:-50], ("damaged ELF file (its segment is to end at byte",)),
    "smaller in memory": (elf([Segment(BASE, bytes(9), 8)], BASE), ("smaller in memory than in the file",)),
    "larger than RAM": (SIGNED + bytes(1 << 20), ("needs RAM from 0x7c00 to 0x107e00", "--ram")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_image_is_named_in_one_line_with_the_way_out(what: str, tmp_path: Path) -> None:
    content, says = REFUSED[what]
    path = tmp_path / "file.img"
    path.write_bytes(content)
    done = kstack("run", path, "--ram", "1M")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"kstack: {path}: ")
    missing = [part for part in says if part not in done.stderr]
    assert not missing, done.stderr


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(elf([KERNEL], BASE), id="64-bit ELF"),
        pytest.param(elf([Segment(BASE, b"\xf4"), pvh_note(BASE)], BASE, 32), id="PVH, 32-bit"),
        pytest.param(elf([Segment(BASE, b"\xf4"), pvh_note(BASE)], BASE, kind=3), id="PVH, PIE"),
        pytest.param(multiboot("hlt"), id="multiboot"),
        pytest.param(boot_sector("hlt"), id="boot sector"),
    ],
)
def test_each_format_is_taken_for_what_it_is(image: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.img"
    path.write_bytes(image)
    done = kstack("run", path)
    assert done.returncode == 3 and "asleep: virtual time 1" in done.stderr


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    for name, says in (
        (tmp_path, "is a folder; give a file"),
        (tmp_path / "pipe", "is no regular file; give a file"),
        ("/dev/zero", "is no regular file; give a file"),
        (tmp_path / "large", f"more than an image may have ({MAX_IMAGE_BYTES})"),
        (tmp_path / "large" / "below", "neither built in nor a file"),
        ("x" * 5000, "File name too long"),
    ):
        done = kstack("run", name)
        assert done.returncode == 2 and says in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("size", [512, 513, 4096])
def test_a_boot_sector_is_known_by_its_signature(size: int, tmp_path: Path) -> None:
    path = tmp_path / "boot.img"
    path.write_bytes(SIGNED.ljust(size, b"\0"))
    assert kstack("run", path).stdout == "B"


def test_what_is_not_signed_runs_if_it_is_said_to_be_flat(tmp_path: Path) -> None:
    path = tmp_path / "code.bin"
    path.write_bytes(BARE)
    assert kstack("run", path).returncode == 2
    done = kstack("run", path, "--format", "flat")
    assert (done.returncode, done.stdout) == (0, "B")


def test_flat_is_flat_whatever_stands_in_it(tmp_path: Path) -> None:
    """It begins with a JMP over what would be a multiboot header."""
    path = tmp_path / "code.bin"
    path.write_bytes(b"\xeb\x2a\0\0" + multiboot_header() + bytes(28) + BARE)
    assert kstack("run", path).returncode == 2
    assert kstack("run", path, "--format", "flat").stdout == "B"


def test_a_recording_knows_that_its_image_is_flat(tmp_path: Path) -> None:
    path, recording = tmp_path / "code.bin", tmp_path / "run.json"
    path.write_bytes(BARE)
    first = kstack("run", path, "--format", "flat", "--record", recording)
    again = kstack("replay", recording)
    assert (again.returncode, first.returncode) == (0, 0)
    assert first.stderr.splitlines()[0].split(", ")[-1] in again.stdout + again.stderr, "the same state"


def test_a_format_is_for_files_only() -> None:
    done = kstack("run", "laight", "--format", "flat")
    assert (done.returncode, done.stderr) == (
        2,
        "kstack: --format flat: laight is a scenario, whose image kstack builds\n",
    )
    assert kstack("run", "selftest", "--format", "bzImage").returncode == 2


def test_gdb_takes_the_same_formats(tmp_path: Path) -> None:
    path = tmp_path / "code.bin"
    path.write_bytes(BARE)
    done = kstack("gdb", path)
    assert done.returncode == 2 and "--format flat" in done.stderr
