"""A TLB that fills and evicts at any moment, written from SDM 4.10.2 and 4.8; it shares nothing with kstack.explore.model.lazy_tlb.

One page, one entry in memory, two CPUs with at most one cached entry each. Between any two operations each CPU may
evict, or walk speculatively as the mode has it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple

from kstack.x86.entries import FRAME_MASK, NX, RW, A, D, G, P

CPUS: Final = 2
ONE, OTHER = (frame | P | RW | G | NX for frame in (0x101000, 0x102000))  # two frames, A and D clear
FAULT: Final = "#PF"
NOTHING: Final = ""


class Op(NamedTuple):
    """One operation: what, by which CPU, with what values."""

    what: str
    cpu: int = 0
    value: int = 0
    expected: int = 0


class Eager(NamedTuple):
    """The entry in memory, and what each CPU has cached of it (0: nothing)."""

    entry: int = 0
    cached: tuple[int, ...] = (0,) * CPUS

    def caching(self, cpu: int, value: int, entry: int | None = None) -> Eager:
        cached = (*self.cached[:cpu], value, *self.cached[cpu + 1 :])
        return Eager(self.entry if entry is None else entry, cached)


def unasked(state: Eager, mode: str) -> Iterator[Eager]:
    """What can happen without any instruction: evictions, and fills by speculation."""
    for cpu in range(CPUS):
        yield state.caching(cpu, 0)
        if state.entry & P and mode == "sets-accessed":  # A is set before the entry is cached (4.10.2.3)
            yield state.caching(cpu, state.entry | A, state.entry | A)
            yield state._replace(entry=state.entry | A)  # and then it may be that it is not cached
        elif state.entry & P and (mode == "keeps-accessed-clear" or (mode == "needs-accessed" and state.entry & A)):
            yield state.caching(cpu, state.entry)


def eager_access(state: Eager, cpu: int, write: bool) -> tuple[Hashable, Eager]:
    """4.8 and 4.10.2: through the cached entry, if there is one that serves; else by a walk."""
    entry, cached = state.entry, state.cached[cpu]
    if cached and (cached & D or not write):
        if not cached & A and entry & P and not (entry ^ cached) & FRAME_MASK:
            entry |= A  # it was cached without, and its first access sets it
        return cached & FRAME_MASK, state.caching(cpu, cached | A, entry)
    if not entry & P:
        return FAULT, state.caching(cpu, 0)
    entry |= A | (D if write else 0)
    return entry & FRAME_MASK, state.caching(cpu, entry, entry)


def eager_does(state: Eager, op: Op) -> tuple[Hashable, Eager]:
    """One operation: what is observed, and the state after it."""
    if op.what in ("load", "store"):
        return eager_access(state, op.cpu, op.what == "store")
    if op.what == "invlpg":
        return NOTHING, state.caching(op.cpu, 0)
    if op.what == "read":
        return state.entry, state
    if op.what == "write":
        return NOTHING, state._replace(entry=op.value)
    stores = op.what == "swap" or state.entry == op.expected
    return state.entry, state._replace(entry=op.value if stores else state.entry)
