"""A policy of your own."""

from kstack.stacks import Policy, Steps, Thread, map_pages, reclaim_with_shootdown


class Mine(Policy):
    """Discard what is unused when a thread is switched out."""

    id, title, proposer, source = "mine", "discard at switch-out", "you", "this file"

    def create_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages((thread.top,))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.pages)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        yield from reclaim_with_shootdown(thread.pages_below(thread.saved_rsp))
