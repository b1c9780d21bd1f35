"""Policies by other hands, several in one file; `truth` is each one's verdict by reasoning.

unsafe / safe / safe-2 (safe with two CPUs, unsafe with three or more).
"""

from kstack.stacks import (
    EMPTY,
    Decision,
    ExchangePte,
    Invlpg,
    Load,
    Lock,
    OtherCpus,
    Page,
    Policy,
    PostFlush,
    Pte,
    ReadPte,
    SendIpi,
    Steps,
    Store,
    SwapPte,
    TakePage,
    Thread,
    Unlock,
    WaitForAck,
    WritePte,
    free,
    map_pages,
    reclaim_with_shootdown,
    shootdown,
    unmap_pages,
)


class Base(Policy):
    proposer, source = "a reviewer", "family.py"
    truth = ""

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        return (yield from map_pages((thread.top,)))

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.pages)


def told(pages, others, wait=None):
    """Requests and IPIs, then acknowledgements of `wait` (None: all)."""
    start = min(page.address for page in pages)
    yield Lock("shootdown")
    for cpu in others:
        yield PostFlush(cpu, start, len(pages))
        yield SendIpi(cpu)
    for cpu in others if wait is None else wait:
        yield WaitForAck(cpu)
    yield Unlock("shootdown")


class MissDeepest(Base):
    id, title, truth = (
        "m-miss-deepest",
        "the range flushed elsewhere starts one page too high: the deepest stays",
        "unsafe",
    )

    def switch_out(self, cpu, thread):
        pages = thread.pages_below(thread.saved_rsp)
        entries = yield from unmap_pages(pages)
        if entries:
            for page in pages:
                yield Invlpg(page)
            others = yield OtherCpus()
            if pages[:-1]:
                yield from told(pages[:-1], others)
        yield from free(entries)


class ClockNoFlush(Base):
    id, title, truth = "m-clock-no-flush", "reclaim A=0 below SP; clear A of the others, without a flush", "unsafe"

    def switch_out(self, cpu, thread):
        for page in thread.pages_below(thread.saved_rsp):
            pte = yield ReadPte(page)
            if not pte.present:
                continue
            if pte.accessed:
                yield ExchangePte(page, Pte(pte.value & ~(1 << 5)), pte)
                continue
            seen = yield ExchangePte(page, EMPTY, pte)
            if seen == pte:
                yield from free((pte,))


class ClockFlush(Base):
    id, title, truth = (
        "m-clock-flush",
        "the same, with a shootdown after A was cleared and one before a frame is freed",
        "safe",
    )

    def switch_out(self, cpu, thread):
        for page in thread.pages_below(thread.saved_rsp):
            pte = yield ReadPte(page)
            if not pte.present:
                continue
            if pte.accessed:
                seen = yield ExchangePte(page, Pte(pte.value & ~(1 << 5)), pte)
                yield from shootdown((page,))
                continue
            seen = yield ExchangePte(page, EMPTY, pte)
            if seen == pte:
                yield from shootdown((page,))
                yield from free((pte,))


class TlbGen(Base):
    """Quarantine with generations: `gen` counts unmaps, `seen` of a CPU what it has caught up with."""

    id, title, truth = "c-tlb-gen", "generations: freed when every CPU has caught up at a switch or tick", "safe"

    def bump(self, gen, queue):
        return gen + 1

    def switch_out(self, cpu, thread):
        yield from self.catch_up(cpu)
        present = []
        for page in thread.pages_below(thread.saved_rsp):
            pte = yield ReadPte(page)
            if pte.present:
                present.append((page, (yield SwapPte(page, EMPTY))))
        if not present:
            return
        yield from self.lock(cpu)
        gen = (yield Load("gen")) or 0
        queue = (yield Load("queue")) or ()
        gen = self.bump(gen, queue)
        yield Store("gen", gen)
        yield Store("queue", (*queue, *((page, pte.value, gen) for page, pte in present)))
        yield from self.unlock(cpu)
        yield from self.catch_up(cpu)

    def switch_in(self, cpu, thread):
        yield from self.catch_up(cpu)
        yield from self.lock(cpu)
        queue = (yield Load("queue")) or ()
        mine = {one[0][1]: one[1] for one in queue if one[0][0] == thread.id}
        if mine:
            yield Store("queue", tuple(one for one in queue if one[0][0] != thread.id) or None)
        yield from self.unlock(cpu)
        for page in thread.pages:
            pte = yield ReadPte(page)
            if pte.present:
                continue
            if page.index in mine:
                yield WritePte(page, Pte(mine[page.index]))
                continue
            frame = yield TakePage()
            if frame is not None:
                yield WritePte(page, Pte.of(frame))

    def exit_thread(self, cpu, thread):
        yield from self.switch_in(cpu, thread)  # takes back what is queued
        yield from reclaim_with_shootdown(thread.pages)

    def tick(self, cpu):
        if not (yield Load("in_queue", cpu)):
            yield from self.catch_up(cpu)

    def lock(self, cpu):
        yield Store("in_queue", 1, cpu)
        yield Lock("queue")

    def unlock(self, cpu):
        yield Unlock("queue")
        yield Store("in_queue", None, cpu)

    def catch_up(self, cpu):
        others = yield OtherCpus()
        yield from self.lock(cpu)
        gen = (yield Load("gen")) or 0
        seen = (yield Load("seen", cpu)) or 0
        queue = (yield Load("queue")) or ()
        if seen != gen:
            for page, _, when in queue:
                if when > seen:
                    yield Invlpg(Page(*page))
            yield Store("seen", gen, cpu)
        least = gen
        for other in others:
            least = min(least, (yield Load("seen", other)) or 0)
        done = tuple(Pte(value) for _, value, when in queue if when <= least)
        if done:
            yield Store("queue", tuple(one for one in queue if one[2] > least) or None)
        yield from self.unlock(cpu)
        yield from free(done)


class TlbGenMissed(TlbGen):
    id, title, truth = "m-tlb-gen-missed", "generations, not counted up where something is queued already", "unsafe"

    def bump(self, gen, queue):
        return gen if queue else gen + 1


class NoLock(Base):
    id, title, truth = (
        "m-no-lock",
        "mailboxes without the lock: two requesters for one CPU overwrite each other",
        "safe-2",
    )

    def switch_out(self, cpu, thread):
        pages = thread.pages_below(thread.saved_rsp)
        entries = yield from unmap_pages(pages)
        if not entries:
            return
        for page in pages:
            yield Invlpg(page)
        others = yield OtherCpus()
        start = min(page.address for page in pages)
        for other in others:
            yield PostFlush(other, start, len(pages))
            yield SendIpi(other)
        for other in others:
            yield WaitForAck(other)
        yield from free(entries)


class WaitFirst(Base):
    id, title, truth = "m-wait-first", "waits for the first CPU's acknowledgement alone", "safe-2"

    def switch_out(self, cpu, thread):
        pages = thread.pages_below(thread.saved_rsp)
        entries = yield from unmap_pages(pages)
        if not entries:
            return
        for page in pages:
            yield Invlpg(page)
        others = yield OtherCpus()
        if others:
            yield from told(pages, others, others[:1])
        yield from free(entries)
