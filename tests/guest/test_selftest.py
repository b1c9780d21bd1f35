"""Requirement 4: the kernel's self-test says the same on this machine and on QEMU, with 1, 2 and 4 CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.guest.images import build_image
from tests.support.consoles import selftest_console
from tests.support.qemu import on_qemu


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_every_self_test_passes_on_the_machine(cpus: int) -> None:
    console = selftest_console(cpus)
    assert "FAIL" not in console
    assert " passed, 0 failed\n" in console
    assert ("SKIP" in console) == (cpus == 1)


@pytest.mark.slow
def test_the_console_does_not_depend_on_the_quantum() -> None:
    assert selftest_console(2, 1000) == selftest_console(2, 317)


@pytest.mark.slow
@pytest.mark.system("qemu-system-x86_64")
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_the_console_is_the_same_on_qemu(cpus: int, tmp_path: Path) -> None:
    image = tmp_path / "selftest.elf"
    image.write_bytes(build_image("selftest").to_elf())
    done = on_qemu(image, cpus=cpus, ram=64)
    assert done.returncode & 1, done.stderr
    assert selftest_console(cpus).replace("\r", "") == done.stdout.replace("\r", "")
