"""accessed-atomic: as accessed-plain, with an atomic compare-and-clear.

Dave Hansen: a locked exchange that expects A=0 cannot miss the walker, whose update of A is locked
too (SDM 8.1.2.1). A is never cleared, so an accessed page stays. linux-mm, March 2024.
"""

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import EMPTY, ExchangePte, GiveBack, ReadPte, Steps, Thread


class AccessedAtomic(SwitchSp):
    """Compare-and-exchange the entry, as it was read with A clear, against 0; free the frame if it took."""

    id = "accessed-atomic"
    title = "reclaim A=0 at switch-out, atomic"
    proposer = "Dave Hansen"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Reclaim the pages that nobody has accessed."""
        for page in thread.pages:
            pte = yield ReadPte(page)
            if pte.present and not pte.accessed:
                seen = yield ExchangePte(page, EMPTY, pte)
                if seen == pte:
                    yield GiveBack(pte.frame)
