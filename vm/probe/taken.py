"""Modes out of a probe's file, and what results have to say that rest on them.

A value that trials point to is taken: everything else was refuted, or hardly ever seen. It is never a proof for the processor, so
results say on which one the value was not contradicted, and whether that is this host's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from kstack.base.documents import Document
from kstack.base.errors import ConfigError
from kstack.probe.cpu import CpuModel, host_cpu
from kstack.probe.file import FileMode, ProbeFile, read_probe

OTHER_CPU: Final = "modes of another CPU"
"""What marks each result, where the probe was of another processor than this host's."""


@dataclass(frozen=True)
class Taken:
    """What is taken from a probe.

    Attributes:
        file: it; "" for none.
        cpu: that it was measured on.
        host: this one.
        values: taken, by mode.
        given: what `--mode` says of modes that the probe speaks of: it wins.
        modes: all that the file says.
    """

    file: str = ""
    cpu: CpuModel | None = None
    host: CpuModel | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    modes: Mapping[str, FileMode] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """The values, as `--mode` has them."""
        return [f"{mode}={value}" for mode, value in self.values.items()]

    @property
    def is_foreign(self) -> bool:
        """Whether something rests on a probe of another processor than this host's."""
        return bool(self.values) and (self.cpu is None or not self.cpu.is_same(self.host))

    @property
    def mark(self) -> str:
        """What each result has to say beside its verdict; "" for nothing."""
        return OTHER_CPU if self.is_foreign else ""

    @property
    def lines(self) -> tuple[str, ...]:
        """What is said below results."""
        found = [f"{option}: not contradicted on CPU {self.cpu}, by {self.file}; no proof." for option in self.options]
        if self.is_foreign:
            host = self.host or "unknown"
            found.append(f"MODES OF ANOTHER CPU: this host's is {host}; what rests on them says nothing of it.")
        for mode, why in self._left_alone.items():
            found.append(f"{mode}: not taken, since {self.file} is inconclusive: {why}.")
        for mode in self._refuted:
            found.append(f"{mode}={self.given[mode]}, as --mode has it, is refuted on CPU {self.cpu}, by {self.file}.")
        return tuple(found)

    @property
    def _refuted(self) -> list[str]:
        return [mode for mode, value in self.given.items() if value in self.modes[mode].refuted]

    @property
    def _left_alone(self) -> dict[str, str]:
        """Modes of which the file says nothing that could be taken, and why."""
        return {
            mode: said.why for mode, said in self.modes.items() if mode not in self.values and mode not in self.given
        }

    def as_dict(self) -> Document:
        """What a command's JSON has of it; nothing without a probe."""
        if not self.file:
            return {}
        cpu, host = (None if one is None else msgspec.to_builtins(one) for one in (self.cpu, self.host))
        same = self.cpu is not None and self.cpu.is_same(self.host)
        said: Document = {"taken": dict(self.values), "not_taken": self._left_alone, "said": list(self.lines)}
        return {"modes_from": {"file": self.file, "cpu": cpu, "host": host, "same_cpu": same, **said}}


def taken_from(file: Path | None, mode: Sequence[str] | None, host: CpuModel | None = None) -> Taken:
    """What is taken from a probe's file; nothing without one.

    Args:
        file: it.
        mode: what `--mode` has, as name=value: it wins.
        host: processor; None for this host's.

    Raises:
        ConfigError: the file cannot be read, is no such file, is of another version or was changed; or it decides no mode.
    """
    if file is None:
        return Taken()
    found = read_probe(file)
    given = dict(option.partition("=")[::2] for option in mode or ())
    values = {name: said.value for name, said in found.modes.items() if said.conclusive and said.value is not None}
    if not values:
        raise ConfigError(f"{file} decides no mode: {_whys(found)}")
    return Taken(
        str(file),
        found.cpu,
        host or host_cpu(),
        {name: value for name, value in values.items() if name not in given},
        {name: value for name, value in given.items() if name in found.modes},
        found.modes,
    )


def _whys(found: ProbeFile) -> str:
    return "; ".join(f"{name}: {said.why}" for name, said in found.modes.items()) or "it speaks of none"
