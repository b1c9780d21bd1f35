"""What kstack must know of the kernel that a guest runs, so that a policy can be its stacks' memory management.

A kernel here is the guest's side: it sees where the guest's own code creates, enters, switches and leaves threads, tells a
policy's host of it, and knows how CPUs ask each other to flush. Everything above speaks to this protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from kstack.stacks.hooks import HookKind

Touch = Callable[[int], None]
"""Told of the physical address of each word that is about to be accessed."""


class Kernel(Protocol):
    """The kernel of a guest.

    Attributes:
        shootdown_vector: of the interrupt by which a CPU asks another one to flush.
    """

    shootdown_vector: int

    @property
    def is_attached(self) -> bool:
        """Whether the machine's guest still tells it, and not one that was made later."""
        ...

    def asks(self, cpu: int) -> HookKind | None:
        """The hook that a CPU begins, or goes on with, by the instruction at which it stands; None if that is no hook's."""
        ...

    def post_flush(self, cpu: int, target: int, start: int, pages: int, touch: Touch) -> None:
        """Ask a CPU to flush pages, by a plain store where its handler looks.

        Args:
            cpu: who asks.
            target: who shall flush.
            start: linear address of the first page (bytes).
            pages: how many; 0 for everything.
            touch: told of each word.
        """
        ...

    def has_flushed(self, cpu: int, target: int, touch: Touch) -> bool:
        """Whether a CPU has acknowledged all that it was asked; `cpu` looks."""
        ...

    def posting_words(self, target: int) -> list[int]:
        """Physical addresses of the words that `post_flush` stores, as far as they are mapped."""
        ...

    def waiting_words(self, target: int) -> list[int]:
        """Physical addresses of the words that `has_flushed` loads, as far as they are mapped."""
        ...

    def snapshot(self) -> Any:
        """What it has learned of its guest, immutable."""
        ...

    def restore(self, state: Any) -> None:
        """Become what `snapshot` returned."""
        ...
