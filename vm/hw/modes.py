"""What the manuals leave open, as modes that a run chooses and records.

Each mode decides a dispute: the same guest and policy may be safe under one value and unsafe under
another. The defaults are the readings that the SDM's text supports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from kstack.base.errors import ConfigError

READINGS: Final = ("needs-accessed", "sets-accessed", "keeps-accessed-clear")
"""How the rule that nothing is cached unless Accessed is set (SDM 4.10.2.3) is read of fills that no instruction asked for.

Whatever the first lets a processor do, each of the others does too; of these neither has all of the other's.
"""
VALUES: Final[dict[str, tuple[str, ...]]] = {
    "speculation": ("none", *READINGS),
    "interrupted-delivery": ("restarted", "lost"),
    "df-restart": ("exact", "undefined"),
    "dirty-rewalk": ("yes", "no"),
    "stack-fault-delivery": ("policy", "df", "ist", "fred"),
    "kernel-pages": ("global", "pcid"),
    "memory-order": ("sc", "tso", "tso-walks-memory"),
}


@dataclass(frozen=True)
class Modes:
    """The architecture modes of one run.

    Attributes:
        speculation: what a fill that no instruction asked for does to Accessed: there are no such
            fills; it goes only through entries that have A at every level, and changes nothing (what user space
            sees of a processor: docs/disputes/speculation.md); it sets A first (SDM 4.10.2.3); it leaves A as it
            is (Stevens, June 2026).
        tlb: `retain` keeps every entry until the rules drop it; `capacity N` keeps N entries in
            each of the instruction and data TLBs and drops the oldest; `adversarial` fills
            speculatively and drops at moments chosen by seed.
        interrupted_delivery: what becomes of an interrupt whose delivery faults (SDM 6.15).
        df_restart: whether the state saved at #DF can be returned to (the SDM says no).
        dirty_rewalk: whether a write through an entry with D=0 walks again (SDM 4.8).
        stack_fault_delivery: how a guest that listens takes a page fault on a kernel stack: without a
            stack of its own, so as #DF; on an IST stack; by FRED at stack level 1; or as the policy
            that is judged says (`resolved`).
        kernel_pages: whether a guest that listens maps kernel pages global, or not global and with
            PCIDs, as Linux does with page-table isolation.
        memory_order: sequentially consistent; x86-TSO, where a walk finds what its own CPU has stored (Linux
            relies on that); or x86-TSO where it may not, since no manual promises it. Only explored.
    """

    speculation: str = "sets-accessed"
    tlb: str = "retain"
    interrupted_delivery: str = "restarted"
    df_restart: str = "undefined"
    dirty_rewalk: str = "yes"
    stack_fault_delivery: str = "policy"
    kernel_pages: str = "global"
    memory_order: str = "sc"

    @property
    def capacity(self) -> int:
        """Entries a TLB holds, 0 for no limit."""
        return int(self.tlb.split()[1]) if self.tlb.startswith("capacity") else 0

    def resolved(self, delivery: str) -> Modes:
        """These with the policy's way of taking stack faults where the user chose none."""
        return replace(self, stack_fault_delivery=delivery) if self.stack_fault_delivery == "policy" else self

    def as_dict(self) -> dict[str, str]:
        """Names as on the command line, for results and recordings."""
        return {f.name.replace("_", "-"): getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, named: Mapping[str, str]) -> Modes:
        """Modes by their names and values, as `as_dict` gives them and files have them; the others are the defaults.

        Raises:
            ConfigError: no such mode, or no such value.
        """
        return cls().with_options(f"{name}={value}" for name, value in named.items())

    def with_options(self, options: Iterable[str]) -> Modes:
        """This with several `name=value` of the command line; of two for one mode the later holds.

        Raises:
            ConfigError: no such mode, or no such value.
        """
        modes = self
        for option in options:
            modes = modes.with_option(option)
        return modes

    def with_option(self, option: str) -> Modes:
        """This with one `name=value` of the command line.

        Raises:
            ConfigError: no such mode, or no such value.
        """
        name, equals, value = option.partition("=")
        known = [f.name.replace("_", "-") for f in fields(self)]
        if not equals or name not in known:
            raise ConfigError(f"mode {option!r}: write name=value with a name of {', '.join(known)}")
        if name == "tlb":
            words = value.replace(":", " ").split()
            sized = len(words) == 2 and words[0] == "capacity" and re.fullmatch("0*[1-9][0-9]{0,8}", words[1])
            if not sized and value not in ("retain", "adversarial"):
                raise ConfigError(f"mode tlb={value}: one of retain, adversarial, capacity:N with N >= 1")
            value = " ".join(words)
        elif value not in VALUES[name]:
            raise ConfigError(f"mode {name}={value}: one of {', '.join(VALUES[name])}")
        changed: dict[str, Any] = {name.replace("-", "_"): value}
        return replace(self, **changed)
