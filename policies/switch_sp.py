"""switch-sp: discard the pages below the saved SP at switch-out, and tell nobody.

Brian Gerst's discard at context switch: no fault, no Accessed or Dirty bit needed, full pages for
running threads only. RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.stacks import Decision, Policy, Steps, Thread, free, map_pages, unmap_pages


class SwitchSp(Policy):
    """Clear and free at switch-out, without any invalidation."""

    id = "switch-sp"
    title = "discard below SP at switch-out"
    proposer = "Brian Gerst"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page; switch_in maps the rest."""
        return (yield from map_pages((thread.top,)))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """Map whatever is missing before the thread runs."""
        yield from map_pages(thread.pages)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Clear and free."""
        entries = yield from unmap_pages(thread.pages_below(thread.saved_rsp))
        yield from free(entries)
