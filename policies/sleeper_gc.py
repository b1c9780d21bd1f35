"""sleeper-gc: collect the unused pages of threads that have slept for a while, many at once.

David Laight and Pasha Tatashin: scan for stacks that have been asleep, and pay for one shootdown for
all of them. RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.stacks import Decision, Load, Policy, Steps, Store, Thread, map_pages, reclaim_sleepers, take_back

AGE = 4000  # units of virtual time asleep before a stack is collected
PERIOD = 8  # switches of a CPU between two collections
BATCH = 64  # threads that a collection looks at


class SleeperGc(Policy):
    """Full stacks for who runs; every so many switches the stacks of old sleepers are shrunk."""

    id = "sleeper-gc"
    title = "collect sleepers' unused pages, one shootdown a batch"
    proposer = "David Laight, Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """Everything."""
        return (yield from map_pages(thread.pages))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """Put back what is missing before the thread runs."""
        yield from take_back(thread, fill=True)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Now and then, collect."""
        switches: int = (yield Load("switches", cpu)) or 0
        yield Store("switches", switches + 1, cpu)
        if switches % PERIOD == PERIOD - 1:
            yield from reclaim_sleepers(AGE, most=BATCH)

    def memory_pressure(self, cpu: int, wanted: int) -> Steps:
        """Collect from everybody who sleeps."""
        yield from reclaim_sleepers(0)
