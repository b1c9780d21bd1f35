"""What a stack policy is, and what ready-made sequences of micro-steps it may use.

A policy is a class with a hook for each moment at which a kernel could grow or shrink a stack; a
hook that is not overridden does nothing. Hooks are generators of micro-steps and depend on nothing
but their arguments and the answers they get.

Where hooks run: `enter_kernel` and `exit_kernel` on the entering thread's stack with interrupts
off; `stack_fault` on the handler's stack; `switch_in` before the switch of the stack pointer,
`switch_out` after it, on the next thread's stack, interrupts on, while the previous thread can be
picked by nobody.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from vm.stacks.area import EMPTY, Page, Pte, Thread
from vm.stacks.steps import (
    Answer,
    GiveBack,
    Invlpg,
    Lock,
    OtherCpus,
    PostFlush,
    ReadPte,
    SendIpi,
    Step,
    TakePage,
    Unlock,
    WaitForAck,
    WritePte,
)

Steps = Generator[Step, Answer, None]
Decision = Generator[Step, Answer, bool]


class Policy:
    """Base of all stack policies; `id`, `title`, `proposer` and `source` are shown to users.

    `delivery` is how the kernel takes a page fault on a stack with this policy: `df`, `ist` or `fred`.
    """

    delivery: ClassVar[str] = "df"
    id: ClassVar[str]
    title: ClassVar[str]
    proposer: ClassVar[str]
    source: ClassVar[str]

    def create_thread(self, cpu: int, thread: Thread) -> Steps:
        """A thread is created on `cpu`; all its leaf entries are empty. Must map what it starts on."""
        yield from map_pages(thread.pages)

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        """The thread has left its stack for ever. Everything still mapped must be given back safely."""
        yield from reclaim_with_shootdown(thread.pages)

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        """The thread has entered the kernel from ring 3."""
        yield from ()

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        """The thread is about to return to ring 3."""
        yield from ()

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        """The thread is about to be switched to."""
        yield from ()

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """The thread has been switched from; `thread.saved_rsp` is where its stack ends."""
        yield from ()

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """An access to the stack area faulted. Answers whether to try again."""
        yield from ()
        return False

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """The kernel asks for `size` bytes of stack. Answers whether they are there."""
        yield from ()
        return True

    def memory_pressure(self, cpu: int, wanted: int) -> Steps:
        """The kernel wants `wanted` pages back."""
        yield from ()


def map_pages(pages: tuple[Page, ...], invalidate: bool = False) -> Steps:
    """Map a frame from the pool at each page that has none; pages for which there is none stay empty.

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
            return
        yield WritePte(page, Pte.of(frame))
        if invalidate:
            yield Invlpg(page)


def unmap_pages(pages: tuple[Page, ...]) -> Generator[Step, Answer, tuple[int, ...]]:
    """Clear each page's entry by a plain store. Answers the frames that were mapped."""
    frames: list[int] = []
    for page in pages:
        pte = yield ReadPte(page)
        if pte.present:
            yield WritePte(page, EMPTY)
            frames.append(pte.frame)
    return tuple(frames)


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
    yield Lock("shootdown")
    for cpu in others:
        yield PostFlush(cpu, start, len(pages))
        yield SendIpi(cpu)
    for cpu in others:
        yield WaitForAck(cpu)
    yield Unlock("shootdown")


def reclaim_with_shootdown(pages: tuple[Page, ...]) -> Steps:
    """Clear, invalidate everywhere, and only then give the frames back."""
    frames = yield from unmap_pages(pages)
    if frames:
        yield from shootdown(pages)
    for frame in frames:
        yield GiveBack(frame)
