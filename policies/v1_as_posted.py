"""v1-as-posted: dynamic_stack_fault() and its refill as they stand in the RFC of 11 March 2024.

With the faults of the code: the number of pages is read once and not advanced in the loop, so that a
fault that skips a page counts one page and maps two; the refill stops at the first slot that was not
taken, so that one failed allocation decays the pool for ever; it allocates with GFP_KERNEL inside
schedule(), before the switch; a fault is accepted on the stack of `current` alone; and three pages a
CPU serve both threads around a switch. linux-mm, message 20240311164638.2015063-11.
"""

from collections.abc import Generator

from kstack.stacks import (
    AllocPage,
    Answer,
    Decision,
    Load,
    Policy,
    Pte,
    ReadPte,
    Step,
    Steps,
    Store,
    TakePage,
    Thread,
    WritePte,
    reclaim_with_shootdown,
)

SLOTS = 3  # THREAD_DYNAMIC_PAGES
ACQUIRED = -1  # a slot whose page a fault has taken; None: a slot whose refill failed


class V1AsPosted(Policy):
    """dynamic_stack_pages[], one array a CPU, as the variable `slots`; nr_pages as the variable `pages`."""

    id = "v1-as-posted"
    title = "grow on #DF, the RFC's code"
    proposer = "Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03, patch 10"
    delivery = "df"
    pool_pages = SLOTS
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """alloc_vmap_stack(): one page is allocated in advance."""
        frame = yield AllocPage(sleep=True)
        if frame is None:
            return False
        yield WritePte(thread.top, Pte.of(frame))
        yield Store("pages", 1, thread.id)
        return True

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        """free_vmap_stack(): as many pages as were counted."""
        pages: int = (yield Load("pages", thread.id)) or 0
        yield Store("pages", None, thread.id)
        yield from reclaim_with_shootdown(thread.pages[:pages])

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """dynamic_stack_fault(current, address)."""
        pages: int = (yield Load("pages", thread.id)) or 0
        if not thread.contains(address) or pages >= len(thread.pages) or thread.page_at(address).index < pages:
            return False
        for page in thread.pages[pages : thread.page_at(address).index + 1]:
            frame = yield from self._get_page(cpu)
            if frame is None:
                return False
            yield Store("pages", pages + 1, thread.id)
            pte = yield ReadPte(page)
            if pte.present:
                return False
            yield WritePte(page, Pte.of(frame))
        yield Store("grown", 1, thread.id)  # PF_DYNAMIC_STACK
        return True

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """dynamic_stack(prev), at the beginning of __schedule()."""
        prev: int = (yield Load("current", cpu)) or 0
        yield Store("current", thread.id, cpu)
        grown = yield Load("grown", prev)
        if not grown:
            return
        yield Store("grown", None, prev)
        for slot in range(SLOTS):
            held = yield Load("slots", (cpu, slot))
            if held != ACQUIRED:
                return
            frame = yield AllocPage(sleep=True)
            yield Store("slots", frame, (cpu, slot))

    def _get_page(self, cpu: int) -> Generator[Step, Answer, int | None]:
        """dynamic_stack_get_page(); the slots are filled from this CPU's pool when it is first asked."""
        ready = yield Load("ready", cpu)
        if not ready:
            yield Store("ready", 1, cpu)
            for slot in range(SLOTS):
                frame = yield TakePage(fallback=False)
                yield Store("slots", frame, (cpu, slot))
        for slot in range(SLOTS):
            held = yield Load("slots", (cpu, slot))
            if held is not None and held != ACQUIRED:
                yield Store("slots", ACQUIRED, (cpu, slot))
                return int(held)
        return None
