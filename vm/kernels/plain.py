"""A kernel whose guest asks no policy for anything: its facts, its events, and perhaps whose its frames are.

To judge another kernel, derive from this: give it `facts`, and `frames` (a `FrameSource`) where it gives and frees them itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from kstack.kernels.kernel import Facts, Host, KernelState, Touch
from kstack.machine import Machine
from kstack.sanitizer.frames import FrameSource
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import GuestMisuse

_ALL_ONES = 0xFFFFFFFF


class PlainKernel:
    """On one machine, until another kernel is made for it.

    Args:
        machine: whose guest it is.
        facts: what is so of it on every machine.
        port: by which its guest marks events (`out`), and which must be nobody's; it is claimed.
        events: their names, by what is written.
    """

    def __init__(self, machine: Machine, facts: Facts, port: int, events: Mapping[int, str]) -> None:
        self.facts = facts
        self._machine, self._port, self._events = machine, port, events
        self._host: Host | None = None
        machine.release_port(port)
        machine.claim_port(port, self)

    # --- PortClaim

    def read(self, cpu: int, size: int) -> int:
        """IN: there is nothing to be read."""
        return _ALL_ONES

    def write(self, cpu: int, size: int, value: int) -> bool:
        """OUT: the guest marks an event, and its slice ends; a value without a name is none."""
        name = self._events.get(value)
        if name is not None and self._host is not None:
            self._machine.cpus[cpu].yielded = True
            self._host.mark(cpu, name)
        return True

    # --- Kernel

    def serve(self, host: Host) -> None:
        """Tell this host of events."""
        self._host = host

    @property
    def frames(self) -> FrameSource | None:
        """Nobody follows them."""
        return None

    @property
    def is_attached(self) -> bool:
        """Whether the port is still this one's."""
        return self._machine.claims(self._port, self)

    def asks(self, cpu: int) -> HookKind | None:
        """It asks for no hook."""
        return None

    def post_flush(self, cpu: int, target: int, start: int, pages: int, touch: Touch) -> None:
        """There is nobody to ask.

        Raises:
            GuestMisuse: always.
        """
        raise GuestMisuse("this kernel flushes by itself")

    def has_flushed(self, cpu: int, target: int, touch: Touch) -> bool:
        """As `post_flush`.

        Raises:
            GuestMisuse: always.
        """
        raise GuestMisuse("this kernel flushes by itself")

    def posting_words(self, target: int) -> list[int]:
        """None."""
        return []

    def waiting_words(self, target: int) -> list[int]:
        """None."""
        return []

    def snapshot(self) -> KernelState:
        """It has learned nothing."""
        return ()

    def restore(self, state: KernelState) -> None:
        """There is nothing to become."""
