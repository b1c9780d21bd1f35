"""multiplex: one set of pages, lent to the threads that are deep now.

Pasha Tatashin: stack multiplexing, the same pages serving many threads while they actually need them.
Whether it is safe depends on how a page is taken back; here everybody is told first.
RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.stacks import (
    COMING,
    Decision,
    Policy,
    Steps,
    Store,
    Thread,
    ensure,
    grow,
    map_pages,
    reclaim_with_shootdown,
)


class Multiplex(Policy):
    """The top page; what is deeper is borrowed on a fault or request, and back at a switch-out that does not use it."""

    id = "multiplex"
    title = "lend pages to who is deep now"
    proposer = "Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"
    delivery = "ist"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page."""
        return (yield from map_pages((thread.top,)))

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """Borrow down to the page that was touched."""
        return (yield from grow(cpu, thread, address, fallback=True))

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Borrow for `size` bytes; no if there are none."""
        return (yield from ensure(thread, size))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """From here on a fault may be on its stack while `current` is still the other."""
        yield Store(COMING, thread.id, cpu)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Give back what it does not use now."""
        yield from reclaim_with_shootdown(thread.pages_below(thread.saved_rsp))
