"""fixed-8k: two pages a thread, fully backed, as x86-64 Linux had until 2014.

THREAD_SIZE was 8 KiB before commit 6538b8ea886e ("x86_64: expand kernel stack to 16K", May 2014),
which was made because deep call chains overflowed it.
"""

from kstack.stacks import Decision, Policy, Thread, map_pages


class Fixed8K(Policy):
    """The two upper pages mapped at creation; below them is guard."""

    id = "fixed-8k"
    title = "fully backed, 8 KiB"
    proposer = "mainline Linux until 3.15"
    source = "commit 6538b8ea886e, x86_64: expand kernel stack to 16K"
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """Map two pages."""
        return (yield from map_pages(thread.pages[:2]))
