"""Requirement 7: whatever a guest is or does, the host lives, and says what happened.

Each case runs in a process of its own that names every seed before it runs it, so that a crash or a
hang of the host is a failing test that says which guest did it.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kstack.guest.images import build_image
from kstack.load import load
from kstack.machine import Machine, MachineConfig
from tests.support.hostile_guests import KERNEL

ROOT = Path(__file__).parents[2]
SECONDS = 240  # of one batch; it takes about a tenth of that


def run_batch(kind: str, first: int, count: int, **environment: str) -> None:
    """Run guests in another process, and fail naming the seed that did harm."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.support.hostile_guests", kind, str(first), str(count)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as hang:
        text = (hang.stdout or b"").decode()  # bytes here, whatever `text` says
        pytest.fail(f"{kind}: seed {_last_seed(text)} hung")
    if done.returncode or not done.stdout.endswith("done\n"):
        pytest.fail(f"{kind}: seed {_last_seed(done.stdout)} ended the host ({done.returncode})\n{done.stderr[-3000:]}")


def _last_seed(output: str) -> str:
    seeds = [line for line in output.splitlines() if line.isdigit()]
    return seeds[-1] if seeds else "none"


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.long) for first in (500, 1000))])
def test_random_bytes_as_a_boot_sector_harm_nobody(first: int) -> None:
    run_batch("flat", first, 500)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiboot", "pvh", "elf32"])
def test_random_bytes_behind_a_valid_32_bit_header_harm_nobody(kind: str) -> None:
    run_batch(kind, 0, 300)


@pytest.mark.slow
def test_random_bytes_entered_in_long_mode_harm_nobody() -> None:
    run_batch("elf64", 0, 400)


@pytest.mark.slow
def test_a_damaged_kernel_harms_nobody(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.elf"
    kernel.write_bytes(build_image("selftest").to_elf())
    run_batch("kernel", 0, 150, **{KERNEL: str(kernel)})


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, pytest.param(250, marks=pytest.mark.long)])
def test_a_guest_that_breaks_its_own_tables_and_descriptors_harms_nobody(first: int) -> None:
    run_batch("long", first, 250)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, pytest.param(500, marks=pytest.mark.long)])
def test_page_tables_that_change_under_a_running_guest_harm_nobody(first: int) -> None:
    run_batch("tables", first, 250)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_machines_that_are_dropped_give_their_memory_back() -> None:
    def drop(count: int) -> None:
        for _ in range(count):
            machine = Machine(MachineConfig(cpus=2, ram=1 << 20))
            load(machine, b"\x90" * 200 + b"\xeb\xfe", format="flat")
            machine.run(0, 300)
        gc.collect()

    drop(300)
    before = _resident()
    drop(400)
    assert _resident() - before < 64 << 20  # 400 machines hold about 1 GiB
