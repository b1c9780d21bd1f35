"""accessed-latch: all 16K filled before each run, what was not accessed reclaimed after it.

Dave Hansen, 18 June 2026: map all four pages always; after switching out look at the four entries and
reclaim those with Accessed clear. "A thread that ever accesses a page gets to keep it forever." The
atomic clear is his of 2024. A thread whose missing pages cannot be filled in cannot be run.
"""

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import EMPTY, ExchangePte, GiveBack, Load, ReadPte, Steps, Store, Thread


class AccessedLatch(SwitchSp):
    """Pages once seen with A=1 are latched and not looked at again; the others go at each switch-out."""

    id = "accessed-latch"
    title = "fill before each run, reclaim A=0 after it, keep what was accessed"
    proposer = "Dave Hansen"
    source = "[PATCH v2 00/13] Dynamic Kernel Stacks, linux-mm, 2026-06-18"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Reclaim by a compare-and-exchange that expects A=0; no flush."""
        kept: int = (yield Load("kept", thread.id)) or 0  # pages from the top that were accessed
        for page in thread.pages[kept:]:
            pte = yield ReadPte(page)
            if not pte.present:
                continue
            if pte.accessed:
                if page.index == kept:
                    kept += 1
                    yield Store("kept", kept, thread.id)
                continue
            seen = yield ExchangePte(page, EMPTY, pte)
            if seen == pte:
                yield GiveBack(pte.frame)

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        """The address is reused by other threads, so here everything is invalidated everywhere."""
        yield Store("kept", None, thread.id)
        yield from super().exit_thread(cpu, thread)
