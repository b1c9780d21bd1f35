"""A hook in flight, what a policy's steps are counted as, and what is told of them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kstack.hw.instruments import Hook, Hooks
from kstack.stacks.area import Pte, Thread
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.watch import MadeStep
from kstack.stacks.steps import Answer, Answered, Step

MAY_SLEEP: Final = frozenset({HookKind.CREATE_THREAD, HookKind.REQUEST, HookKind.MEMORY_PRESSURE})
"""Hooks that run in thread context, where waiting for memory is allowed if interrupts are on."""
HookSteps = Generator[Step, Answer, bool | None]
"""A hook that has been called: what it answers at its end is a decision, or None."""


class Unanswered(enum.Enum):
    """What is no answer yet."""

    WAITING = enum.auto()


WAITING: Final = Unanswered.WAITING
"""What a step answers that has to be tried again."""


class GuestMisuse(Exception):
    """A guest's hypercall that makes no sense: the guest's fault, so the machine stops with a reason."""


@dataclass
class HookCall:
    """A hook in flight on a CPU.

    `key` is the guest's (RIP, RSP) where it waits for the hook; `answers` are what its steps have answered so far,
    from which the generator can be made again (a snapshot cannot copy it). `step` is the one that comes next; None
    before the hook has run. `made` are the steps that it
    has made and not yielded yet; None once it was made to fail, when it may leave them. `given` is the thread
    as it was when the hook was called, which is what the hook goes by to its end.
    """

    hook: HookKind
    arguments: tuple[int, ...]
    key: tuple[int, int]
    thread: int
    generator: HookSteps
    step: Any = None
    answers: list[Answered] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    made: list[MadeStep] | None = field(default_factory=list)
    given: Thread | None = None


@dataclass
class StepCounts:
    """Exact counts of what a policy did; waits are attempts in vain."""

    hooks: int = 0
    steps: int = 0
    pte_reads: int = 0
    pte_writes: int = 0
    pte_exchanges: int = 0
    invlpg: int = 0
    invlpgb: int = 0
    tlbsync: int = 0
    ipis: int = 0
    pages_taken: int = 0
    pages_allocated: int = 0
    pages_given: int = 0
    pages_zeroed: int = 0
    refusals: int = 0
    variables: int = 0
    locks: int = 0
    lock_waits: int = 0
    waits: int = 0
    switches: int = 0
    syscalls: int = 0
    stack_faults: int = 0
    requests: int = 0
    shares: int = 0
    unmaps: int = 0


class Interposed(NamedTuple):
    """What happens at a step instead of it, or besides.

    Attributes:
        instead: the step is not carried out; `answer` is its answer (WAITING to be asked again).
        error: raised in the hook.
        behind: called with the answer when it has been carried out.
    """

    instead: bool = False
    answer: Answered | Unanswered = None
    error: Exception | None = None
    behind: Callable[[Answered], None] | None = None


class StackHooks(Hooks):
    """What a policy's host tells.

    Attributes:
        boot: the guest has given the policy these frames (bytes).
        thread: a thread's stack area exists, with empty leaf entries.
        thread_end: a thread's exit hook has ended.
        call: a hook has been called on a CPU and has made no step yet.
        step: a micro-step was carried out: the CPU, its hook, the step, its answer, and the entry that a store replaced (else None).
        fault_end: the policy has looked at a fault: the CPU, the thread, the address, whether it is handled, and whether there was
            no page when the thread wanted one last.
        cannot_sleep: a hook on a CPU would have to wait for memory where nobody can run the thread again.
        mark: the guest on a CPU marked an event, by its name.
    """

    def __init__(self) -> None:
        self.boot: Hook[[list[int]]] = Hook()
        self.thread: Hook[[Thread]] = Hook()
        self.thread_end: Hook[[Thread]] = Hook()
        self.call: Hook[[int, HookCall]] = Hook()
        self.step: Hook[[int, HookCall, Step, Answered, Pte | None]] = Hook()
        self.fault_end: Hook[[int, Thread, int, bool, bool]] = Hook()
        self.cannot_sleep: Hook[[int, HookCall]] = Hook()
        self.mark: Hook[[int, str]] = Hook()
