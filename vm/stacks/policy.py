"""What a stack policy is: a class with a hook for each moment at which a stack could grow or shrink.

A hook that is not overridden does nothing. Hooks are generators of micro-steps and depend on nothing
but their arguments and the answers they get; what a policy remembers it keeps in variables, by steps.

Where hooks run: `enter_kernel` and `exit_kernel` on the entering thread's stack with interrupts
off; `stack_fault` on the handler's stack; `switch_in` before the switch of the stack pointer,
`switch_out` after it, on the next thread's stack, interrupts on, while the previous thread can be
picked by nobody.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar, Final

from kstack.stacks.area import Thread
from kstack.stacks.idioms import map_pages, reclaim_with_shootdown
from kstack.stacks.steps import Answer, Step

Steps = Generator[Step, Answer, None]
Decision = Generator[Step, Answer, bool]
DELIVERIES: Final = ("df", "ist", "fred")
"""How a kernel may take a page fault on a stack."""


class Policy:
    """Base of all stack policies; `id`, `title`, `proposer` and `source` are shown to users.

    `delivery` is how the kernel takes a page fault on a stack with this policy: `df`, `ist` or `fred`;
    `pool_pages` is what a CPU's pool is filled up to, unless the user says otherwise (None: 8).
    A policy reclaims unless it says `reclaims = False`: it takes no page from a living thread, so that a
    run in which it cleared nothing is what it promises, and not a hook that never ran. Subclasses inherit it.
    """

    delivery: ClassVar[str] = "df"
    pool_pages: ClassVar[int | None] = None
    reclaims: ClassVar[bool] = True
    id: ClassVar[str]
    title: ClassVar[str]
    proposer: ClassVar[str]
    source: ClassVar[str]

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """A thread is created on `cpu`; all its leaf entries are empty. Must map what it starts on.

        Answers False if there is no memory for that: then the thread is not created, after `exit_thread`.
        """
        return (yield from map_pages(thread.pages))

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

    def share(self, cpu: int, thread: Thread) -> Steps:
        """The thread is about to hand out a pointer into its stack: a waiter, a list entry."""
        yield from ()

    def tick(self, cpu: int) -> Steps:
        """A timer interrupt on `cpu`: interrupts off, on whatever stack it came."""
        yield from ()
