"""kstack run says what the guest has set up and is not modelled; with --strict the run ends there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kstack.guest.asm import assemble
from kstack.hw.cpu.declared import Declared
from tests.support.command import kstack

SOURCE = """
    cli
    lgdt [gdtr]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov ax, 8
    mov ds, ax
    nop
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    mov al, 0
    out 0xf4, al
spin: hlt
    jmp spin
gdtr: .short 15
    .long table
table: .quad 0, 0x000092000000ffff
"""


@pytest.fixture
def sector(tmp_path: Path) -> Path:
    """A boot sector that loads a data segment of 64 KiB in protected mode."""
    file = tmp_path / "limit.bin"
    file.write_bytes(assemble(SOURCE, 0x7C00, bits=16).ljust(510, b"\0") + b"\x55\xaa")
    return file


def test_it_is_said_at_the_end_and_in_json(sector: Path) -> None:
    done = kstack("run", sector, "--schedule", "round-robin:1")
    assert done.returncode == 0
    assert Declared.DATA_LIMIT.value in done.stderr
    document = json.loads(kstack("run", sector, "--schedule", "round-robin:1", "--json").stdout)
    assert document["told"] == [Declared.DATA_LIMIT.value]


def test_strict_ends_there_and_its_recording_does_too(sector: Path, tmp_path: Path) -> None:
    recording = tmp_path / "strict.rec"
    done = kstack("run", sector, "--schedule", "round-robin:1", "--strict", "--record", recording)
    assert done.returncode == 3
    assert f"strict: {Declared.DATA_LIMIT.value}" in done.stderr
    assert kstack("replay", recording).returncode == done.returncode
