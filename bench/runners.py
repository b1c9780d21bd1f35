"""Who runs a guest: our machine, bare Unicorn, QEMU. Each gives the CPU seconds that one run takes.

CPU time, since all of them compute without waiting, and other load on the host counts less in it.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.image import BARE_CODE, BARE_TABLES, bare_loop, image
from kstack.hw.mmu.moments import Drop, Fill, Use
from kstack.load import load
from kstack.machine import Machine, MachineConfig

if TYPE_CHECKING:
    pass

RAM: Final = 64 << 20
QUANTUM: Final = 1000  # units a slice where several CPUs take turns
ALONE: Final = 1 << 30
QEMU: Final = "qemu-system-x86_64"
EXIT_PASS: Final = 0x10


class Watching:
    """An instrument that listens as the oracle does, and keeps nothing."""

    def on_fill(self, moment: Fill) -> None:
        """A walk has cached a translation."""

    def on_drop(self, moment: Drop) -> None:
        """A cached translation has gone."""

    def on_use(self, moment: Use) -> None:
        """A stale translation is used."""


def machine_with(programs: tuple[str, ...], count: int, cpus: int = 1) -> Machine:
    """A machine with an observed MMU, the image loaded and nothing run yet."""
    machine = Machine(MachineConfig(cpus=cpus, ram=RAM))
    machine.instruments.add(Watching())
    load(machine, image(programs, count), "bench")
    return machine


def run_to_end(machine: Machine) -> None:
    """Let every CPU take its turn until the guest ends the run.

    Raises:
        RuntimeError: the guest failed.
    """
    quantum = ALONE if machine.cpu_count == 1 else QUANTUM
    while machine.end() is None:
        runnable = machine.runnable()
        if not runnable and not machine.warp():
            break
        for cpu in runnable:
            machine.run(cpu, quantum)
            if machine.end() is not None:
                break
    if machine.exit_port.code != EXIT_PASS:
        raise RuntimeError(f"the guest ended with {machine.end()}, code {machine.exit_port.code}")


def ours(programs: tuple[str, ...], count: int, cpus: int = 1) -> tuple[float, int]:
    """Seconds and instructions of one run on our machine, boot included."""
    machine = machine_with(programs, count, cpus)
    start = time.process_time()
    run_to_end(machine)
    return time.process_time() - start, sum(cpu.counts.instructions for cpu in machine.cpus)


def bare_unicorn(program: str, count: int, watched: bool = False) -> float:
    """Seconds of one loop on Unicorn alone: 64-bit mode, RAM mapped one to one, ended by HLT.

    No hooks, or, where it is watched, a Python hook at each block.

    Its own paging is on, for one reason: to make data not executable as it is in our guest. Without
    that Unicorn searches each page stored to for translated code, and is 5 to 10 times slower.
    """
    from unicorn import UC_ARCH_X86, UC_HOOK_BLOCK, UC_MODE_64, Uc, x86_const

    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    uc.mem_map(0, RAM)
    uc.mem_write(BARE_CODE, bare_loop(program, count))
    for address, entry in BARE_TABLES.items():
        uc.mem_write(address, entry.to_bytes(8, "little"))
    uc.reg_write(x86_const.UC_X86_REG_CR4, 0x620)  # PAE, SSE
    uc.reg_write(x86_const.UC_X86_REG_CR3, min(BARE_TABLES))
    uc.reg_write(x86_const.UC_X86_REG_MSR, (0xC0000080, 0xD00))  # IA32_EFER: LME, LMA, NXE
    uc.reg_write(x86_const.UC_X86_REG_CR0, 0x80010033)
    if watched:
        blocks: list[int] = []
        uc.hook_add(UC_HOOK_BLOCK, lambda _uc, address, _size, _data: blocks.append(address))
    start = time.process_time()
    uc.emu_start(BARE_CODE, 0xFFFF_FFFF)
    return time.process_time() - start


def has_qemu() -> bool:
    """Whether QEMU is installed."""
    return shutil.which(QEMU) is not None


def qemu(programs: tuple[str, ...], count: int, cpus: int = 1) -> float:
    """Seconds of one run on QEMU's TCG, start included; `has_qemu` says whether there is one.

    Raises:
        RuntimeError: the guest failed there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.elf"
        path.write_bytes(image(programs, count))
        command = [QEMU, "-accel", "tcg,thread=single", "-m", "64", "-smp", str(cpus), "-kernel", str(path)]
        command += ["-display", "none", "-serial", "null", "-no-reboot", "-nodefaults"]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
        start = _children_seconds()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
        seconds = _children_seconds() - start
    if done.returncode != EXIT_PASS << 1 | 1:
        raise RuntimeError(f"QEMU ended with status {done.returncode}: {done.stderr.decode()[:200]}")
    return seconds


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
