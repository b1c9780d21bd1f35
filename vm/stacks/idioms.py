"""Ready-made sequences of micro-steps.

Pools hold zeroed frames, as Linux's stacks are zeroed (THREADINFO_GFP has __GFP_ZERO; a cached stack
is cleared before reuse): a frame that was written is zeroed when it is freed, one whose entry has
Dirty clear has still nothing in it.

What a policy and an idiom of its hooks, or two idioms, must call the same has a name here: the variables COMING, HELD and
SCANNED, and the locks SHOOTDOWN and `stack_lock`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from kstack.stacks.area import EMPTY, Page, Pte, Thread
from kstack.stacks.steps import (
    Answer,
    ExchangePte,
    GiveBack,
    Invlpg,
    Load,
    Lock,
    OtherCpus,
    PostFlush,
    ReadPte,
    SendIpi,
    Sleepers,
    Step,
    Store,
    Swap,
    SwapPte,
    TakePage,
    ThreadAt,
    Unlock,
    WaitForAck,
    WritePte,
    ZeroPage,
)

Steps = Generator[Step, Answer, None]
Entries = Generator[Step, Answer, tuple[Pte, ...]]

COMING: Final = "coming"
"""A variable of each CPU: the id of the thread that it switches to. A policy's `switch_in` stores it, `grow` asks for it."""
HELD: Final = "held"
"""A variable of each page, by (thread, index): the entry that was taken from it and is not freed yet, as a number."""
SCANNED: Final = "scanned"
"""A variable: the id of the thread at which the last scan of sleepers ended."""
SHOOTDOWN: Final = "shootdown"
"""A lock: the mailboxes hold one request, so one CPU at a time posts requests and waits for the acknowledgements."""


def stack_lock(thread: Thread) -> str:
    """The lock that orders who takes pages from a thread and who is about to let it run."""
    return f"stack {thread.id}"


def map_pages(pages: tuple[Page, ...], invalidate: bool = False) -> Generator[Step, Answer, bool]:
    """Map a frame from the pool at each page that has none. Answers whether there was one for each.

    Args:
        pages: in the order in which to map them.
        invalidate: INVLPG each page after its entry was stored.
    """
    for page in pages:
        pte = yield ReadPte(page)
        if pte.present:
            continue
        frame = yield TakePage()
        if frame is None:
            return False
        yield WritePte(page, Pte.of(frame))
        if invalidate:
            yield Invlpg(page)
    return True


def map_top_or_all(thread: Thread) -> Generator[Step, Answer, bool]:
    """What a thread starts on where entering the kernel or asking maps the rest: the top page, or all of a kernel thread's.

    A kernel thread never enters from ring 3, and its code asks for nothing. Answers whether there was a frame for each.
    """
    return (yield from map_pages((thread.top,) if thread.is_user else thread.pages))


def ensure(thread: Thread, size: int, invalidate: bool = False) -> Generator[Step, Answer, bool]:
    """Map what `size` bytes from the top need (the name is Wilcox's). Answers whether they are there now.

    They are not if the area is smaller, for which nothing is mapped, or if there was no frame for a page.

    Args:
        thread: that runs here, and asks for itself.
        size: bytes.
        invalidate: INVLPG each page after its entry was stored.
    """
    if size > thread.size:
        return False
    wanted = thread.pages_for(size)
    yield from map_pages(wanted, invalidate)
    deepest: Pte = yield ReadPte(wanted[-1])
    return deepest.present


def grow(cpu: int, thread: Thread, address: int, fallback: bool) -> Generator[Step, Answer, bool]:
    """Map a stack from its top down to an address that was touched. Answers whether it is mapped now.

    The stack must be the thread's own, or that of the thread being switched to, which `switch_in` has
    left in the CPU's variable COMING: another's stack does not grow because somebody reads it.

    Args:
        cpu: where the fault was.
        thread: `current` there.
        address: linear (bytes).
        fallback: fill the CPU's pool up if it is empty.
    """
    owner = yield ThreadAt(address)
    if owner is None:
        return False
    if owner.id != thread.id:
        coming = yield Load(COMING, cpu)
        if coming != owner.id:
            return False
    for page in owner.pages[: owner.page_at(address).index + 1]:
        pte = yield ReadPte(page)
        if pte.present:
            continue
        frame = yield TakePage(fallback)
        if frame is None:
            return False
        yield WritePte(page, Pte.of(frame))
    return True


def unmap_pages(pages: tuple[Page, ...]) -> Entries:
    """Clear each page's entry, locked against the walker. Answers the entries that were present."""
    cleared: list[Pte] = []
    for page in pages:
        pte = yield ReadPte(page)
        if pte.present:
            cleared.append((yield SwapPte(page, EMPTY)))
    return tuple(cleared)


def free(entries: tuple[Pte, ...], cpu: int | None = None) -> Steps:
    """Give the frames of cleared entries to a pool, those that were written zeroed first.

    Args:
        entries: as `unmap_pages` answers.
        cpu: whose pool; None for this CPU's.
    """
    for pte in entries:
        if pte.dirty:
            yield ZeroPage(pte.frame)
        yield GiveBack(pte.frame, cpu)


def shootdown(pages: tuple[Page, ...]) -> Steps:
    """Invalidate adjacent pages on every CPU, and wait until all have acknowledged (Linux: flush_tlb_kernel_range).

    The own INVLPG comes first, then the requests, the IPIs and the acknowledgements.
    """
    for page in pages:
        yield Invlpg(page)
    others = yield OtherCpus()
    if not others:
        return
    start = min(page.address for page in pages)
    yield Lock(SHOOTDOWN)
    for cpu in others:
        yield PostFlush(cpu, start, len(pages))
        yield SendIpi(cpu)
    for cpu in others:
        yield WaitForAck(cpu)
    yield Unlock(SHOOTDOWN)


def reclaim_with_shootdown(pages: tuple[Page, ...]) -> Steps:
    """Clear, invalidate everywhere, and only then free."""
    entries = yield from unmap_pages(pages)
    if entries:
        yield from shootdown(pages)
    yield from free(entries)


def shootdown_everything(pages: tuple[Page, ...]) -> Steps:
    """Invalidate pages of many stacks with one IPI a CPU: here one by one, elsewhere the whole TLB.

    Linux does the same past 33 pages (tlb_single_page_flush_ceiling).
    """
    for page in pages:
        yield Invlpg(page)
    others = yield OtherCpus()
    if not others:
        return
    yield Lock(SHOOTDOWN)
    for cpu in others:
        yield PostFlush(cpu, 0, 0)
        yield SendIpi(cpu)
    for cpu in others:
        yield WaitForAck(cpu)
    yield Unlock(SHOOTDOWN)


def reclaim_sleepers(units: int, unaccessed: bool = False, spare: str = "", most: int = 0) -> Steps:
    """Take pages from threads that sleep, with one shootdown for all of them, racing their wake-up.

    A frame whose entry was cleared is *held*, in the page's variable HELD, until every CPU has
    invalidated; a thread that is switched in meanwhile takes it back (`take_back`), so neither the
    frame nor its address is reused too early. `stack_lock` orders the two.

    Args:
        units: take only from threads switched out for so long (virtual time).
        unaccessed: take pages with Accessed clear; otherwise those below the saved SP.
        spare: a variable; threads for which it is set keep theirs.
        most: threads to look at, from where the last scan ended (the variable SCANNED); 0 for all.
    """
    cleared: list[Page] = []
    after = (yield Load(SCANNED)) if most else None
    threads = yield Sleepers(units, after or 0, most)
    if most:
        yield Store(SCANNED, threads[-1].id if len(threads) == most else None)
    for thread in threads:
        yield Lock(stack_lock(thread))
        now = yield ThreadAt(thread.bottom)
        kept = (yield Load(spare, thread.id)) if spare else None
        if not kept and now is not None and now.id == thread.id and now.since >= 0:
            for page in now.pages if unaccessed else now.pages_below(now.saved_rsp):
                pte = yield ReadPte(page)
                if not pte.present or (unaccessed and pte.accessed):
                    continue
                seen = yield ExchangePte(page, EMPTY, pte)
                if seen == pte:
                    yield Store(HELD, pte.value, (page.thread, page.index))
                    cleared.append(page)
        yield Unlock(stack_lock(thread))
    if not cleared:
        return
    yield from shootdown_everything(tuple(cleared))
    for page in cleared:
        held = yield Swap(HELD, None, (page.thread, page.index))
        if held is not None:
            yield from free((Pte(held),))


def take_back(thread: Thread, fill: bool) -> Steps:
    """Before a thread runs: put back what `reclaim_sleepers` holds of it, and end its claim to the rest.

    Args:
        thread: about to be switched to.
        fill: map new frames at the pages that are gone.
    """
    yield Lock(stack_lock(thread))
    for page in thread.pages:
        pte = yield ReadPte(page)
        if pte.present:
            continue
        held = yield Swap(HELD, None, (page.thread, page.index))
        if held is not None:
            yield WritePte(page, Pte(held))
        elif fill:
            frame = yield TakePage()
            if frame is not None:
                yield WritePte(page, Pte.of(frame))
    yield Unlock(stack_lock(thread))
