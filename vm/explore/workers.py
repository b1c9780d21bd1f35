"""Where states are expanded: here, in other processes, or on a dask.distributed cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from kstack.base.errors import ConfigError

CONNECT_SECONDS = 10


@contextmanager
def executor_of(jobs: int, dask: str | None) -> Iterator[Executor | None]:
    """An executor for as long as the block lasts; None to expand states in this process.

    Args:
        jobs: processes on this machine.
        dask: address of a scheduler, like tcp://127.0.0.1:8786; it is asked instead of `jobs`.

    Raises:
        ConfigError: dask is not installed, or nobody answers at the address.
    """
    if dask is not None:
        with _dask(dask) as executor:
            yield executor
    elif jobs == 1:
        yield None
    else:
        with ProcessPoolExecutor(jobs) as executor:
            yield executor


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as missing:
        raise ConfigError("--dask needs dask.distributed; install it with: pip install 'kstack[dask]'") from missing
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--dask {address}: no scheduler answers there ({error})") from error
    try:
        executor: Executor = client.get_executor(pure=False)
        yield executor
    finally:
        client.close()
