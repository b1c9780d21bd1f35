"""accessed-shrinker: reclaim A=0 pages of sleepers from a shrinker, with a batched shootdown.

Dave Hansen and David Stevens, June 2026: the counter-proposal off the hot path. The shootdown makes
it independent of whether a speculative fill sets Accessed; what it needs is a lock against the
scheduler.
"""

from kstack.stacks import Decision, Policy, Steps, Thread, map_pages, reclaim_sleepers, take_back


class AccessedShrinker(Policy):
    """All pages filled before each run; under pressure those with A=0 of all sleepers go, in one batch."""

    id = "accessed-shrinker"
    title = "reclaim A=0 of sleepers under pressure, one shootdown a batch"
    proposer = "Dave Hansen, David Stevens"
    source = "[PATCH v2 00/13] Dynamic Kernel Stacks, linux-mm, 2026-06-20"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """Everything."""
        return (yield from map_pages(thread.pages))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """Fill in what is missing, putting back what is being taken."""
        yield from take_back(thread, fill=True)

    def memory_pressure(self, cpu: int, wanted: int) -> Steps:
        """Take the pages that nobody has accessed."""
        yield from reclaim_sleepers(0, unaccessed=True)
