"""Policies to be broken, and one that is."""

from __future__ import annotations

from kstack.policies.fixed_16k import Fixed16K
from kstack.stacks import Steps, Thread, map_pages, reclaim_with_shootdown


class Broken(Fixed16K):
    """fixed-16k, to be broken."""

    id, title, proposer, source = "broken", "broken", "a test", "-"


class ShootsWithInterruptsOff(Broken):
    """A shootdown on return to user mode, where interrupts are off."""

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        yield from reclaim_with_shootdown(thread.lower)

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.lower)
