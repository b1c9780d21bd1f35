"""Runs hostile guests one after the other in this process: `python -m tests.fuzz.hostile_runs FIRST COUNT [states|kinds]`.

Each seed is named before it runs, with its kind where it has one, so that whoever started this can say which one ended the
host; behind it stands how it ended. The last line is JSON: the slowest, and memory. Anything but a documented
`KstackError` ends the program. Of the two generators `states` puts machines into states (hostile_guests.py, hostile_code.py), and
`kinds` makes images (hostile_kinds.py).
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from kstack.base.errors import EngineError, KstackError, PolicyError
from kstack.hw.cpu.state import ActivityState
from kstack.hw.engine import Registers
from kstack.hw.modes import READINGS, Modes
from kstack.load import Symbols
from kstack.machine import Machine, MachineConfig
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler
from kstack.stacks import Policy
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.loading.registry import policies
from kstack.x86.registers import Gpr, Seg
from tests.fuzz import hostile_code as code
from tests.fuzz.bounds import bounded, peak
from tests.support import hostile_guests as guests
from tests.support import hostile_kinds as kinds

UNITS: Final = 600  # of virtual time that a guest may run
SECONDS: Final = 20.0  # of processor time: a hundred times what the slowest takes
MEMORY: Final = 256 << 20  # bytes by which one guest may raise the peak
GROWTH: Final = 64 << 20  # bytes by which all may raise what stays, once WARM have run
WARM: Final = 60
TWICE: Final = 10  # of so many seeds one is run twice
COLLECT: Final = 20
CRASH: Final = "KSTACK_HOSTILE_CRASH"  # environment: the seed at which to crash, which tests the tests
IMAGES: Final = ("flat", "multiboot", "pvh", "elf32", "elf64", "long", "tables")
_PROCESSOR = time.process_time  # for the report
SEGMENTS: Final = (Seg.CS, Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS, Seg.GDTR, Seg.IDTR, Seg.TR)


@cache
def _policies() -> list[type[Policy]]:
    return list(policies().values())


def _modes(rng: random.Random) -> Modes:
    modes = Modes()
    tlb, speculation = rng.choice(("retain", "adversarial", "capacity:4")), rng.choice(READINGS)
    for option in (f"tlb={tlb}", f"speculation={speculation}"):
        modes = modes.with_option(option) if rng.random() < 0.5 else modes
    return modes


def empty_areas(machine: Machine) -> None:
    """Clear the leaf entries of the stack areas, as a kernel that uses hypercalls does."""
    for page in range(code.AREA >> 12, (code.AREA + code.AREA_BYTES * code.THREADS) >> 12):
        machine.memory.write64(guests.TABLES + 0x3000 + 8 * page, 0)


def start(machine: Machine, rng: random.Random, hypercalls: bool) -> None:
    """All CPUs in long mode, each in a program of its own."""
    guests.long_mode(machine, rng)
    if rng.random() < 0.8:
        empty_areas(machine)
    first = machine.cpus[0].registers
    for cpu in machine.cpus:
        registers = cpu.registers
        if cpu.index:
            _copy(first, registers)
            cpu.state = ActivityState.RUNNING if rng.random() < 0.8 else cpu.state
            cpu.mmu.update()
            cpu.engine.flush()
        place = guests.CODE + 0x2000 * cpu.index
        if hypercalls or rng.random() < 0.8:
            registers.set_segment(Seg.CS, registers.segment(Seg.CS)._replace(selector=guests.KCODE, flags=0xAF9B00))
            registers.set_segment(Seg.SS, registers.segment(Seg.SS)._replace(selector=guests.KDATA, flags=0xCF9300))
        machine.memory.write(place, code.program(rng, hypercalls, cpu.index, machine.cpu_count)[:0x2000])
        registers.rip = place
        registers.gpr[Gpr.RSP] = guests.STACK_TOP - 0x3000 * cpu.index - 64


def _copy(one: Registers, other: Registers) -> None:
    for number in (0, 3, 4):
        other.cr[number] = one.cr[number]
    for segment in SEGMENTS:
        other.set_segment(segment, one.segment(segment))
    other.efer, other.rflags = one.efer, one.rflags
    for number in range(16):
        other.gpr[number] = one.gpr[number]


def _session(machine: Machine, rng: random.Random, seed: int) -> Session:
    policy = rng.choice(_policies())() if rng.random() < 0.95 else None
    schedule: Scheduler = RandomSchedule(seed) if rng.random() < 0.7 else RoundRobin(rng.choice((1, 7, 100)))
    pool = PoolConfig(rng.choice(("lifo", "fifo", "seeded")), rng.choice((None, 0, 2)), seed, 0, rng.choice((None, 4)))
    options = RunOptions(UNITS, pool=pool, adversary=seed, hashed=False)
    return Session(machine, Symbols([]), schedule, policy, options)


def run_seed(seed: int) -> tuple[str, Machine | None]:
    """How a guest ended, and its machine; None where the loader refused it.

    Raises:
        Exception: what no guest may cause.
    """
    rng = random.Random(f"hostile {seed}")
    kind = rng.choice((*IMAGES, "code", "code", "calls", "calls", "calls"))
    if kind in IMAGES:
        found = guests.KINDS[kind](seed)
        return (f"{kind}: refused", None) if found is None else (f"{kind}: {_end(found)}", found)
    machine = Machine(MachineConfig(rng.choice((1, 1, 2, 3)), guests.RAM, _modes(rng)))
    start(machine, rng, kind == "calls")
    if kind == "code":
        guests.run(machine, rng, UNITS)
        return f"code: {_end(machine)}", machine
    session = _session(machine, rng, seed)
    try:
        result = session.run()
        ended, wrong = result.ended, bool(result.findings)
    except PolicyError as error:
        return f"calls: policy error: {str(error).split(' raised ')[-1].split(':')[0][:60]}", machine
    misuse = any(cpu.unsupported for cpu in machine.cpus)
    return f"calls: {'misuse' if misuse else ended}{', with findings' if wrong else ''}", machine


def _end(machine: Machine) -> str:
    end = machine.end()
    return "still running" if end is None else end.name.lower()


class Generator(NamedTuple):
    """Where guests come from: how one is run, and what its kind is called before it has run."""

    run: Callable[[int], tuple[str, Machine | None]]
    kind: Callable[[int], str]


GENERATORS: Final = {"states": Generator(run_seed, lambda seed: ""), "kinds": Generator(kinds.run_kind, kinds.kind_of)}


def tried(seed: int, generator: Generator = GENERATORS["states"]) -> tuple[str, str | None]:
    """How a guest ended and the hash of its machine, within bounds.

    Raises:
        Hang, Bomb: it took more than it may.
        Exception: what no guest may cause.
    """
    with bounded(SECONDS, MEMORY):
        try:
            ended, machine = generator.run(seed)
        except EngineError:
            raise
        except KstackError as error:
            return f"{generator.kind(seed) or 'refused'}: {type(error).__name__}", None
        return ended, None if machine is None else machine.state_hash()


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main(first: int, count: int, generator: Generator) -> None:
    """Run the seeds; the report is the last line."""
    faulthandler.enable()
    slowest: tuple[float, int] = (0.0, -1)
    settled = 0
    for seed in range(first, first + count):
        print(seed, generator.kind(seed), flush=True)
        if os.environ.get(CRASH) == str(seed):
            os.kill(os.getpid(), signal.SIGSEGV)
        started = _PROCESSOR()
        ended, state = tried(seed, generator)
        slowest = max(slowest, (_PROCESSOR() - started, seed))
        if seed % TWICE == 0 and (again := tried(seed, generator)) != (ended, state):
            raise AssertionError(f"seed {seed} ended as {ended}, {state}, and then as {again}")
        print(f"= {ended}", flush=True)
        if seed % COLLECT == 0:
            gc.collect()
        if seed - first == WARM:
            settled = resident()
    gc.collect()
    growth = resident() - settled if settled else 0
    if growth > GROWTH:
        raise AssertionError(f"{growth >> 20} MiB stay of {count - WARM} guests")
    report: dict[str, Any] = {"slowest": slowest, "peak": peak(), "growth": growth}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), GENERATORS[(*sys.argv[3:], "states")[0]])
