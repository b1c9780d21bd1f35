"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from vm.errors import ConfigError
from vm.hw.modes import Modes
from vm.stacks.pool import PoolConfig

_SIZE: Final = re.compile(r"([0-9]+)([KMG]?)")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """Bytes of a size like 64M.

    Raises:
        ConfigError: it is none.
    """
    match = _SIZE.fullmatch(text.upper().removesuffix("IB").removesuffix("B"))
    if match is None:
        raise ConfigError(f"size {text!r}: write a number of bytes, or like 64M, 1G")
    return int(match[1]) * _UNITS[match[2]]


def modes_of(options: list[str] | None) -> Modes:
    """Modes from repeated `--mode name=value`."""
    modes = Modes()
    for option in options or []:
        modes = modes.with_option(option)
    return modes


def split(names: str | None) -> list[str] | None:
    """The names in a comma-separated list; None stays None."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


@Parameter(name="*")
@dataclass(frozen=True)
class PoolOptions:
    """How the machine's pools of stack pages behave.

    Attributes:
        pool: order in which a pool gives frames out: lifo, fifo or seeded.
        pool_pages: pages in each CPU's pool at boot.
    """

    pool: Annotated[str, Parameter(help="Order in which pools give frames out: lifo, fifo or seeded.")] = "lifo"
    pool_pages: Annotated[int, Parameter(help="Pages in each CPU's pool at boot.")] = 8

    def config(self, seed: int = 0) -> PoolConfig:
        """The pools' configuration."""
        return PoolConfig(self.pool, self.pool_pages, seed)


Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON document, and nothing else.")]
ModeList = Annotated[
    list[str] | None, Parameter(name="--mode", negative=(), help="Architecture mode as name=value; repeatable.")
]
