"""A guest image on QEMU's TCG, headless, its console on stdout, ended by the debug-exit port."""

from __future__ import annotations

import subprocess
from pathlib import Path


def on_qemu(image: Path, *more: str, cpus: int = 1, ram: int = 8) -> subprocess.CompletedProcess[str]:
    """Run an image to its end.

    Args:
        image: what `-kernel` takes.
        more: further options.
        cpus: how many.
        ram: MiB.
    """
    command = ["qemu-system-x86_64", "-kernel", str(image), "-smp", str(cpus), "-m", str(ram), "-accel", "tcg"]
    command += ["-display", "none", "-nodefaults", "-serial", "stdio", "-monitor", "none", "-no-reboot"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
