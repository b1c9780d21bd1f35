"""user-sleep: a system call that has to wait is left, and executed again; the sleeper has no deep stack.

David Laight, 2026: if threads slept in user space, a stack could be assigned on kernel entry, and the
ten thousands of futex sleepers would have none.

Not modelled: leaving and re-executing the system call. The sleeper keeps the top page, with its entry
frame; in Linux it would keep nothing.
"""

from kstack.stacks import Decision, Policy, Steps, Thread, map_pages, map_top_or_all, reclaim_with_shootdown


class UserSleep(Policy):
    """The lower pages are assigned on kernel entry, and taken back, everybody told, when the thread sleeps shallow."""

    id = "user-sleep"
    title = "stack assigned on kernel entry, none for sleepers"
    proposer = "David Laight"
    source = "[PATCH v2 00/13] Dynamic Kernel Stacks, linux-mm, 2026-04"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The page of the entry frame; all of them for kernel threads, which cannot leave."""
        return (yield from map_top_or_all(thread))

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Assign the rest."""
        yield from map_pages(thread.lower)

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """The system call is executed again: as on entry."""
        yield from map_pages(thread.lower)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Who sleeps with nothing below the top page has left the kernel."""
        if thread.is_user and thread.saved_rsp >= thread.top.address:
            yield from reclaim_with_shootdown(thread.lower)
