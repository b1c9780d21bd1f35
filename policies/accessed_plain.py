"""accessed-plain: map all at switch-in, reclaim what was not accessed at switch-out, by a plain store.

Andy Lutomirski's "fantasy land" design: the page walker must set Accessed before it caches a
translation, so a page with A=0 is cached nowhere and needs no flush. linux-mm, March 2024.
"""

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import EMPTY, GiveBack, ReadPte, Steps, Thread, WritePte


class AccessedPlain(SwitchSp):
    """Read the entry; if A is clear, store 0 and free the frame. Another CPU's walker may come between."""

    id = "accessed-plain"
    title = "reclaim A=0 at switch-out, plain store"
    proposer = "Andy Lutomirski"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Reclaim the pages that nobody has accessed."""
        for page in thread.pages:
            pte = yield ReadPte(page)
            if pte.present and not pte.accessed:
                yield WritePte(page, EMPTY)
                yield GiveBack(pte.frame)
