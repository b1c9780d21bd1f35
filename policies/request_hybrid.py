"""request-hybrid: most of the stack backed, the rest on explicit request, freed on return to user mode.

Matthew Wilcox: map a part always, let deep callers ask for more (`ensure`), and take it back when
the thread leaves the kernel. Here 12 of the 16 KiB are backed. linux-mm, March 2024.
"""

from kstack.stacks import Decision, Policy, Steps, Thread, ensure, free, map_pages, unmap_pages

BACKED = 3  # pages


class RequestHybrid(Policy):
    """The deepest page on request; freed at exit, with no invalidation."""

    id = "request-hybrid"
    title = "12 KiB backed, the rest on request until return to user"
    proposer = "Matthew Wilcox"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The part that is always backed."""
        return (yield from map_pages(thread.pages[:BACKED]))

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Map what `size` bytes need; no if the area is too small or the pool is empty."""
        return (yield from ensure(thread, size, invalidate=True))

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Free what was asked for."""
        entries = yield from unmap_pages(thread.pages[BACKED:])
        yield from free(entries)
