"""switch-sp-local: discard below the saved SP at switch-out, with INVLPG on the local CPU.

Tatashin's answer to Wilcox and Gerst: invalidate the range when unmapping, at context switch. Still
no IPI. RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import Invlpg, Steps, Thread, free, unmap_pages


class SwitchSpLocal(SwitchSp):
    """Clear, invalidate here, free."""

    id = "switch-sp-local"
    title = "discard below SP at switch-out, local INVLPG"
    proposer = "Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Clear, invalidate on this CPU alone, free."""
        pages = thread.pages_below(thread.saved_rsp)
        entries = yield from unmap_pages(pages)
        for page in pages:
            yield Invlpg(page)
        yield from free(entries)
