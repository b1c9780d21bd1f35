"""Whatever is in a file that kstack reads, it is taken or refused by a `KstackError`, soon and without much memory.

The kept inputs and a budget of seeded mutants; KSTACK_FUZZ=10 makes ten times as many, KSTACK_FUZZ=0 none. For more,
guided by coverage: `make fuzz`.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import pytest

from kstack.base.errors import ImageError, KstackError
from kstack.load.elf_file import ElfFile
from tests.fuzz.bounds import Bomb, Hang, bounded, tried
from tests.fuzz.targets import CORPUS, TARGETS
from tests.support.command import ROOT

TIMES: Final = float(os.environ.get("KSTACK_FUZZ", "1"))
SECONDS: Final = 120 + 100 * TIMES  # in which a target must be through, on a busy host


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_stands_in_a_file_is_taken_or_refused(name: str) -> None:
    count = int(TARGETS[name].tries * TIMES)
    command = [sys.executable, "-m", "tests.fuzz.replay", name, "0", str(count)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as hang:
        last = (hang.stdout or b"").decode().splitlines()
        pytest.fail(f"{name}: {last[-1] if last else 'the beginning'} hung")
    last = done.stdout.splitlines()
    assert not done.returncode, f"{name}: {last[-1] if last else 'the beginning'} failed\n{done.stderr[-4000:]}"
    assert last[-1] == "done" and len(last) > count


def test_kept_inputs_are_of_targets_that_there_are() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= {*TARGETS}


# --- ELF files that are small and ask for much


def elf_file(programs: bytes = b"", sections: bytes = b"", rest: bytes = b"", phentsize: int = 56) -> bytes:
    """A 64-bit executable with these headers; `rest` begins at byte 0x400000."""
    phnum, shnum = len(programs) // 56, len(sections) // 64
    words = (2, 62, 1, 0x200000, 64, 64 + len(programs), 0, 64, phentsize, phnum, 64, shnum, 0)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *words)
    return (head + programs + sections).ljust(0x400000, b"\0") + rest


def program(kind: int, offset: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 7, offset, 0x200000, 0x200000, size, size, 4096)


def section(kind: int, offset: int, size: int, link: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, offset, size, link, 0, 1, 24)


def same_bytes_many_times() -> ElfFile:
    return ElfFile(elf_file(program(1, 0, 0x400000) * 65534), "bomb")


def names_in_one_another() -> ElfFile:
    symbols = b"".join(struct.pack("<IBBHQQ", 1 + at, 0x12, 0, 1, 0x200000, 4) for at in range(20_000))
    strings = b"\0" + b"A" * (2 << 20) + b"\0"
    table = section(2, 0x400000, len(symbols), 1) + section(3, 0x400000 + len(symbols), len(strings))
    return ElfFile(elf_file(program(1, 0, 64), table, symbols + strings), "bomb")


def headers_of_no_size() -> ElfFile:
    return ElfFile(elf_file(program(1, 0, 0x400000) * 1000, phentsize=0), "bomb")


def beyond_the_end() -> ElfFile:
    return ElfFile(elf_file(program(1, 0x3FFFFF, 2)), "bomb")


def asked(make: Callable[[], ElfFile]) -> object:
    file = make()
    return file.loads(), file.symbols()


@pytest.mark.parametrize("bomb", [same_bytes_many_times, names_in_one_another, headers_of_no_size, beyond_the_end])
def test_a_small_elf_file_that_asks_for_much_is_refused_at_once(bomb: Callable[[], ElfFile]) -> None:
    with bounded(seconds=3, memory=200 << 20), pytest.raises(ImageError, match="damaged ELF file"):
        asked(bomb)


def test_a_million_empty_notes_take_no_time() -> None:
    notes = bytes(12 << 20)
    file = ElfFile(elf_file(program(4, 0x400000, len(notes)), b"", notes), "notes")
    with bounded(seconds=0.2):
        assert file.pvh_entry() is None


# --- the oracle itself


def test_an_error_of_another_kind_is_a_failure() -> None:
    def wrong(data: bytes) -> None:
        raise ValueError(data)

    with pytest.raises(ValueError, match="x"):
        tried(wrong, b"x")


def test_an_error_of_kstack_is_an_answer() -> None:
    def right(data: bytes) -> None:
        raise ImageError(repr(data))

    assert isinstance(tried(right, b"x"), KstackError)


def test_an_endless_loop_is_a_failure_also_where_everything_is_caught() -> None:
    def endless(data: bytes) -> None:
        while True:
            try:
                sum(data)
            except Exception:  # noqa: BLE001 - as a parser might
                continue

    with pytest.raises(Hang), bounded(seconds=0.2):
        endless(bytes(1000))


def test_much_memory_is_a_failure() -> None:
    def greedy(held: list[bytearray]) -> None:
        while True:
            held.append(bytearray(1 << 20))

    with pytest.raises(Bomb), bounded(seconds=60, memory=64 << 20):
        greedy([])
