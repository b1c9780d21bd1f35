"""What a CPU may do at any time, done at moments chosen by seed: speculative fills and evictions.

SDM 4.10.2.3: the processor may cache translations for accesses that never happen architecturally,
and may drop any entry. In the mode `tlb=adversarial` some CPU does one or the other, before a slice
now and then, to a page of a living thread's stack. The seed also decides the style: often or rarely
and anywhere, or only at the page that a policy's next step is about, which leaves all others as
they are (a CPU that fills everything soon leaves no page with Accessed clear to be fought over).
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from kstack.hw.mmu.speculation import evict, prefetch
from kstack.machine import Machine
from kstack.schedule.randomised import below
from kstack.stacks.host.runtime import StackRuntime

STYLES: Final = ((4, False), (4, True), (64, False), (2, True))  # (one slice in so many, at steps only)
EVICTIONS: Final = 4  # one in so many of these is an eviction


class AdversaryState(NamedTuple):
    """The state of a `random.Random`: its version, the words of the Mersenne twister, and a number of `gauss` that is left."""

    version: int
    words: tuple[int, ...]
    left: float | None


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
        self._draw = self._random.getrandbits
        self._odds, self._at_steps = STYLES[seed % len(STYLES)]

    def save(self) -> AdversaryState:
        """What decides how it goes on."""
        return AdversaryState(*self._random.getstate())

    def load(self, state: AdversaryState) -> None:
        """Become what `save` returned."""
        self._random.setstate(state)

    def act(self) -> None:
        """Perhaps do something."""
        if below(self._draw, self._odds):
            return
        cpus = [cpu for cpu in self._machine.cpus if cpu.paging_enabled()]
        address = self._address()
        if not cpus or address is None:
            return
        mmu = cpus[below(self._draw, len(cpus))].mmu
        if below(self._draw, EVICTIONS) == 0:
            evict(mmu, address)
        else:
            prefetch(mmu, address)

    def _address(self) -> int | None:
        """A page of some living thread's stack."""
        steps = [calls[-1].step for calls in self._runtime.calls if calls]
        pages = [step.page for step in steps if hasattr(step, "page")]
        if pages and (self._at_steps or below(self._draw, 2)):
            address: int = pages[below(self._draw, len(pages))].address
            return address
        if self._at_steps:
            return None
        threads = list(self._runtime.threads.values())
        if not threads:
            return None
        pages_of = threads[below(self._draw, len(threads))].pages
        return pages_of[below(self._draw, len(pages_of))].address
