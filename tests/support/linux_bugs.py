"""Three bugs in Linux's memory management around the TLB, each as a policy over one shared page, with its fix.

The policy stands for the kernel's code: `request` is what CPU 0 does, `share` what CPU 1 does meanwhile, a fault maps
a fresh page as an anonymous one. The page-table lock is the lock `ptl`. CPU 1 reads the page before and after.
"""

from __future__ import annotations

from pathlib import Path

from kstack.stacks import (
    EMPTY,
    Decision,
    ExchangePte,
    GiveBack,
    Invlpg,
    Load,
    Lock,
    Page,
    Policy,
    Pte,
    ReadPte,
    Steps,
    Store,
    Swap,
    SwapPte,
    TakePage,
    Thread,
    ThreadAt,
    Unlock,
    WritePte,
    map_pages,
    shootdown,
)

PROGRAMS = """.text
program_0:
    L_REQUEST 0, 64
    jmp litmus_end
program_1:
    L_ADDRESS rbx, 0, 64
    mov rax, [rbx]
    L_SHARE 0
    mov rax, [rbx]
    jmp litmus_end
.section .rodata
scenario_name:
    .asciz "linux-bug"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 1
litmus_programs:
    .quad program_0, program_1, 0
"""


def write_guest(folder: Path) -> Path:
    """The scenario: its TOML."""
    (folder / "linux_bug.s").write_text(PROGRAMS)
    toml = folder / "linux-bug.toml"
    toml.write_text(
        'id = "linux-bug"\ntitle = "one page, two system calls"\nquestion = "is a page reached that is gone?"\n'
        'source = "none"\ncpus = 2\nsources = ["lib_litmus.s", "linux_bug.s"]\nsuccess = ""\nlitmus = true\n'
        'events = ["ready", "done", "wrong"]\n[mutant]\npolicy = "fixed-16k"\n'
    )
    return toml


class Kernel(Policy):
    """What all three have in common.

    Attributes:
        fixed: with the fix.
    """

    fixed = False
    id, title = "linux-bug", "Linux's memory management in a few steps"
    delivery = "ist"
    proposer, source = "nobody", "tests/support/linux_bugs.py"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The page itself."""
        return (yield from map_pages((thread.top,)))

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """A fresh page where there is none; interrupts are off, so it waits for no lock."""
        owner = yield ThreadAt(address)  # `thread` is the one that runs, and reads another's stack
        if owner is None:
            return False
        frame = yield TakePage()
        seen = yield ExchangePte(owner.page_at(address), Pte.of(frame), EMPTY)
        if seen.present:
            yield GiveBack(frame)
        return True

    def _take_out(self, page: Page, note: str) -> Steps:
        """Clear an entry under the page-table lock and note its frame; the fix is to flush before the lock is dropped."""
        yield Lock("ptl")
        pte = yield SwapPte(page, EMPTY)
        yield Store(note, pte.frame if pte.present else None)
        if self.fixed:
            yield from _flush(page)
        yield Unlock("ptl")
        if not self.fixed:
            yield from _flush(page)


def _populate(page: Page) -> Steps:
    frame = yield TakePage()
    yield WritePte(page, Pte.of(frame))


def _flush(page: Page) -> Steps:
    yield Invlpg(page)
    yield from shootdown((page,))


class Mremap(Kernel):
    """mremap moves an entry and drops the page-table lock before it flushes the old address.

    Jann Horn, CVE-2018-18281, 2018: meanwhile a truncation finds the page at its new address, flushes that,
    and frees it; the old address still reaches it. Fix: flush before the lock is dropped (eb66ae030829).
    """

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """mremap: the new address is a note of the frame."""
        yield from self._take_out(thread.top, "new address")
        return True

    def share(self, cpu: int, thread: Thread) -> Steps:
        """The file is truncated: the page is taken out of where it is mapped, flushed there, and freed."""
        yield Lock("ptl")
        frame = yield Swap("new address", None)
        entry = yield ReadPte(thread.top)
        if frame is None and entry.present:
            yield SwapPte(thread.top, EMPTY)
            yield from _flush(thread.top)
            frame = entry.frame
        yield Unlock("ptl")
        if frame is not None:
            yield GiveBack(frame)


class BatchedReclaim(Kernel):
    """Reclaim clears an entry and flushes later, in a batch; munmap finds nothing there and flushes nothing.

    Nadav Amit, 2017: what is mapped at the address next is not what the CPU reaches. Fix: who changes an
    address space flushes first what is pending for it (flush_tlb_batched_pending, 3ea277194daa).
    """

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Reclaim of the page."""
        yield Lock("ptl")
        pte = yield SwapPte(thread.top, EMPTY)
        yield Store("pending", 1)
        yield Unlock("ptl")
        yield from _flush(thread.top)
        yield Store("pending", None)
        if pte.present:
            yield GiveBack(pte.frame)
        return True

    def share(self, cpu: int, thread: Thread) -> Steps:
        """munmap, and mmap at the same address."""
        page = thread.top
        yield Lock("ptl")
        pte = yield SwapPte(page, EMPTY)
        pending = (yield Load("pending")) if self.fixed else None
        if pte.present or pending:
            yield from _flush(page)
        if pte.present:
            yield GiveBack(pte.frame)
        yield from _populate(page)
        yield Unlock("ptl")


class CollectForMigration(Kernel):
    """migrate_vma_collect_pmd puts a migration entry in place and flushes after the page-table lock is dropped.

    Alistair Popple, 2022 (60bae73708963): meanwhile zapping the range finds the entry, which is not present, and
    frees the page without a flush. Fix: flush before the lock is dropped.
    """

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Collect the page: the entry is a note of its frame."""
        yield from self._take_out(thread.top, "migrating")
        return True

    def share(self, cpu: int, thread: Thread) -> Steps:
        """Zap the range."""
        yield Lock("ptl")
        frame = yield Swap("migrating", None)
        yield Unlock("ptl")
        if frame is not None:
            yield GiveBack(frame)


BUGS: tuple[type[Kernel], ...] = (Mremap, BatchedReclaim, CollectForMigration)
