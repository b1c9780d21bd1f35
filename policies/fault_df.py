"""fault-df: grow on the page fault of a stack, taken as #DF; never shrink.

What Pasha Tatashin's RFC (March 2024) means to do, with the faults of its code (see v1-as-posted)
mended: every page between the mapped part and the access is mapped once; the pool of three pages a
CPU is filled up after each switch, slot by slot, without sleeping; the thread is found by the address,
and is `current` or the one that is being switched to.
It depends on #DF being restartable, which the SDM denies (6.15).
"""

from kstack.stacks import (
    COMING,
    AllocPage,
    Decision,
    GiveBack,
    Policy,
    PoolLevel,
    Pte,
    Steps,
    Store,
    Thread,
    WritePte,
    grow,
)

POOL = 3  # pages a CPU: what one thread can want at once


class FaultDf(Policy):
    """The top page at creation; the others when they are touched, from this CPU's pool alone."""

    id = "fault-df"
    title = "grow on fault, taken as #DF"
    proposer = "Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03, patches 10 to 12"
    delivery = "df"
    pool_pages = POOL
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page, by the page allocator."""
        frame = yield AllocPage(sleep=True)
        if frame is None:
            return False
        yield WritePte(thread.top, Pte.of(frame))
        return True

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """Map everything down to the page that was touched; no if this CPU's pool cannot."""
        return (yield from grow(cpu, thread, address, fallback=False))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """From here on a fault may be on its stack while `current` is still the other."""
        yield Store(COMING, thread.id, cpu)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Fill this CPU's pool up, as far as there is memory."""
        level = yield PoolLevel()
        while level < POOL:
            frame = yield AllocPage()
            if frame is None:
                return
            yield GiveBack(frame)
            level += 1
