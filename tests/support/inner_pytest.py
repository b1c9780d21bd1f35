"""Pytest run in a folder of its own, with the plugin as a user has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

SECONDS: Final = 120
GUEST: Final = """
id = "own"
title = "a guest"
question = "does it?"
source = "here"
cpus = 1
sources = ["own.s"]
success = "{success}"
[mutant]
policy = "fixed-16k"
"""
CODE: Final = """
.text
scenario_main:
    lea rdi, [rip+text]
    call print
    {code}
    xor eax, eax
    ret
.section .rodata
text:
    .asciz "{text}"
.p2align 3
scenario_pool:
    .quad 48
.data
scenario_tick:
    .long 0
"""


def pytest_in(folder: Path, *options: str, randomly: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder; its own plugins only as far as asked for."""
    command = [sys.executable, "-m", "pytest", "-rA", "--timeout=100", *options]
    command += [] if randomly else ["-p", "no:randomly"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What became of each test, by its id."""
    words = {"PASSED", "FAILED", "ERROR", "XFAIL", "SKIPPED"}
    lines = [line.split(" - ")[0] for line in done.stdout.splitlines()]
    return {rest: word for word, _, rest in (line.partition(" ") for line in lines) if word in words}


def section(done: subprocess.CompletedProcess[str]) -> str:
    """The first section `kstack` of a report; empty if there is none."""
    lines = done.stdout.splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("----") and line.strip("-").strip() == "kstack"]
    if not starts:
        return ""
    rest = lines[starts[0] + 1 :]
    end = next((at for at, line in enumerate(rest) if line.startswith(("====", "____", "----"))), len(rest))
    return "\n".join(rest[:end])


def write_guest(folder: Path, text: str, code: str = "", success: str = "", name: str = "test_own.toml") -> Path:
    """A scenario of one thread that prints a text, and executes code: its TOML."""
    (folder / "own.s").write_text(CODE.format(text=text, code=code))
    toml = folder / name
    toml.write_text(GUEST.format(success=success))
    return toml
