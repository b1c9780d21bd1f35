"""Moves and states as values: immutable, and what a move does not touch is the same object before and after it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from kstack.explore.dead_stack import Below
from kstack.explore.model.gate import Held
from kstack.machine import MachineSnapshot
from kstack.sanitizer.frames import Frame
from kstack.stacks import Page
from kstack.stacks.host.execute import Pending
from kstack.stacks.host.state import RuntimeSnapshot, ThreadState


class Grown(Exception):
    """More is visible than was known: what has been explored so far was too coarse, so begin again.

    Args:
        frames: all that is known to be visible now (frame numbers, sorted).
    """

    def __init__(self, frames: tuple[int, ...] = ()) -> None:
        super().__init__(frames)
        self.frames = frames


MoveKind = Literal["access", "step", "instruction", "interrupt", "store"]


class Move(NamedTuple):
    """One visible operation.

    Attributes:
        cpu: whose.
        kind: `access`, `step`, `instruction`, `interrupt`, or `store` for the moment at which the oldest store
            in its buffer becomes visible.
        choice: which of its outcomes, 0 for the first (the tables; A as it is). Of an access that loads an entry, those in
            which some walker has set A come behind those in which none has.
    """

    cpu: int
    kind: MoveKind
    choice: int = 0


class StackArea(NamedTuple):
    """The stack area of a thread, which never changes."""

    thread: int
    bottom: int
    size: int
    is_user: bool


class Sleep(NamedTuple):
    """Of a thread that is switched out: with which RSP, and since when."""

    saved_rsp: int
    since: int


def area_of(thread: ThreadState) -> StackArea:
    """The stack of a thread."""
    return StackArea(thread.id, thread.bottom, thread.size, thread.is_user)


def sleep_of(thread: ThreadState) -> Sleep:
    """How a thread is switched out."""
    return Sleep(thread.saved_rsp, thread.since)


# --- the whole


CachedSets = tuple[tuple[tuple[int, int], tuple[int, ...]], ...]
"""By CPU and managed page: entries, sorted; none where there are none."""


class LazyState(NamedTuple):
    """The lazy TLB: what may be cached, and what might have been, on which nothing depends."""

    may: CachedSets
    ever: CachedSets


class State(NamedTuple):
    """Everything, immutable; `memory` and `frames` are what differs from the root state.

    Attributes:
        memory: frames of RAM, None for one that is all zeros.
        rest: the machine but for its memory.
        policy: hooks, threads, and what steps act on.
        lazy: the lazy TLB.
        frames: the lives of the policy's frames.
        cpu_keys: of each CPU, what decides how it goes on.
        threads: which the oracle knows.
        held: by CPU, the operation before which it stands.
        done: by CPU, whether its program has ended.
        double_faults: by CPU: stack pointer, and whether it was served.
        stores: by CPU, what waits in its store buffer.
        below: by CPU, what lay below its stack pointer when an interrupt came.
    """

    memory: tuple[tuple[int, bytes | None], ...]
    rest: MachineSnapshot
    policy: RuntimeSnapshot
    lazy: LazyState
    frames: tuple[tuple[int, Frame[Page]], ...]
    cpu_keys: tuple[bytes, ...]
    threads: tuple[int, ...]
    held: tuple[Held | None, ...]
    done: tuple[bool, ...]
    double_faults: tuple[tuple[int, tuple[int, bool]], ...]
    stores: tuple[tuple[Pending, ...], ...]
    below: tuple[Below | None, ...]
