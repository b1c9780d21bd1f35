"""entry-exit-home: entry-exit whose pages go back to the pool of the CPU they came from.

Pasha Tatashin's answer to David Laight, who had seen that a thread which sleeps in the extra stack and
wakes on another CPU pumps pages from one CPU's cache to another's: remember where a page came from.
RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.policies.entry_exit import EntryExit
from kstack.stacks import (
    EMPTY,
    GiveBack,
    Invlpg,
    Load,
    Lock,
    Pte,
    ReadPte,
    Steps,
    Store,
    SwapPte,
    TakePage,
    Thread,
    Unlock,
    WritePte,
    ZeroPage,
)


class EntryExitHome(EntryExit):
    """The CPU is remembered with each frame; giving to another CPU's pool takes a lock."""

    id = "entry-exit-home"
    title = "map on kernel entry, unmap on exit, pages return home"
    proposer = "Pasha Tatashin"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Map the lower pages, and remember whose they are."""
        for page in thread.lower:
            pte = yield ReadPte(page)
            if pte.present:
                continue
            frame = yield TakePage()
            if frame is None:
                return
            yield Store("home", cpu, frame)
            yield WritePte(page, Pte.of(frame))
            yield Invlpg(page)

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Unmap the lower pages and send each home: no other CPU is told."""
        for page in thread.lower:
            pte = yield ReadPte(page)
            if not pte.present:
                continue
            pte = yield SwapPte(page, EMPTY)
            home = yield Load("home", pte.frame)
            if pte.dirty:
                yield ZeroPage(pte.frame)
            yield Lock("pools")
            yield GiveBack(pte.frame, home)
            yield Unlock("pools")
