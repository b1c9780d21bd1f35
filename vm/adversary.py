"""What a CPU may do at any time, done at moments chosen by seed: speculative fills and evictions.

SDM 4.10.2.3: the processor may cache translations for accesses that never happen architecturally,
and may drop any entry. In the mode `tlb=adversarial` some CPU does one or the other, before a slice
now and then, to a page of a living thread's stack; often to the very page that a policy's step is
about, since that is where it hurts.
"""

from __future__ import annotations

import random
from typing import Final

from vm.machine import Machine
from vm.stacks.runtime import StackRuntime

ODDS: Final = 4  # one slice in so many is preceded by a fill or an eviction
EVICTIONS: Final = 4  # one in so many of these is an eviction


class Adversary:
    """Chooses for one run.

    Args:
        machine: whose CPUs speculate.
        runtime: knows the stacks.
        seed: the same seed does the same to the same run.
    """

    def __init__(self, machine: Machine, runtime: StackRuntime, seed: int) -> None:
        self._machine = machine
        self._runtime = runtime
        self._random = random.Random(seed)

    def act(self) -> None:
        """Perhaps do something."""
        if self._random.randrange(ODDS):
            return
        cpus = [cpu for cpu in self._machine.cpus if cpu.paging_enabled()]
        address = self._address()
        if not cpus or address is None:
            return
        mmu = cpus[self._random.randrange(len(cpus))].mmu
        if self._random.randrange(EVICTIONS) == 0:
            mmu.evict(address)
        else:
            mmu.prefetch(address)

    def _address(self) -> int | None:
        """A page of some living thread's stack."""
        steps = [calls[-1].step for calls in self._runtime.calls if calls]
        pages = [step.page for step in steps if hasattr(step, "page")]
        if pages and self._random.randrange(2):
            address: int = pages[self._random.randrange(len(pages))].address
            return address
        threads = list(self._runtime.threads.values())
        if not threads:
            return None
        pages_of = threads[self._random.randrange(len(threads))].pages
        return pages_of[self._random.randrange(len(pages_of))].address
