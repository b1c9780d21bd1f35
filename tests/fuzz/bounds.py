"""What one input may cost: processor time, and memory that stays or was needed at the same time.

A target may raise nothing but a `KstackError`. Time is the process's own, so that a busy host makes no
difference; the watchdog interrupts Python, and raises no `Exception`, so that no target can take it for damage.
"""

from __future__ import annotations

import gc
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from kstack.base.errors import KstackError

SECONDS: Final = 10.0  # of processor time, an input of some KiB
MEMORY: Final = 512 << 20  # bytes by which an input may raise the process's peak
OFTEN: Final = 4  # inputs between two collections of garbage
ADDRESSES: Final = 32 << 30  # bytes of address space, of which a CPU's engine takes one GiB: the last resort
TICK: Final = 0.05  # seconds of processor time between two looks


_PROCESSOR = time.process_time  # a watchdog's: it decides when a test fails, and nothing else
_tried = 0


class Hang(BaseException):
    """An input took more time than it may."""


class Bomb(BaseException):
    """An input took more memory than it may."""


def limit_addresses() -> None:
    """Bound this process's address space."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def peak() -> int:
    """Most bytes that this process has had in memory; getrusage counts its parent's, from before exec, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


@contextmanager
def bounded(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Do something within bounds.

    Args:
        seconds: of processor time.
        memory: bytes by which the peak may rise.

    Raises:
        Hang: it took longer.
        Bomb: it took more.
    """

    def look(_signal: int, _frame: FrameType | None) -> None:
        late, much = _PROCESSOR() > end, peak() - before > memory
        if late or much:
            signal.setitimer(signal.ITIMER_PROF, 0)  # once is enough
        if late:
            raise Hang(f"more than {seconds:g} s of processor time")
        if much:
            raise Bomb(f"more than {memory >> 20} MiB")

    before, end, old = peak(), _PROCESSOR() + seconds, signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN if old is signal.SIG_DFL else old)  # one may be on its way
    if peak() - before > memory:
        raise Bomb(f"more than {memory >> 20} MiB")


def tried(run: Callable[[bytes], object], data: bytes) -> KstackError | None:
    """What a target says of an input: the error, None if it took it.

    Raises:
        Hang, Bomb: out of bounds.
        Exception: whatever is no `KstackError`, which is a bug.
    """
    global _tried
    _tried += 1
    if _tried % OFTEN == 0:
        gc.collect()  # machines hold 130 MiB of address space each, and are parts of cycles
    with bounded():
        try:
            run(data)
        except KstackError as error:
            return error
    return None
