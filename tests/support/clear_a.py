"""A policy by another hand: switch-sp-ipi, and Accessed is cleared (locked) in the pages that stay; nothing depends on A."""

from kstack.stacks import Decision, ExchangePte, Policy, Pte, ReadPte, Steps, Thread, map_pages, reclaim_with_shootdown


class ClearA(Policy):
    """As safe as switch-sp-ipi."""

    id, title, proposer, source = "clear-a", "switch-sp-ipi that clears A", "a reviewer", "clear_a.py"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        return (yield from map_pages((thread.top,)))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.pages)

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        gone = thread.pages_below(thread.saved_rsp)
        yield from reclaim_with_shootdown(gone)
        for page in thread.pages:
            pte = yield ReadPte(page)
            if pte.present and pte.accessed:
                yield ExchangePte(page, Pte(pte.value & ~0x20), pte)
