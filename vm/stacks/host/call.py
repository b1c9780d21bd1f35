"""A hook in flight, what a policy's steps are counted as, and who watches them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from kstack.kernels.kstack.hypercall import Function
from kstack.stacks.area import Pte, Thread
from kstack.stacks.host.watch import MadeStep

MAY_SLEEP: Final = frozenset({Function.CREATE_THREAD, Function.REQUEST, Function.MEMORY_PRESSURE})
"""Hooks that run in thread context, where waiting for memory is allowed if interrupts are on."""


class GuestMisuse(Exception):
    """A guest's hypercall that makes no sense: the guest's fault, so the machine stops with a reason."""


@dataclass
class HookCall:
    """A hook in flight on a CPU.

    `key` is the guest's (RIP, RSP) at the OUT; `answers` are what its steps have answered so far,
    from which the generator can be made again (a snapshot cannot copy it). `made` are the steps that it
    has made and not yielded yet; None once it was made to fail, when it may leave them. `given` is the thread
    as it was when the hook was called, which is what the hook goes by to its end.
    """

    function: Function
    arguments: tuple[int, ...]
    key: tuple[int, int]
    thread: int
    generator: Generator[Any, Any, Any]
    step: Any = None
    answers: list[Any] = field(default_factory=list)
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
    answer: Any = None
    error: Exception | None = None
    behind: Callable[[Any], None] | None = None


class HookObserver(Protocol):
    """Who wants to know of each hook, also of those that make no step."""

    def hook_begun(self, cpu: int, call: HookCall) -> None:
        """A hook has been called and has made no step yet."""
        ...


class StackObserver(Protocol):
    """Who wants to know what a policy does (the oracle, the trace)."""

    def booted(self, frames: list[int]) -> None:
        """The guest has given the policy these frames."""
        ...

    def thread_created(self, thread: Thread) -> None:
        """A thread's stack area exists, with empty leaf entries."""
        ...

    def thread_gone(self, thread: Thread) -> None:
        """A thread's exit hook has ended."""
        ...

    def stepped(self, cpu: int, call: HookCall, step: Any, answer: Any, previous: Pte | None) -> None:
        """A micro-step was carried out; `previous` is the entry that a store replaced, None if it stored none."""
        ...

    def fault_ended(self, cpu: int, thread: Thread, address: int, handled: bool, dry: bool) -> None:
        """The policy has looked at a fault on a stack; `dry` if there was no page when the thread wanted one last."""
        ...

    def cannot_sleep(self, cpu: int, call: HookCall) -> None:
        """A hook would have to wait for memory where nobody can run the thread again."""
        ...

    def event(self, cpu: int, name: str) -> None:
        """The guest marked an event."""
        ...
