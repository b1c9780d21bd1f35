"""switch-sp-ipi: discard the pages below the saved SP at switch-out, with a broadcast shootdown.

Brian Gerst's discard at context switch (no fault, no Accessed or Dirty bit needed), with the
broadcast invalidation that David Laight said it needs and Tatashin that it would kill performance.
RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.stacks import Decision, Policy, Steps, Thread, map_pages, reclaim_with_shootdown


class SwitchSpIpi(Policy):
    """Full stacks for running threads only; a frame is freed after every CPU has acknowledged."""

    id = "switch-sp-ipi"
    title = "discard below SP at switch-out, broadcast IPI"
    proposer = "Brian Gerst, David Laight"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page; switch_in maps the rest."""
        return (yield from map_pages((thread.top,)))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """Map whatever is missing before the thread runs."""
        yield from map_pages(thread.pages)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Clear, invalidate everywhere, wait for all, then free."""
        yield from reclaim_with_shootdown(thread.pages_below(thread.saved_rsp))
