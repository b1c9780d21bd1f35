"""What a processor may do to its data TLB without an instruction that asks for it: SDM volume 3, 4.10.2.2 and 4.10.2.3.

A fill begins where the structure caches let it, as every walk does: what an upper entry says by now is no matter to one that
begins below it (4.10.3.2).

Not modelled: the same of instruction translations.
"""

from __future__ import annotations

from kstack.hw.mmu.mmu import Mmu
from kstack.hw.mmu.moments import Cause
from kstack.hw.mmu.walk import Attempt, WalkRules
from kstack.hw.rules import Rule
from kstack.x86.addresses import is_canonical
from kstack.x86.entries import A


def prefetch(mmu: Mmu, address: int) -> bool:
    """A fill that no instruction asked for (4.10.2.3); whether it cached anything.

    Args:
        mmu: the CPU's.
        address: linear.
    """
    if Rule.SPECULATIVE_FILL not in mmu.rules or mmu.table is None or not is_canonical(address):
        return False
    if mmu.modes.speculation == "none" or mmu.data.lookup(address, mmu.pcid) is not None:
        return False
    result = mmu.walk(address, Attempt(False, False, False), rules_of(mmu))
    found = result.translation
    if result.error is not None or found is None:
        return False
    found.accessed = bool(mmu.memory.read64(found.leaf) & A)
    mmu.cache(mmu.data, found)
    mmu.tell_fill(address, found, speculative=True)
    return True


def rules_of(mmu: Mmu) -> WalkRules:
    """How a walk that no instruction asked for treats Accessed, as the mode `speculation` has it."""
    match mmu.modes.speculation:
        case "keeps-accessed-clear":
            return mmu.walk_rules._replace(set_accessed=False)
        case "needs-accessed":
            return mmu.walk_rules._replace(needs_accessed=True)
        case _:
            return mmu.walk_rules


def evict(mmu: Mmu, address: int) -> None:
    """Drop one page from the data TLB, as a CPU may at any time (4.10.2.2)."""
    mmu.forget(mmu.data.drop_page(address, mmu.pcid, True), Cause.EVICTION)
