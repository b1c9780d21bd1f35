"""Executions a second of two CPUs that count a shared number up, beside frontrun, which does so with Python's threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.harness import Row, at_least
from kstack.explore.breadth_first import Outcome
from kstack.explore.dpor import dpor
from kstack.explore.problem import Bounds, Problem
from kstack.explore.sample import sample
from kstack.hw.modes import Modes
from kstack.stacks.loading.registry import find_policy

INCREMENTS: Final = 3  # of each CPU
WALKS: Final = 2000
PEER_WALKS: Final = 500
PEERS: Final = Path(__file__).parent / "peers"
INSTALLED: Final = PEERS / "installed"  # `make bench` puts frontrun there: it must not be where tests run


def write_guest(folder: Path) -> Path:
    """The scenario: its TOML."""
    count = "    mov rax, [r15]\n    inc rax\n    mov [r15], rax\n" * INCREMENTS + "    jmp litmus_end\n"
    (folder / "counter.s").write_text(
        f".text\nprogram_0:\n{count}program_1:\n{count}.section .rodata\n"
        'scenario_name:\n    .asciz "counter"\n.p2align 3\nscenario_pool:\n    .quad 48\n'
        "litmus_stacks:\n    .quad 0\nlitmus_programs:\n    .quad program_0, program_1, 0\n"
    )
    toml = folder / "counter.toml"
    toml.write_text(
        'id = "counter"\ntitle = "counter"\nquestion = "are updates lost?"\nsource = "none"\n'
        'cpus = 2\nsources = ["lib_litmus.s", "counter.s"]\nsuccess = ""\nlitmus = true\n'
        'events = ["ready", "done", "wrong"]\n[mutant]\npolicy = "fixed-16k"\n'
    )
    return toml


def frontrun() -> dict[str, float]:
    """Executions a second of frontrun by strategy; nothing where it is not installed.

    Raises:
        RuntimeError: it failed.
    """
    if not INSTALLED.is_dir():
        return {}
    command = [sys.executable, "-m", "frontrun.cli", sys.executable, str(PEERS / "counter.py")]
    done = subprocess.run(
        [*command, str(INCREMENTS), str(PEER_WALKS)],
        env={**os.environ, "PYTHONPATH": str(INSTALLED)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"frontrun: {done.stdout}{done.stderr}")
    return {name: count / seconds for name, (count, seconds) in json.loads(done.stdout.splitlines()[-1]).items()}


def run() -> list[Row]:
    """All executions up to the order of what is independent, and random walks; boot and the first look included."""
    policy, theirs = find_policy("fixed-16k"), frontrun()
    rows = []
    with TemporaryDirectory() as place:
        toml = str(write_guest(Path(place)))
        explorers: dict[str, Callable[[], Outcome]] = {
            "dpor": lambda: dpor(Problem(toml, policy, Modes())),
            "random": lambda: sample(Problem(toml, policy, Modes()), Bounds(executions=WALKS)),
        }
        for strategy, explore in explorers.items():
            start = time.perf_counter()
            outcome = explore()
            rate = outcome.executions / (time.perf_counter() - start)
            name, other = f"{strategy}: {outcome.executions} executions", theirs.get(strategy)
            target, met = at_least(rate, other, "above the peer") if other else (None, None)
            rows.append(Row("counter", name, rate, "/s", "frontrun" if other else None, other, target, met))
    return rows
