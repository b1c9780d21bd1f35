"""What a policy's host is made of, as values: what a run from there depends on (`...Snapshot`), and the whole of it (`...State`)."""

from __future__ import annotations

from typing import NamedTuple

from kstack.stacks import steps
from kstack.stacks.area import AreasState, Page, Thread
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import StepCounts
from kstack.stacks.host.pool import PoolsState

Variable = tuple[str, steps.Key]
"""A variable of the policy's: its name and key."""


class GivenState(NamedTuple):
    """What the guest has told: CPUs that are online, what its kernel knows, frames (bytes)."""

    online: tuple[int, ...]
    kernel: tuple[int, ...]
    frames: tuple[int, ...]


class ExecutorSnapshot(NamedTuple):
    """An `Executor`'s part of a state, immutable: what decides, sorted."""

    counts: tuple[int, ...]
    pools: PoolsState | None
    given: GivenState
    variables: tuple[tuple[Variable, steps.Value], ...]
    locks: tuple[tuple[str, int], ...]
    dry: tuple[tuple[int, bool], ...]


class ExecutorState(NamedTuple):
    """An `Executor`'s whole state; nobody changes what is in it."""

    counts: StepCounts
    pools: PoolsState | None
    online: tuple[int, ...]
    kernel: tuple[int, ...]
    frames: list[int]
    variables: dict[Variable, steps.Value]
    dry: dict[int, bool]
    locks: dict[str, int]
    leaves: dict[Page, int]
    areas: AreasState


class ThreadState(NamedTuple):
    """A `Thread`, as it is made again."""

    id: int
    bottom: int
    size: int
    is_user: bool
    saved_rsp: int
    since: int

    @classmethod
    def of(cls, thread: Thread) -> ThreadState:
        """A thread now."""
        return cls(thread.id, thread.bottom, thread.size, thread.is_user, thread.saved_rsp, thread.since)


class CallSnapshot(NamedTuple):
    """A hook in flight, as far as a run from there depends on it."""

    hook: HookKind
    arguments: tuple[int, ...]
    key: tuple[int, int]
    thread: int
    answers: tuple[steps.Answered, ...]
    held: tuple[str, ...]


CallSnapshots = tuple[CallSnapshot, ...]
"""A CPU's hooks in flight, the innermost last."""


class RuntimeSnapshot(NamedTuple):
    """A `StackRuntime`'s part of a state, immutable."""

    calls: tuple[CallSnapshots, ...]
    threads: tuple[ThreadState, ...]
    blocked: tuple[bool, ...]
    executor: ExecutorSnapshot


class CallState(NamedTuple):
    """A hook in flight: what it was called with, what its steps have answered, and the step that comes next."""

    hook: HookKind
    arguments: tuple[int, ...]
    key: tuple[int, int]
    thread: int
    given: Thread | None
    answers: tuple[steps.Answered, ...]
    held: tuple[str, ...]
    step: steps.Step | None


class RuntimeState(NamedTuple):
    """A `StackRuntime`'s whole state; nobody changes what is in it."""

    calls: tuple[tuple[CallState, ...], ...]
    threads: tuple[ThreadState, ...]
    blocked: tuple[bool, ...]
    executor: ExecutorState
