"""dirty-atomic: reclaim pages with Dirty clear at switch-out, by an atomic compare-and-clear.

Nadav Amit: a stack page that was never written holds nothing. Lutomirski's objection: a clean page
may be cached for reading, and the entry outlives the frame. linux-mm, March 2024.
"""

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import EMPTY, ExchangePte, GiveBack, ReadPte, Steps, Thread


class DirtyAtomic(SwitchSp):
    """Compare-and-exchange entries with D=0 against 0; free the frame if it took."""

    id = "dirty-atomic"
    title = "reclaim D=0 at switch-out, atomic"
    proposer = "Nadav Amit"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Reclaim the pages that nobody has written."""
        for page in thread.pages_below(thread.saved_rsp):
            pte = yield ReadPte(page)
            if pte.present and not pte.dirty:
                seen = yield ExchangePte(page, EMPTY, pte)
                if seen == pte:
                    yield GiveBack(pte.frame)
