"""Which processor this is, as Linux has it: /proc/cpuinfo."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Final

import msgspec

from kstack.base.errors import ConfigError

CPUINFO: Final = Path("/proc/cpuinfo")
UNKNOWN: Final = "unknown"


class CpuModel(msgspec.Struct, frozen=True):
    """A processor.

    Attributes:
        vendor: as CPUID says it.
        family, model, stepping: as Linux shows them; -1 where it does not.
        microcode: its revision; a hypervisor may make one up.
        name: for people.
    """

    vendor: str
    family: int
    model: int
    stepping: int
    microcode: str
    name: str = ""

    def __str__(self) -> str:
        """It in words."""
        name = f"{self.name} " if self.name else ""
        numbers = f"family {self.family} model {self.model} stepping {self.stepping}"
        return f"{name}({self.vendor} {numbers}, microcode {self.microcode})"

    def is_same(self, other: CpuModel | None) -> bool:
        """Whether the two are one kind of processor, its microcode included; the name is for people."""
        return other is not None and _identity(self) == _identity(other)


def _identity(cpu: CpuModel) -> tuple[object, ...]:
    return cpu.vendor, cpu.family, cpu.model, cpu.stepping, cpu.microcode


def check_can_probe(number: int | None) -> None:
    """Find out whether this is a system on which the processor can be asked.

    Args:
        number: of the CPU that is meant; None for any.

    Raises:
        ConfigError: it is not, or has no such CPU for this process.
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise ConfigError(f"kstack probe needs Linux on x86-64, and this is {system} on {machine}")
    usable = sorted(os.sched_getaffinity(0))
    if number is not None and number not in usable:
        raise ConfigError(f"--cpu {number}: this process may use {', '.join(map(str, usable))}")


def host_cpu(number: int | None = None, path: Path = CPUINFO) -> CpuModel | None:
    """A processor of this host; None where it is no x86, or the system does not say.

    Args:
        number: of the CPU; None for the first.
        path: what the system says.
    """
    try:
        records = path.read_text().split("\n\n")
    except OSError:
        return None
    for record in records:
        found = dict(re.findall(r"^(.+?)\s*:[ ]?(.*)$", record, re.MULTILINE))
        if "vendor_id" in found and number in (None, int(found["processor"])):
            return _model(found)
    return None


def _model(found: dict[str, str]) -> CpuModel:
    numbers = (found.get(name, "") for name in ("cpu family", "model", "stepping"))
    family, model, stepping = (int(number) if number.isdecimal() else -1 for number in numbers)
    microcode = found.get("microcode", UNKNOWN)
    return CpuModel(found["vendor_id"], family, model, stepping, microcode, found.get("model name", ""))
