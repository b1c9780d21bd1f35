"""What a CPU may do at any time, done at moments chosen by seed: speculative fills and evictions.

SDM 4.10.2.3: the processor may cache translations for accesses that never happen architecturally,
and may drop any entry. In the mode `tlb=adversarial` some CPU does one or the other, before a slice
now and then, to a page of a living thread's stack. The seed also decides the style: often or rarely
and anywhere, or only at the page that a policy's next step is about, which leaves all others as
they are (a CPU that fills everything soon leaves no page with Accessed clear to be fought over).

Where no policy manages stacks, so that nothing of the guest is known, it is a page whose entry has changed lately
(changed_entries.py): half of the time the one that changed last.
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from kstack.hw.mmu.speculation import evict, prefetch
from kstack.machine import Machine
from kstack.run.changed_entries import ChangedEntries, ChangedState
from kstack.schedule.randomised import below
from kstack.stacks.host.runtime import StackRuntime

STYLES: Final = ((4, False), (4, True), (64, False), (2, True))  # (one slice in so many, at steps only)
EVICTIONS: Final = 4  # one in so many of these is an eviction


class AdversaryState(NamedTuple):
    """What decides how an adversary goes on.

    Attributes:
        version, words, left: a `random.Random`: its version, the words of the Mersenne twister, and a number of `gauss` that is left.
        changed: the entries that have changed lately.
    """

    version: int
    words: tuple[int, ...]
    left: float | None
    changed: ChangedState


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
        self._changed = ChangedEntries(machine.memory)

    def save(self) -> AdversaryState:
        """What decides how it goes on."""
        version, words, left = self._random.getstate()
        return AdversaryState(version, words, left, self._changed.save())

    def load(self, state: AdversaryState) -> None:
        """Become what `save` returned."""
        self._random.setstate((state.version, state.words, state.left))
        self._changed.load(state.changed)

    def act(self) -> None:
        """Perhaps do something."""
        if below(self._draw, self._odds):
            return
        cpus = [cpu for cpu in self._machine.cpus if cpu.paging_enabled()]
        address = self._changed_page() if self._runtime.policy is None else self._stack_page()
        if not cpus or address is None:
            return
        mmu = cpus[below(self._draw, len(cpus))].mmu
        if below(self._draw, EVICTIONS) == 0:
            evict(mmu, address)
        else:
            prefetch(mmu, address)

    def _changed_page(self) -> int | None:
        """A page whose entry has changed lately."""
        self._changed.look(root for cpu in self._machine.cpus if (root := cpu.mmu.table) is not None)
        pages = self._changed.pages
        if not pages:
            return None
        return pages[-1] if below(self._draw, 2) else pages[below(self._draw, len(pages))]

    def _stack_page(self) -> int | None:
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
