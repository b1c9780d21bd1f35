"""request: the kernel asks for stack where it knows that it will go deep; kept until memory is short.

David Laight (and Matthew Wilcox's `ensure`): an explicit request may sleep, may answer "no", and is
portable. A thread that needed extra stack will need it again, so it is taken back under pressure
only. RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.stacks import Decision, Policy, Steps, Store, Thread, ensure, map_top_or_all, reclaim_sleepers, take_back

ASKED = "asked"  # a variable of each thread: what it has asked for in this system call may be in use


class Request(Policy):
    """The top page; more on request; sleepers' unused pages are taken under pressure, with one shootdown.

    A thread that has asked in this system call may rely on the answer to its end, asleep or not: ASKED.
    """

    id = "request"
    title = "more on explicit request, kept until pressure"
    proposer = "David Laight"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page; all of them for kernel threads, which nobody has taught to ask."""
        return (yield from map_top_or_all(thread))

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Map what `size` bytes from the top need; no if the area is too small or there is no memory."""
        if size > thread.size:
            return False
        yield Store(ASKED, 1, thread.id)
        return (yield from ensure(thread, size))

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        """What it asked for it needs no more, and keeps until pressure."""
        yield Store(ASKED, None, thread.id)

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """What is being taken from it, it takes back."""
        yield from take_back(thread, fill=False)

    def memory_pressure(self, cpu: int, wanted: int) -> Steps:
        """Take what sleepers do not use."""
        yield from reclaim_sleepers(0, spare=ASKED)
