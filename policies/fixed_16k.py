"""fixed-16k: every stack fully backed from creation to exit, as mainline Linux does.

THREAD_SIZE is 16 KiB on x86-64 (arch/x86/include/asm/page_64_types.h); vmalloc backs all four
pages when the thread is forked. This is what every other policy is measured against.
"""

from kstack.stacks import Decision, Policy, Thread, map_pages


class Fixed16K(Policy):
    """All pages mapped at creation, none unmapped before exit."""

    id = "fixed-16k"
    title = "fully backed"
    proposer = "mainline Linux"
    source = "arch/x86/include/asm/page_64_types.h, THREAD_SIZE"
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """Map everything."""
        return (yield from map_pages(thread.pages))
