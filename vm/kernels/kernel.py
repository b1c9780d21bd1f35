"""What kstack must know of the kernel that a guest runs: to run it, to judge it, and to let a policy manage its stacks.

A kernel here is the guest's side. It sees where the guest's own code creates, enters, switches and leaves threads, tells a host
of it, and knows how CPUs ask each other to flush. A kernel that manages its memory by itself says instead whose its frames are,
which is all that the sanitizer asks. Everything above speaks to this protocol, and to `Facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kstack.load import Symbols
from kstack.machine import Machine
from kstack.sanitizer.frames import FrameSource
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall
from kstack.stacks.policy import Policy
from kstack.x86.registers import Gpr

Touch = Callable[[int], None]
"""Told of the physical address of each word that is about to be accessed."""
KernelState = tuple[int, ...]
"""What a kernel has learned of its guest, as numbers."""


@dataclass(frozen=True)
class Exits:
    """What it means that a guest has written a value to the debug-exit port; as it is, kstack's convention.

    Attributes:
        passed: it has come to a good end.
        failed: a check of its own has failed.
        panicked: it cannot go on.
        panic: how the line begins by which it says why it panicked.
    """

    passed: frozenset[int] = frozenset({0x00, 0x10})
    failed: int = 0x11
    panicked: int = 0x12
    panic: str = "PANIC "

    def last_words(self, serial: str) -> str:
        """The line by which a guest says why it panicked; else the last one with anything in it that it printed."""
        lines = [line.strip() for line in serial.split("\n") if line.strip()]
        return next((line for line in reversed(lines) if line.startswith(self.panic)), lines[-1] if lines else "")


@dataclass(frozen=True)
class Programs:
    """How a kernel runs a litmus scenario: a straight program a CPU, for which threads exist that nobody schedules.

    Attributes:
        ready: the event that each CPU marks before its program's first operation.
        done: the one behind its last.
        wrong: the one in its place if the program has read what it may not.
        first_thread: threads from this id on are the programs', and their stacks are what is explored.
        spoiled: registers in which a program leaves no final value: its end has changed them.
    """

    ready: str
    done: str
    wrong: str
    first_thread: int
    spoiled: frozenset[Gpr] = frozenset()


@dataclass(frozen=True)
class Facts:
    """What is so of a kernel on every machine.

    Attributes:
        shootdown_vector: of the interrupt by which a CPU asks another one to flush.
        timer_vector: of a CPU's own timer.
        ports: those of its calls, and those by which it prints and ends: nothing in them decides how a CPU goes on.
        exits: what its end says.
        begins: the event with which a scenario's run begins: all CPUs are up, and no thread exists.
        windows: functions whose every instruction is worth a fault, by the window that they make.
        wakes_at: symbol of the instruction that makes a sleeper runnable (kstack.trace.wakeups); empty if there is none.
        programs: of litmus scenarios; None if it runs none.
    """

    shootdown_vector: int
    timer_vector: int
    ports: frozenset[int]
    exits: Exits = Exits()
    begins: str = ""
    windows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wakes_at: str = ""
    programs: Programs | None = None


class Host(Protocol):
    """Who is told what a guest does: the host of a policy's hooks, if there is a policy.

    A thread is a number. Its stack is where `begin` of CREATE_THREAD says: bottom (linear) and size, in bytes. It is switched
    by SWITCH_OUT, with its RSP, and SWITCH_IN, and its number is free again behind EXIT_THREAD.
    """

    policy: Policy | None

    @property
    def is_booted(self) -> bool:
        """Whether the guest has given its frames."""
        ...

    def mark(self, cpu: int, name: str) -> None:
        """The guest marks an event: schedules, scenarios and findings name it."""
        ...

    def comes_online(self, cpu: int) -> None:
        """A CPU is up."""
        ...

    def boot(self, frames: list[int]) -> None:
        """The guest gives the policy these frames (bytes)."""
        ...

    def in_flight(self, cpu: int, key: tuple[int, int]) -> HookCall | None:
        """The hook for which the guest waits at this RIP and RSP."""
        ...

    def begin(self, cpu: int, hook: HookKind, arguments: tuple[int, ...], key: tuple[int, int]) -> bool:
        """Begin a hook; whether it has ended already, else `go_on` makes its next step.

        Raises:
            GuestMisuse: that makes no sense.
        """
        ...

    def go_on(self, cpu: int, call: HookCall) -> bool:
        """Carry out the next micro-step of a hook in flight; whether it has ended."""
        ...


class Kernel(Protocol):
    """The kernel of a guest on one machine.

    Attributes:
        facts: what is so of it on every machine.
    """

    facts: Facts

    def serve(self, host: Host) -> None:
        """Tell this host what the guest does, from now on."""
        ...

    @property
    def frames(self) -> FrameSource | None:
        """Whose the guest's frames are, where it gives and frees them itself; None where a policy does, which is followed."""
        ...

    @property
    def is_attached(self) -> bool:
        """Whether the machine's guest still tells it, and not one that was made later."""
        ...

    def asks(self, cpu: int) -> HookKind | None:
        """The hook that a CPU begins, or goes on with, by the instruction at which it stands; None if that is no hook's."""
        ...

    def post_flush(self, cpu: int, target: int, start: int, pages: int, touch: Touch) -> None:
        """Ask a CPU to flush pages, by a plain store where its handler looks.

        Args:
            cpu: who asks.
            target: who shall flush.
            start: linear address of the first page (bytes).
            pages: how many; 0 for everything.
            touch: told of each word.
        """
        ...

    def has_flushed(self, cpu: int, target: int, touch: Touch) -> bool:
        """Whether a CPU has acknowledged all that it was asked; `cpu` looks."""
        ...

    def posting_words(self, target: int) -> list[int]:
        """Physical addresses of the words that `post_flush` stores, as far as they are mapped."""
        ...

    def waiting_words(self, target: int) -> list[int]:
        """Physical addresses of the words that `has_flushed` loads, as far as they are mapped."""
        ...

    def snapshot(self) -> KernelState:
        """What it has learned of its guest."""
        ...

    def restore(self, state: KernelState) -> None:
        """Become what `snapshot` returned."""
        ...


KernelOf = Callable[[Machine, Symbols], Kernel]
"""Makes the kernel of a machine's guest, by the symbols of its image; it ends the one that was made for the machine before."""
