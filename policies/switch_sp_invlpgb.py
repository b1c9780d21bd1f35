"""switch-sp-invlpgb: discard below the saved SP at switch-out, with INVLPGB and TLBSYNC.

The broadcast that switch-sp-ipi needs, by hardware instead of interrupts (AMD Zen 3 and later; Linux
uses it since 6.15, by Rik van Riel). TLBSYNC waits for every CPU.
"""

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import Invlpgb, Steps, Thread, Tlbsync, free, unmap_pages


class SwitchSpInvlpgb(SwitchSp):
    """Clear, broadcast the invalidation, wait for it, free."""

    id = "switch-sp-invlpgb"
    title = "discard below SP at switch-out, INVLPGB and TLBSYNC"
    proposer = "none; obvious since INVLPGB is in Linux"
    source = "AMD APM volume 3, INVLPGB; x86/mm: broadcast TLB flushing, Linux 6.15"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Nobody is interrupted, and nobody holds a translation afterwards."""
        pages = thread.pages_below(thread.saved_rsp)
        entries = yield from unmap_pages(pages)
        if entries:
            yield Invlpgb(pages[-1], len(pages))
            yield Tlbsync()
        yield from free(entries)
