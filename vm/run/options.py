"""How a session runs, and whether a guest has what that takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from kstack.base.errors import ConfigError
from kstack.stacks.host.pool import PoolConfig, Pools


@dataclass(frozen=True)
class RunOptions:
    """How a session runs.

    Attributes:
        max_time: units of virtual time from the session's start.
        max_work: units of the host's work (`Machine.work`) from the run's start; None for no bound.
        stop_at_finding: end at the first finding that is not ignored.
        pool: how page pools behave.
        adversary: seed of speculative fills and evictions, in the mode tlb=adversarial.
        undisturbed: there are none of these, whatever the mode: a run that is measured, not judged.
        hashed: give the result a state hash, which costs as much as a few hundred instructions.
        ignored: kinds of findings at which it does not end.
        exact_pools: refuse pools for which the guest has not enough pages; else they get what there is.
        strict: a guest that sets up what is not modelled (kstack.hw.cpu.declared) ends there.
    """

    max_time: int = 100_000_000
    stop_at_finding: bool = False
    pool: PoolConfig = field(default_factory=PoolConfig)
    adversary: int = 0
    undisturbed: bool = False
    hashed: bool = True
    ignored: frozenset[str] = frozenset()
    exact_pools: bool = False
    strict: bool = False
    max_work: int | None = None


def check_pools(options: RunOptions, pools: Pools, cpus: int, frames: int) -> None:
    """Find out whether pools can be as the options say, where they insist on it.

    Args:
        options: of the run.
        pools: as the guest has filled them.
        cpus: of the machine.
        frames: that the guest has given.

    Raises:
        ConfigError: they cannot.
    """
    pool = options.pool
    if not options.exact_pools:
        return
    if (pool.per_cpu, pool.shared, pool.reserve) == (None, 0, None):  # the policy's pools, or the usual ones
        if cpus > 1 and 0 < frames <= pools.target * cpus:
            most = max(1, (frames - 1) // pools.target)
            raise ConfigError(
                f"--cpus {cpus}: the pools of so many CPUs, {pools.target} pages each, leave nothing of the {frames} "
                f"pages that this guest has for its stacks; give --cpus {most} or less, or --pool-pages"
            )
        return  # as far as there are pages
    wanted = pools.target * cpus + pool.shared + (pool.reserve or 0)
    if wanted > frames:
        raise ConfigError(
            f"--pool-pages {pools.target} for {cpus} CPUs, --pool-shared {pool.shared} and --pool-reserve "
            f"{pool.reserve or 0} are {wanted} pages, and this guest has {frames} for its stacks; give less"
        )
