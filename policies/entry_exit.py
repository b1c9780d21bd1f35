"""entry-exit: map three more pages on kernel entry, unmap them on return to user mode.

Pasha Tatashin's first proposal: kernel threads get all 16K; user threads get THREAD_SIZE of address space with the top page
mapped; enter_from_user_mode() maps three more from a per-CPU cache and exit_to_user_mode() gives
them back. Claimed: invalidation at map time only, on the local CPU only, so no IPI.
RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.stacks import Decision, Policy, Steps, Thread, free, map_pages, map_top_or_all, unmap_pages


class EntryExit(Policy):
    """Pages from this CPU's pool on entry; back into this CPU's pool on exit; local INVLPG when mapping."""

    id = "entry-exit"
    title = "map on kernel entry, unmap on exit"
    proposer = "Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page; all of them for kernel threads, which never enter from user mode."""
        return (yield from map_top_or_all(thread))

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Map the lower pages and invalidate them here."""
        yield from map_pages(thread.lower, invalidate=True)

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Unmap the lower pages and free them at once: nobody is told."""
        entries = yield from unmap_pages(thread.lower)
        yield from free(entries)
