"""Page faults, context switches, system calls and IPIs, beside QEMU."""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

from bench.harness import Row, at_most, seconds_each
from bench.runners import has_qemu, ours, qemu

PAGE_FAULT_US: Final = 60.0


class EventLoop(NamedTuple):
    """A guest program, and how many events an iteration of it has."""

    name: str
    programs: tuple[str, ...]
    events: int = 1
    cpus: int = 1
    bound: float | None = None


LOOPS: Final = (
    EventLoop("page fault delivered and returned", ("own_fault", "fault_skip"), bound=PAGE_FAULT_US),
    EventLoop("the same, PTE set, cleared and INVLPG", ("own_fault", "fault_fix")),
    EventLoop("context switch", ("switch",), events=2),
    EventLoop("system call", ("syscall",)),
    EventLoop("IPI to another CPU, answered", ("ipi",), cpus=2),
)


def run() -> list[Row]:
    """Microseconds an event, and events a second."""
    rows = []
    for name, programs, events, cpus, bound in LOOPS:
        runners = [partial(_ours, programs, cpus)]
        if has_qemu():
            runners.append(partial(_qemu, programs, cpus))
        each, *others = (seconds / events for seconds in seconds_each(*runners))
        target = (None, None) if bound is None else at_most(each * 1e6, bound, f"<= {bound:g} us")
        peer, there = ("QEMU TCG", others[0]) if others else (None, None)
        rows.append(Row("events", name, each * 1e6, "us", peer, there and there * 1e6, *target))
        rows.append(Row("events", name, 1 / each, "/s", peer, there and 1 / there))
    return rows


def _ours(programs: tuple[str, ...], cpus: int, count: int) -> float:
    return ours(programs, count, cpus)[0]


def _qemu(programs: tuple[str, ...], cpus: int, count: int) -> float:
    return qemu(programs, count, cpus)
