"""INVLPGB and TLBSYNC: invalidation on every CPU without an interrupt (AMD APM volume 3).

INVLPGB is weakly ordered: other CPUs may go on using the translation until the issuing CPU's
TLBSYNC completes. This model delays them as long as that allows, except for the issuer itself.

Not modelled: ASIDs, 2 MiB increments (the count is in 4 KiB pages), the maximum count.
"""

from __future__ import annotations

from typing import NamedTuple

from kstack.hw.mmu.mmu import Mmu
from kstack.hw.mmu.moments import Cause
from kstack.hw.rules import ALL, Rule
from kstack.x86.addresses import PAGE
from kstack.x86.invalidation import InvlpgbRax


class Request(NamedTuple):
    """An INVLPGB.

    Attributes:
        issuer: the CPU that executed it.
        rax: RAX: the address and what is to be invalidated.
        pages: further pages.
        pcid: PCID, if one is given.
    """

    issuer: int
    rax: int
    pages: int
    pcid: int


class Broadcast:
    """The broadcast invalidations of one machine.

    Args:
        mmus: the MMUs of all CPUs.
        rules: the rules it obeys.
    """

    def __init__(self, mmus: list[Mmu], rules: frozenset[Rule] = ALL) -> None:
        self._mmus = mmus
        self._rules = rules
        self._pending: list[Request] = []

    def attach(self, mmus: list[Mmu]) -> None:
        """Serve these MMUs."""
        self._mmus = mmus
        for mmu in mmus:
            mmu.peers = mmus

    def invlpgb(self, issuer: int, rax: int, pages: int, pcid: int) -> None:
        """Invalidate `pages` + 1 pages from the address in `rax` (or everything) on every CPU."""
        request = Request(issuer, rax, pages, pcid)
        self._apply(self._mmus[issuer], request)
        if Rule.BROADCAST_INVLPGB not in self._rules:
            return
        if Rule.TLBSYNC_WAITS in self._rules:
            self._pending.append(request)
        else:
            self._apply_elsewhere(request)

    def tlbsync(self, issuer: int) -> None:
        """Complete the broadcasts of one CPU."""
        for request in [request for request in self._pending if request.issuer == issuer]:
            self._apply_elsewhere(request)
            self._pending.remove(request)

    def _apply_elsewhere(self, request: Request) -> None:
        for cpu, mmu in enumerate(self._mmus):
            if cpu != request.issuer:
                self._apply(mmu, request)

    def _apply(self, mmu: Mmu, request: Request) -> None:
        _, rax, pages, pcid = request
        include_global = bool(rax & InvlpgbRax.INCLUDE_GLOBAL) or Rule.INVLPGB_GLOBAL_FLAG not in self._rules
        only = pcid if rax & InvlpgbRax.PCID_VALID else None
        if not rax & InvlpgbRax.VA_VALID:
            if only is None:
                mmu.drop_all(include_global, Cause.BROADCAST)
            else:
                mmu.drop_pcid(only, Cause.BROADCAST)
            return
        for page in range(pages + 1):
            mmu.drop_address((rax & -PAGE) + page * PAGE, only, include_global)

    def snapshot(self) -> tuple[Request, ...]:
        """What has not been completed, immutable."""
        return tuple(self._pending)

    def restore(self, state: tuple[Request, ...]) -> None:
        """Become what `snapshot` returned."""
        self._pending = list(state)
