"""Random instructions in ring 3, in one image that runs here and on QEMU: the same is left of each."""

from __future__ import annotations

import os
from pathlib import Path
from shutil import which

import pytest

from tests.support.command import kstack
from tests.support.instruction_guest import Case, case, image
from tests.support.qemu import on_qemu

pytestmark = pytest.mark.skipif(
    which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64: make setup-system"
)
SEEDS = 1_000
BATCH = 500
MORE = int(os.environ.get("KSTACK_INSTRUCTIONS", "100000"))
STACK_FAULT, PROTECTION = "0c", "0d"


def _different(seeds: range, folder: Path) -> list[str]:
    cases: list[Case] = [found for seed in seeds if (found := case(seed)) is not None]
    file = folder / "instructions.img"
    file.write_bytes(image(cases))
    theirs = on_qemu(file, "-cpu", "Icelake-Server,-xsave", ram=64).stdout.splitlines()
    ours = kstack("run", str(file), "--max-instructions", "1000000000").stdout.splitlines()
    assert len(theirs) == len(ours) == len(cases)
    return [
        f"{one.one.text} ({one.one.code.hex()}): {their} on QEMU, {our} here"
        for one, their, our in zip(cases, theirs, ours, strict=True)
        if their.strip() != our.strip() and (their.strip()[-2:], our.strip()[-2:]) != (PROTECTION, STACK_FAULT)
    ]


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_instructions_leave_what_they_leave_on_qemu(first: int, tmp_path: Path) -> None:
    assert _different(range(first, first + BATCH), tmp_path) == []


@pytest.mark.long
@pytest.mark.slow
def test_many_random_instructions_leave_what_they_leave_on_qemu(tmp_path: Path) -> None:
    for first in range(SEEDS, MORE, 2 * BATCH):
        assert _different(range(first, first + 2 * BATCH), tmp_path) == []
