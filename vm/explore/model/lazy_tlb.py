"""The lazy TLB: instead of fills and evictions at any time, what may be cached, chosen at the access.

SDM 4.10.2.3 lets a processor cache a translation for an access that never happens, and drop any entry
at any moment. To explore that, no fill or eviction needs to be a step of its own: for each CPU and
page the set of entries that may be cached is kept, and an access chooses from it. The sets are of
leaf entries by value (frame, rights, A, D), for the pages that are managed so; all other pages go
through the ordinary TLB model. `tests/explore/model/test_lazy_tlb.py` compares this with a TLB that fills and
evicts eagerly, over all short histories, in every mode.

With speculation an entry that is present with A=1 may be cached by any CPU at once, and again after
each invalidation. In `sets-accessed` one that is present with A=0 is *pending*: it is cached nowhere
unless A has been set, which shows when somebody looks. In `keeps-accessed-clear` it may be cached
without a trace, and the first access through it sets A. In `needs-accessed` it is cached by nobody until an
access, or who stores the entry, has set A. (That A is set above the leaf too is not looked at here: a managed page
with an upper entry that has it clear is refused when exploring begins, and so is a store to an upper entry after that.)
In `none` only accesses fill.

What is cached with A=1 (D=1) does not set A (D) again: an access through an older incarnation of the
entry that is there now is no walk, though it reaches the same frame (SDM 4.10.4.3).

A cached entry whose rights forbid an access refuses it, whatever the tables say by now, and is dropped with the fault
(SDM 4.10.4.1, 4.10.4.3): that is a way to go of its own.

Not modelled, and refused by name where it is met (vm/explore): structure caches for managed pages (their upper levels
must not change), instruction fetches from them, PCIDs, `dirty-rewalk = no`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kstack.x86.entries import FRAME_MASK, NX, RESERVED_HIGH, RW, US, A, D, G, P

KEPT: Final = FRAME_MASK | NX | RW | US | A | D | G | P
"""The bits of a leaf entry that a cached translation carries."""
_USED: Final = A | D


class How(enum.Enum):
    """By what an access is translated."""

    WALK = "walk"  # the tables, as they are now; a page fault if they have nothing
    CACHED = "cached"  # an entry that may be cached, where that differs from a walk
    REFUSED = "refused"  # an entry that may be cached and forbids the access, which the tables allow: a page fault


class Option(NamedTuple):
    """One way in which an access can go; `value` is the cached entry."""

    how: How
    value: int = 0


def _differs(value: int, entry: int) -> bool:
    """Whether an access through a cached `value` can be told from a walk, which finds `entry`.

    It reaches another frame (or no fault), or leaves A or D clear where the walk sets them.
    """
    return not entry & P or bool((value ^ entry) & KEPT & ~_USED) or bool(value & ~entry & _USED)


class LazyTlb:
    """What may be cached of the managed pages, for all CPUs of a machine.

    Args:
        cpus: how many.
        speculation: the mode.
        manages: whether a linear address lies in a managed page.

    Attributes:
        needs_accessed: nobody caches a page without an access if A is clear in an entry of any level.
        may, ever: by CPU and linear page number, what may be cached, and what might have been had nothing ever been invalidated.
    """

    def __init__(self, cpus: int, speculation: str, manages: Callable[[int], bool]) -> None:
        self._cpus = cpus
        self._speculates = speculation != "none"
        self._silent = speculation == "keeps-accessed-clear"
        self._sets = speculation == "sets-accessed"
        self.needs_accessed = speculation == "needs-accessed"
        self.manages = manages
        self.may: dict[tuple[int, int], frozenset[int]] = {}
        self.ever: dict[tuple[int, int], frozenset[int]] = {}

    def _cacheable(self, entry: int) -> bool:
        """Whether speculation may cache a present entry without changing it."""
        if not entry & P or entry & RESERVED_HIGH:
            return False
        return self._speculates and (self._silent or bool(entry & A))

    def is_pending(self, entry: int) -> bool:
        """Whether it shows only when somebody looks if this entry has been cached."""
        if not entry & P or entry & RESERVED_HIGH:
            return False
        return not entry & A and self._sets

    def _add(self, page: int, entry: int) -> None:
        value = entry & KEPT
        for cpu in range(self._cpus):
            self.may[cpu, page] = self.may.get((cpu, page), frozenset()) | {value}

    def _remember(self, cpu: int, page: int, value: int) -> None:
        """Frame and rights of what was once cacheable."""
        self.ever[cpu, page] = self.ever.get((cpu, page), frozenset()) | {value & ~_USED}

    def is_exercised(self, cpu: int, page: int, entry: int) -> bool:
        """Whether an access would have more than one way to go had nothing ever been invalidated.

        The adversary is the same in every mode: any CPU may have cached whatever the tables ever said, with Accessed set or not.
        """
        current = {entry & KEPT & ~_USED} if entry & P else set()
        return len(self.ever.get((cpu, page), frozenset()) | current) + (not entry & P) > 1

    def entry_is(self, page: int, entry: int) -> None:
        """The tables say `entry` from now on: a store, or a walker's update of A or D."""
        if entry & P:
            for cpu in range(self._cpus):
                self._remember(cpu, page, entry & KEPT)
        if self._cacheable(entry):
            self._add(page, entry)

    def entry_was(self, page: int, entry: int, plain: bool) -> None:
        """The tables said `entry`, and a store has just replaced it.

        Args:
            page: linear page number.
            entry: the old one.
            plain: by a plain store, which does not see whether A was set meanwhile.
        """
        if plain and self.is_pending(entry):
            self._add(page, entry | A)

    def options(
        self,
        cpu: int,
        page: int,
        entry: int,
        write: bool,
        denies: Callable[[int], bool] = lambda _: False,
        walks: bool = True,
    ) -> list[Option]:
        """How an access of `cpu` can go, the walk first.

        Args:
            cpu: whose.
            page: linear page number.
            entry: what the tables say now.
            write: a store; it never goes through an entry cached with D=0 (it walks again).
            denies: whether the rights of an entry forbid the access.
            walks: it can go by a walk, so that what a walk does too is no way of its own.
        """
        found = [Option(How.WALK)] if walks else []
        for value in sorted(self.may.get((cpu, page), ())):
            if denies(value):
                if not walks or not entry & P or not denies(entry):
                    found.append(Option(How.REFUSED, value))
            elif (value & D or not write) and (not walks or _differs(value, entry)):
                found.append(Option(How.CACHED, value))
        return found

    def took(self, cpu: int, page: int, option: Option, entry: int) -> None:
        """An access went by `option`, and the tables say `entry` after it."""
        left = set() if option.how is How.WALK else {option.value | A}
        if entry & P and (self._cacheable(entry) or option.how is How.WALK):
            left.add(entry & KEPT)
            self._remember(cpu, page, entry & KEPT)
        self.may[cpu, page] = frozenset(left)

    def invalidate(self, cpu: int, page: int, entry: int) -> None:
        """INVLPG, a page fault at the page, a flush: what the tables say may be cached again at once."""
        self.may[cpu, page] = frozenset({entry & KEPT}) if self._cacheable(entry) else frozenset()

    def invalidate_own(self, cpu: int, page: int, entry: int) -> None:
        """A flush that spares what is cached as global (SDM 4.10.2.4): a load of CR3."""
        kept = {value for value in self.may.get((cpu, page), ()) if value & G}
        if self._cacheable(entry):
            kept.add(entry & KEPT)
        self.may[cpu, page] = frozenset(kept)

    def state(self) -> tuple[Any, Any]:
        """Immutable, sorted: what may be cached, and what might have been, on which nothing depends."""
        may, ever = (
            tuple((key, tuple(sorted(values))) for key, values in sorted(sets.items()) if values)
            for sets in (self.may, self.ever)
        )
        return may, ever

    def restore(self, state: tuple[Any, Any]) -> None:
        """Become what `state` returned."""
        self.may, self.ever = ({key: frozenset(values) for key, values in sets} for sets in state)
