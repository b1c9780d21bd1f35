"""entry-keep: map the lower pages on the first kernel entry and keep them.

David Laight's observation in the RFC's thread: a thread that needed extra stack will need it again,
and losing "a few pages per cpu" is cheaper than unmapping. linux-mm, March 2024.
"""

from kstack.stacks import Decision, Policy, Steps, Thread, map_pages, map_top_or_all


class EntryKeep(Policy):
    """Pages from this CPU's pool on entry; none is given back before the thread exits."""

    id = "entry-keep"
    title = "map on kernel entry, keep"
    proposer = "David Laight"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page; all of them for kernel threads, which never enter from user mode."""
        return (yield from map_top_or_all(thread))

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Map what is missing: after the first entry, nothing."""
        yield from map_pages(thread.lower)
