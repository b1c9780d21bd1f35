"""A policy of the golden runs: nearly every kind of step. Frozen, as the images beside it are."""

from vm.stacks import (
    EMPTY,
    Decision,
    ExchangePte,
    GiveBack,
    Invlpgb,
    Load,
    Policy,
    ReadPte,
    Steps,
    Store,
    Thread,
    Tlbsync,
    free,
    grow,
    map_pages,
    reclaim_sleepers,
    reclaim_with_shootdown,
    take_back,
    unmap_pages,
)


class Lends(Policy):
    """Grows by fault, request and switch; takes pages back in one of four ways, in turn."""

    id, title, proposer, source = "lends", "golden runs", "kstack", "tests/golden"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page."""
        return (yield from map_pages((thread.top,)))

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """Down to the page that was touched."""
        return (yield from grow(cpu, thread, address, fallback=True))

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """As many pages as that takes."""
        return (yield from map_pages(tuple(page for page in thread.pages if page.index * 4096 < size)))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """What is held of it, and on some CPUs all the rest."""
        yield Store("coming", thread.id, cpu)
        yield from take_back(thread, fill=cpu == 0)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """What it does not use now, in a way that takes turns."""
        turn = (yield Load("turn", cpu)) or 0
        yield Store("turn", (turn + 1) % 4, cpu)
        pages = thread.pages_below(thread.saved_rsp)
        if turn == 0:
            yield from reclaim_with_shootdown(pages)
        elif turn == 1:
            entries = yield from unmap_pages(pages)
            if entries:
                yield Invlpgb(pages[-1], len(pages))
                yield Tlbsync()
            yield from free(entries)
        elif turn == 2:
            for page in pages:
                pte = yield ReadPte(page)
                if pte.present and not pte.accessed:
                    seen = yield ExchangePte(page, EMPTY, pte)
                    if seen == pte:
                        yield GiveBack(pte.frame)

    def memory_pressure(self, cpu: int, wanted: int) -> Steps:
        """From all who sleep."""
        yield from reclaim_sleepers(0)

    def tick(self, cpu: int) -> Steps:
        """Count."""
        yield Store("ticks", ((yield Load("ticks", cpu)) or 0) + 1, cpu)
