"""switch-sp-shared: discard below the saved SP at switch-out; IPI only if the stack was shared.

Pasha Tatashin's question in the thread: could the IPI be sent only after the stack was shared? The
mark is software's, set where a pointer into the stack is handed out. What a CPU caches
speculatively it does not see. RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import Invlpg, Load, Steps, Store, Thread, free, shootdown, unmap_pages


class SwitchSpShared(SwitchSp):
    """A shared stack's pages are shot down, another's invalidated here; the mark ends with a whole shootdown."""

    id = "switch-sp-shared"
    title = "discard below SP at switch-out, IPI only if shared"
    proposer = "Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def share(self, cpu: int, thread: Thread) -> Steps:
        """Mark the stack."""
        yield Store("shared", 1, thread.id)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Clear, tell whom the mark says, free."""
        pages = thread.pages_below(thread.saved_rsp)
        entries = yield from unmap_pages(pages)
        shared = yield Load("shared", thread.id)
        if shared and entries:
            yield from shootdown(pages)
            if len(pages) == len(thread.lower):
                yield Store("shared", None, thread.id)
        else:
            for page in pages:
                yield Invlpg(page)
        yield from free(entries)
