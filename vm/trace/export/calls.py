"""What a CPU is in the middle of: system calls, faults, handlers and hooks, one inside the other.

A trace says when each begins: by an event, or for a system call by SYSCALL or by ring 0 after ring 3. It ends

    a fault, an interrupt     at the IRET (ERETS, ERETU) that takes its frame off the stack, known by RSP; where the
                              guest has moved the frame, at the next IRET that takes no other's
    a system call             at SYSRET, or when its thread is back in ring 3
    a hook                    at the event that says so

or with whatever it is in. All belong to the thread that runs, and stay with it while another does; those that come
while none runs (idle) belong to the CPU.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kstack.hw.cpu.events import Outcome
from kstack.trace.events import TraceEvent
from kstack.trace.export.read import DELIVERED, Code, Instructions
from kstack.trace.export.running import Running
from kstack.x86.vectors import FRED_SYSCALL

FirstT = TypeVar("FirstT")
SecondT = TypeVar("SecondT")

CALLS: Final = ("syscall", "sysenter")
RETURNS: Final = ("sysret", "sysretq", "sysexit", "sysexitq")
INTERRUPT_RETURNS: Final = ("iret", "iretd", "iretq", "erets", "eretu")
STACK_BYTES: Final = 1 << 14  # of a thread
_NOWHERE: Final = 0  # RSP that is not known


class Call:
    """Something that has begun.

    Attributes:
        kind: `syscall`, `hook`, or the event's.
        name: to show.
        place, event: its event, and where that is in the table; None for a SYSCALL.
        rsp: at the first instruction of its handler (bytes); 0 where that is not known.
    """

    def __init__(
        self, kind: str, name: str, place: int | None = None, event: TraceEvent | None = None, rsp: int = _NOWHERE
    ) -> None:
        self.kind, self.name, self.place, self.event, self.rsp = kind, name, place, event, rsp


class Audience(Protocol):
    """Who is told."""

    def switched(self, time: int, cpu: int, thread: int, calls: list[Call]) -> None:
        """A CPU has another thread now (0: none), which is in the middle of these calls, outermost first."""
        ...

    def begun(self, time: int, cpu: int, thread: int, call: Call) -> None:
        """A call begins, inside all that are open there."""
        ...

    def ended(self, time: int, thread: int, calls: list[Call]) -> None:
        """These end, innermost first: the innermost of the thread."""
        ...


class Calls:
    """Follows a trace: give it instructions (`of_interest` alone) and events by virtual time.

    Args:
        cpus: of the machine.
        code: of the trace.
        unhandled: events that nobody handles.
        audience: who is told.
    """

    def __init__(self, cpus: int, code: Code, unhandled: frozenset[int], audience: Audience) -> None:
        self.running = Running(cpus)
        self._code, self._unhandled, self._audience = code, unhandled, audience
        self._open: dict[int, list[Call]] = {}  # thread, or below zero a CPU -> calls, outermost first
        self._delivered: list[list[tuple[int, TraceEvent]]] = [[] for _ in range(cpus)]  # of which no instruction ran
        self._hooks: list[list[tuple[int, Call]]] = [[] for _ in range(cpus)]  # with whose they are
        self._ring = [0] * cpus
        self._marks = code.having(*CALLS, *RETURNS, *INTERRUPT_RETURNS)

    def _owner(self, cpu: int) -> int:
        return self.running.now[cpu] or -1 - cpu

    def open(self, cpu: int) -> list[Call]:
        """What a CPU is in the middle of."""
        return self._open.setdefault(self._owner(cpu), [])

    # --- instructions

    def of_interest(self, rows: Instructions, deliveries: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Which of these rows have to be given: calls, returns, changes of ring, and the first after each delivery.

        Args:
            rows: all of some time.
            deliveries: virtual times of events delivered, in order.
        """
        wanted = np.isin(rows.rip, self._marks)
        for cpu in range(len(self._ring)):
            own = np.nonzero(rows.cpu == cpu)[0]
            if not len(own):
                continue
            rings = rows.ring[own]
            wanted[own[1:]] |= rings[1:] != rings[:-1]
            wanted[own[0]] = True
            after = np.searchsorted(deliveries, rows.count[own], "left")
            wanted[own[1:]] |= after[1:] != after[:-1]
        found: NDArray[np.int64] = np.nonzero(wanted)[0]
        return found

    def instruction(self, time: int, cpu: int, rip: int, ring: int, rsp: int) -> None:
        """An instruction is about to be executed."""
        delivered = self._deliver(cpu, rsp)
        before, self._ring[cpu] = self._ring[cpu], ring
        if ring == 3 and before != 3:
            self._end(time, self._owner(cpu))
        name = self._code.name(rip, time) if rip in self._marks else ""
        entered = ring == 0 and before == 3 and not delivered  # the SYSCALL itself may be in no table
        if name in CALLS or (entered and not self.open(cpu)):
            self._begin(time, cpu, Call("syscall", "syscall"))
        elif name in RETURNS:
            self._end(time + 1, self._owner(cpu))
        elif name in INTERRUPT_RETURNS:
            self._returned(time + 1, cpu, rsp)

    def _returned(self, time: int, cpu: int, rsp: int) -> None:
        calls = self.open(cpu)
        handlers = [place for place, call in enumerate(calls) if call.kind in DELIVERED]
        exact = [place for place in handlers if calls[place].rsp and rsp - calls[place].rsp in (0, 8)]
        if handlers:
            self._end(time, self._owner(cpu), (exact or handlers)[-1])

    # --- events

    def event(self, place: int, event: TraceEvent) -> None:
        """The next event; `place` is its number in the table."""
        if event.kind in DELIVERED:
            if place not in self._unhandled:
                self._delivered[event.cpu].append((place, event))
            return
        if event.kind == "thread-gone" and event.thread:
            self._end(event.count, event.thread)
        for cpu, thread in self.running.told(event):
            self._audience.switched(event.count, cpu, thread, self.open(cpu))
        if event.kind == "hook":
            call = Call("hook", event.name, place, event)
            self._hooks[event.cpu].append((self._owner(event.cpu), call))
            self._begin(event.count, event.cpu, call)
        elif event.kind == "hook-end":
            self._hook_ended(event)

    def _hook_ended(self, event: TraceEvent) -> None:
        hooks = self._hooks[event.cpu]
        for at in reversed(range(len(hooks))):
            owner, call = hooks[at]
            begun = call.event
            if begun is not None and (begun.name, begun.thread) == (event.name, event.thread):
                del hooks[at]
                calls = self._open.get(owner, [])
                if call in calls:
                    self._end(event.count, owner, calls.index(call))
                return

    def _deliver(self, cpu: int, rsp: int) -> bool:
        """The handler of what was delivered last begins at this RSP; whether there was anything."""
        delivered, self._delivered[cpu] = self._delivered[cpu], []
        for place, event in delivered:
            known = rsp if event is delivered[-1][1] else _NOWHERE
            call = Call(event.kind, event.name, place, event, known)
            if event.kind == "software" and event.value == FRED_SYSCALL and self._ring[cpu] == 3:
                if any(one.kind == "syscall" for one in self.open(cpu)):
                    continue
                call.kind = call.name = "syscall"
            self._begin(event.count, cpu, call)
        return bool(delivered)

    def finish(self, time: int) -> None:
        """The trace ends, and with it all that is open."""
        for cpu in range(len(self._delivered)):
            self._deliver(cpu, _NOWHERE)
        for thread in list(self._open):
            self._end(time, thread)

    # --- both

    def _begin(self, time: int, cpu: int, call: Call) -> None:
        calls = self.open(cpu)
        if call.rsp:  # what lies below on the same stack has been left without a return
            left = [at for at, one in enumerate(calls) if one.rsp and 0 <= call.rsp - one.rsp < STACK_BYTES]
            if left:
                self._end(time, self._owner(cpu), left[0])
        calls.append(call)
        self._audience.begun(time, cpu, self._owner(cpu), call)

    def _end(self, time: int, owner: int, keep: int = 0) -> None:
        """All calls of a thread (or CPU) but the outermost `keep` end."""
        calls = self._open.get(owner, [])
        ending = calls[keep:][::-1]
        if ending:
            del calls[keep:]
            self._audience.ended(time, owner, ending)


def unhandled(events: Iterable[TraceEvent]) -> frozenset[int]:
    """Places of events that were to be delivered and were not: another one replaced them, or the machine shut down."""
    found: list[int] = []
    last: dict[int, tuple[int, int]] = {}  # CPU -> time, place
    for place, event in enumerate(events):
        if event.kind in DELIVERED:
            time, before = last.get(event.cpu, (None, 0))
            if time == event.count:
                found.append(before)
            if event.text == Outcome.SHUTDOWN.value:
                found.append(place)
            last[event.cpu] = event.count, place
    return frozenset(found)


def by_time(
    first: Iterator[tuple[int, FirstT]], second: Iterator[tuple[int, SecondT]]
) -> Iterator[tuple[int, FirstT | SecondT]]:
    """Two sequences by virtual time as one; the first one's come first at the same time."""
    return heapq.merge(first, second, key=lambda one: one[0])
