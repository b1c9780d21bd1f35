"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from vm.hw.modes import Modes
from vm.stacks.pool import PoolConfig


def modes_of(options: list[str] | None, modes: Modes = Modes()) -> Modes:
    """`modes` with repeated `--mode name=value`."""
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
ModeList = Annotated[
    list[str] | None, Parameter(name="--mode", negative=(), help="Architecture mode as name=value; repeatable.")
]
