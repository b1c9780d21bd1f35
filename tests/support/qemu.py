"""A guest image on QEMU, headless, its console on stdout, ended by the debug-exit port."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

KVM: Final = Path("/dev/kvm")


def on_qemu(
    image: Path, *more: str, cpus: int = 1, ram: int = 8, accel: str = "tcg"
) -> subprocess.CompletedProcess[str]:
    """Run an image to its end.

    Args:
        image: what `-kernel` takes.
        more: further options.
        cpus: how many.
        ram: MiB.
        accel: who executes it.
    """
    command = ["qemu-system-x86_64", "-kernel", str(image), "-smp", str(cpus), "-m", str(ram), "-accel", accel]
    command += ["-display", "none", "-nodefaults", "-serial", "stdio", "-monitor", "none", "-no-reboot"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)


def qemu_version() -> str:
    """Like 7.2."""
    done = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
    return ".".join(done.stdout.split("version ")[1].split(".")[:2])


def why_no_kvm() -> str:
    """Why KVM cannot be asked for on this host; empty if it can."""
    if not KVM.exists():
        return f"there is no {KVM}"
    return "" if os.access(KVM, os.R_OK | os.W_OK) else f"{KVM} may not be opened"
