"""switch-sp-deferred: discard below the saved SP; frames wait until every CPU has invalidated by itself.

After LATR (Kumar et al., ASPLOS 2018): nobody is interrupted; each CPU sweeps a shared list at its next
switch or tick, and the last one frees. Until then neither the frame nor its address is reused: a
thread that comes back takes the same frame back. A CPU that sleeps does not sweep: when the list is
full, there are IPIs after all, as in LATR.
"""

from collections.abc import Generator

from kstack.policies.switch_sp import SwitchSp
from kstack.stacks import (
    Answer,
    Invlpg,
    Load,
    Lock,
    OtherCpus,
    Page,
    Pte,
    ReadPte,
    Step,
    Steps,
    Store,
    TakePage,
    Thread,
    Unlock,
    WritePte,
    free,
    shootdown,
    unmap_pages,
)

ENTRIES = 64  # pages the list holds

Entry = tuple[Page, int, tuple[int, ...]]  # the page, its old entry, the CPUs that have not swept it yet


class SwitchSpDeferred(SwitchSp):
    """The list is the variable `queue`, under the lock `queue`; `busy` keeps a tick from waiting for its own CPU."""

    id = "switch-sp-deferred"
    title = "discard below SP at switch-out, freed after lazy invalidation"
    proposer = "none; after LATR"
    source = "Kumar et al., LATR: Lazy Translation Coherence, ASPLOS 2018"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Clear, invalidate here, queue for the others; the others are told if the queue is full."""
        yield from self._sweep(cpu)
        pages = thread.pages_below(thread.saved_rsp)
        present = []
        for page in pages:
            pte = yield ReadPte(page)
            if pte.present:
                present.append(page)
        entries = yield from unmap_pages(tuple(present))
        for page in present:
            yield Invlpg(page)
        others = yield OtherCpus()
        if not others:
            yield from free(entries)
            return
        queue = yield from self._lock(cpu)
        if len(queue) + len(present) > ENTRIES:
            yield from self._unlock(cpu, queue)
            yield from shootdown(pages)
            yield from free(entries)
            return
        added = tuple((page, pte.value, others) for page, pte in zip(present, entries, strict=True))
        yield from self._unlock(cpu, queue + added)

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """Sweep; take back what is still queued, fill in the rest."""
        yield from self._sweep(cpu)
        entries = yield from self._withdraw(cpu, thread)
        for page in thread.pages:
            pte = yield ReadPte(page)
            if pte.present:
                continue
            if page.index in entries:
                yield WritePte(page, entries[page.index])
                continue
            frame = yield TakePage()
            if frame is not None:
                yield WritePte(page, Pte.of(frame))

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        """Others get the address, so nothing can wait here; a thread that has run has nothing in the list."""
        mapped = yield from unmap_pages(thread.pages)
        yield from shootdown(thread.pages)
        yield from free(mapped)

    def tick(self, cpu: int) -> Steps:
        """Sweep, unless the tick has interrupted this CPU at the list."""
        busy = yield Load("busy", cpu)
        if not busy:
            yield from self._sweep(cpu)

    def _lock(self, cpu: int) -> Generator[Step, Answer, tuple[Entry, ...]]:
        yield Store("busy", 1, cpu)
        yield Lock("queue")
        queue: tuple[Entry, ...] | None = yield Load("queue")
        return queue or ()

    def _unlock(self, cpu: int, queue: tuple[Entry, ...]) -> Steps:
        yield Store("queue", queue or None)
        yield Unlock("queue")
        yield Store("busy", None, cpu)

    def _sweep(self, cpu: int) -> Steps:
        """Invalidate here what is queued for this CPU; free what it was the last for."""
        queue = yield from self._lock(cpu)
        kept: list[Entry] = []
        done: list[Pte] = []
        for page, value, waiting in queue:
            if cpu in waiting:
                yield Invlpg(Page(*page))
                waiting = tuple(other for other in waiting if other != cpu)
            if waiting:
                kept.append((page, value, waiting))
            else:
                done.append(Pte(value))
        yield from self._unlock(cpu, tuple(kept))
        yield from free(tuple(done))

    def _withdraw(self, cpu: int, thread: Thread) -> Generator[Step, Answer, dict[int, Pte]]:
        """Take a thread's entries off the list, by page index."""
        queue = yield from self._lock(cpu)
        yield from self._unlock(cpu, tuple(entry for entry in queue if entry[0][0] != thread.id))
        return {page[1]: Pte(value) for page, value, _ in queue if page[0] == thread.id}
