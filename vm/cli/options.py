"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kstack.hw.modes import Modes
from kstack.load import Format
from kstack.probe.taken import Taken, taken_from
from kstack.recording import Recording, check_rules, other_rules, read_recording
from kstack.stacks.host.pool import PoolConfig


def modes_of(options: list[str] | None, modes: Modes = Modes()) -> Modes:
    """`modes` with repeated `--mode name=value`."""
    return modes.with_options(options or ())


def measured_modes(file: Path | None, options: list[str] | None, modes: Modes = Modes()) -> tuple[Modes, Taken]:
    """`modes` with what a probe did not refute, and with repeated `--mode name=value`, which wins.

    Raises:
        ConfigError: the probe's file is refused, or decides nothing; no such mode, or no such value.
    """
    chosen = modes_of(options, modes)  # what is wrong with these is told first
    taken = taken_from(file, options)
    return chosen.with_options(taken.options), taken


def recording_in(file: Path, anyway: bool) -> Recording:
    """A recording that this machine can repeat; or `anyway` one of another machine, saying so.

    Raises:
        RecordingError: it cannot be read, or was made under other rules of the machine.
    """
    recording = read_recording(file)
    check_machine(file, recording.rules, anyway)
    return recording


def check_machine(file: Path, rules: int, anyway: bool) -> None:
    """Refuse what was saved under other rules of the machine; or say `anyway` that it is not the same machine.

    Raises:
        RecordingError: the rules are others.
    """
    check_rules(file, rules, anyway)
    why = other_rules(rules)
    if why is not None:
        print(f"kstack: {file} {why}: not the same machine", file=sys.stderr)


def split(names: str | None) -> list[str] | None:
    """The names in a comma-separated list; None stays None."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


@Parameter(name="*")
@dataclass(frozen=True)
class PoolOptions:
    """How the machine's pools of stack pages behave.

    Attributes:
        pool: order in which a pool gives frames out: lifo, fifo or seeded.
        pool_pages: pages in each CPU's pool at boot; None leaves it to the policy.
        pool_shared: pages of a pool that all CPUs fall back on.
        pool_reserve: pages that the page allocator has beside the pools; None for all there are.
    """

    pool: Annotated[str, Parameter(help="Order in which pools give frames out: lifo, fifo or seeded.")] = "lifo"
    pool_pages: Annotated[int | None, Parameter(help="Pages in each CPU's pool (default: the policy's, or 8).")] = None
    pool_shared: Annotated[int, Parameter(help="Pages of a pool that all CPUs fall back on.")] = 0
    pool_reserve: Annotated[int | None, Parameter(help="Pages of the page allocator (default: all there are).")] = None

    def config(self, seed: int = 0) -> PoolConfig:
        """The pools' configuration."""
        return PoolConfig(self.pool, self.pool_pages, seed, self.pool_shared, self.pool_reserve)


Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON document, and nothing else.")]
ImageFormat = Annotated[
    Format,
    Parameter(help="What a file is taken for: what stands in it (auto), or 16-bit code for 0000:7c00 (flat)."),
]
Anyway = Annotated[
    bool,
    Parameter(
        name="--anyway",
        negative=(),
        help="Repeat also what was recorded under another version of the machine's rules; it may come to something else.",
    ),
]
ModeList = Annotated[
    list[str] | None, Parameter(name="--mode", negative=(), help="Architecture mode as name=value; repeatable.")
]
ModesFrom = Annotated[
    Path | None,
    Parameter(
        name="--modes-from",
        help="Modes that this file of `kstack probe` points to; --mode wins, and nothing is proved by it.",
    ),
]
