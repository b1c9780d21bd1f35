"""What begins ends where it should, also where handlers nest, threads change, and the guest leaves without a return."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kstack.hw.cpu.events import Outcome
from kstack.trace.events import TraceEvent
from kstack.trace.export.calls import Call, Calls, unhandled
from kstack.trace.export.flows import flows
from kstack.trace.export.read import Code, Version
from kstack.trace.export.running import Running

PLAIN: Final = 0x1000
IRETQ: Final = 0x2000
SYSCALL: Final = 0x3000
SYSRETQ: Final = 0x4000
BYTES: Final = {PLAIN: "90", IRETQ: "48cf", SYSCALL: "0f05", SYSRETQ: "480f07"}


class Program(Code):
    """Code that does not change."""

    def __init__(self) -> None:
        self._versions = {rip: [Version(0, bytes.fromhex(code), 64)] for rip, code in BYTES.items()}
        self._symbols = {}


class Heard:
    """An audience that writes everything down."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def switched(self, time: int, cpu: int, thread: int, calls: list[Call]) -> None:
        self.lines.append(f"{time} CPU {cpu} has {thread}: {' '.join(call.name for call in calls)}".rstrip(": "))

    def begun(self, time: int, cpu: int, thread: int, call: Call) -> None:
        self.lines.append(f"{time} CPU {cpu} thread {thread} begins {call.name}")

    def ended(self, time: int, thread: int, calls: list[Call]) -> None:
        self.lines += [f"{time} thread {thread} ends {call.name}" for call in calls]


def heard(*told: TraceEvent | tuple[int, int, int, int, int], end: int = 1000) -> list[str]:
    """What an audience hears of events, and instructions: time, CPU, RIP, ring, RSP."""
    found = Heard()
    events = [one for one in told if isinstance(one, TraceEvent)]
    calls = Calls(2, Program(), unhandled(events), found)
    for one in told:
        if isinstance(one, TraceEvent):
            calls.event(events.index(one), one)
        else:
            calls.instruction(*one)
    calls.finish(end)
    return found.lines


def switch(time: int, cpu: int, thread: int) -> TraceEvent:
    return TraceEvent(time, cpu, "switch", f"{thread}", thread=thread)


def interrupt(time: int, cpu: int = 0, vector: int = 0x20) -> TraceEvent:
    return TraceEvent(time, cpu, "interrupt", f"{vector:#x}", value=vector)


def test_a_handler_within_a_handler_ends_first() -> None:
    assert heard(
        interrupt(10),
        (11, 0, PLAIN, 0, 0x8F00),
        TraceEvent(12, 0, "fault", "#PF", value=2),
        (13, 0, PLAIN, 0, 0x8E00),
        (14, 0, IRETQ, 0, 0x8E08),  # after the error code
        (15, 0, PLAIN, 0, 0x8F00),
        (16, 0, IRETQ, 0, 0x8F00),
    ) == [
        "10 CPU 0 thread -1 begins 0x20",
        "12 CPU 0 thread -1 begins #PF",
        "15 thread -1 ends #PF",
        "17 thread -1 ends 0x20",
    ]


def test_an_iret_from_the_outer_handlers_frame_ends_both() -> None:
    lines = heard(
        interrupt(10),
        (11, 0, PLAIN, 0, 0x8F00),
        interrupt(12, vector=0x21),
        (13, 0, PLAIN, 0, 0x8E00),
        (14, 0, IRETQ, 0, 0x8F00),
    )
    assert lines[2:] == ["15 thread -1 ends 0x21", "15 thread -1 ends 0x20"]


def test_a_frame_that_was_moved_is_left_by_the_next_iret() -> None:
    lines = heard(interrupt(10), (11, 0, PLAIN, 0, 0x8F00), (12, 0, IRETQ, 0, 0x5000))
    assert lines[1:] == ["13 thread -1 ends 0x20"]


def test_a_handler_that_was_left_without_a_return_ends_when_its_stack_is_used_again() -> None:
    lines = heard(interrupt(10), (11, 0, PLAIN, 0, 0x8E00), interrupt(20, vector=0x21), (21, 0, PLAIN, 0, 0x8F00))
    assert lines[1:3] == ["20 thread -1 ends 0x20", "20 CPU 0 thread -1 begins 0x21"]


def test_an_interrupt_right_after_sysret_is_no_part_of_the_system_call() -> None:
    assert heard(
        switch(1, 0, 3),
        (2, 0, PLAIN, 3, 0x7000),
        (3, 0, SYSCALL, 3, 0x7000),
        (4, 0, PLAIN, 0, 0x7000),
        (5, 0, SYSRETQ, 0, 0x7000),
        interrupt(6),
        (7, 0, PLAIN, 0, 0x8F00),
        (8, 0, IRETQ, 0, 0x8F00),
        (9, 0, PLAIN, 3, 0x7000),
    )[1:] == [
        "3 CPU 0 thread 3 begins syscall",
        "6 thread 3 ends syscall",
        "6 CPU 0 thread 3 begins 0x20",
        "9 thread 3 ends 0x20",
    ]


def test_ring_0_after_ring_3_is_a_system_call_though_its_syscall_is_in_no_table() -> None:
    lines = heard(switch(1, 0, 3), (2, 0, PLAIN, 3, 0x7000), (3, 0, PLAIN, 0, 0x7000), (4, 0, PLAIN, 3, 0x7000))
    assert lines[1:] == ["3 CPU 0 thread 3 begins syscall", "4 thread 3 ends syscall"]


def test_a_system_call_goes_with_its_thread_from_cpu_to_cpu() -> None:
    assert heard(
        switch(1, 0, 3),
        (2, 0, SYSCALL, 3, 0x7000),
        switch(5, 0, 4),
        switch(6, 1, 3),
        (7, 1, PLAIN, 0, 0x7000),
        (8, 1, SYSRETQ, 0, 0x7000),
    ) == [
        "1 CPU 0 has 3",
        "2 CPU 0 thread 3 begins syscall",
        "5 CPU 0 has 4",
        "6 CPU 1 has 3: syscall",
        "9 thread 3 ends syscall",
    ]


def test_a_hook_ends_by_its_event_with_what_is_in_it() -> None:
    hook = TraceEvent(10, 0, "hook", "exit_kernel", thread=3)
    lines = heard(
        switch(1, 0, 3),
        hook,
        interrupt(12),
        (13, 0, PLAIN, 0, 0x8F00),
        TraceEvent(14, 0, "hook-end", "enter_kernel", thread=3),
        TraceEvent(15, 0, "hook-end", "exit_kernel", thread=3),
    )
    assert lines[1:] == [
        "10 CPU 0 thread 3 begins exit_kernel",
        "12 CPU 0 thread 3 begins 0x20",
        "15 thread 3 ends 0x20",
        "15 thread 3 ends exit_kernel",
    ]


def test_all_of_a_thread_ends_when_it_is_gone_and_all_that_is_open_with_the_trace() -> None:
    lines = heard(
        switch(1, 0, 3),
        (2, 0, SYSCALL, 3, 0x7000),
        TraceEvent(9, 0, "thread-gone", "3", thread=3),
        interrupt(20),
        (21, 0, PLAIN, 0, 0x8F00),
        end=50,
    )
    assert lines[2:] == [
        "9 thread 3 ends syscall",
        "9 CPU 0 has 0",
        "20 CPU 0 thread -1 begins 0x20",
        "50 thread -1 ends 0x20",
    ]


def test_only_the_last_of_events_at_one_time_is_handled_and_none_at_shutdown() -> None:
    replaced, down = Outcome.REPLACED.value, Outcome.SHUTDOWN.value
    events = [
        TraceEvent(5, 0, "fault", "#PF", text=replaced),
        TraceEvent(5, 0, "fault", "#DF", text=replaced),
        TraceEvent(5, 1, "fault", "#PF"),
        TraceEvent(9, 0, "fault", "#DF", text=down),
    ]
    assert unhandled(events) == {0, 3}


def test_a_cpu_has_no_thread_once_its_own_is_out_or_gone() -> None:
    running = Running(2)
    assert running.told(switch(1, 0, 3)) == [(0, 3)]
    assert running.told(TraceEvent(2, 0, "hook", "switch_in", thread=4)) == [(0, 4)]
    assert running.told(TraceEvent(3, 0, "hook", "switch_out", thread=3)) == [], "it has run since"
    assert running.told(TraceEvent(4, 0, "hook", "switch_out", thread=4)) == [(0, 0)], "the idle thread runs"
    assert running.told(switch(5, 1, 4)) == [(1, 4)]
    assert running.told(switch(6, 0, 4)) == [(0, 4), (1, 0)], "one CPU at a time"
    assert running.told(TraceEvent(7, 1, "thread-gone", "4", thread=4)) == [(0, 0)]


def test_rows_that_change_nothing_need_not_be_given() -> None:
    from kstack.trace.export.read import Instructions

    def column(values: list[int], kind: type) -> NDArray[np.generic]:
        return np.array(values, dtype=kind)

    rows = Instructions(
        column([1, 2, 3, 4, 5, 6, 8], np.uint64),
        column([0, 0, 0, 1, 0, 0, 0], np.uint8),
        column([PLAIN, PLAIN, IRETQ, PLAIN, PLAIN, PLAIN, PLAIN], np.uint64),
        column([1] * 7, np.uint8),
        column([0, 0, 0, 0, 3, 3, 3], np.uint8),
        column([0] * 7, np.uint64),
        column([0] * 7, np.int32),
    )
    calls = Calls(2, Program(), frozenset(), Heard())
    found = calls.of_interest(rows, np.array([7], dtype=np.uint64))
    assert found.tolist() == [0, 2, 3, 4, 6], "each CPU's first, IRETQ, the change of ring, the first after an event"


# --- arrows


def test_interrupts_that_are_taken_as_one_have_an_arrow_from_each() -> None:
    told = [TraceEvent(1, 0, "ipi", "0xf0", value=1), TraceEvent(2, 2, "ipi", "0xf0", value=1), interrupt(3, 1, 0xF0)]
    found = flows([*told, interrupt(9, 1, 0xF0)])
    assert (found.passing, found.ending) == ({0: [1], 1: [2]}, {2: [1, 2]})


def test_a_finding_about_a_frame_has_an_arrow_from_where_it_was_given_back() -> None:
    told = [
        TraceEvent(1, 0, "step", "GiveBack", text="GiveBack(frame 0x5000)"),
        TraceEvent(2, 0, "step", "GiveBack", text="GiveBack(frame 0x5000 to CPU 1's pool)"),
        TraceEvent(3, 1, "finding", "double-free", frame=0x5000),
        TraceEvent(4, 1, "finding", "leak", frame=0x6000),
    ]
    assert flows(told).ending == {2: [1]}
    assert flows(told).passing == {1: [1]}


def test_a_translation_that_was_right_again_is_stale_since_the_last_store() -> None:
    page, frame = 0xFFFFC90000001000, 0x5000
    told = [
        TraceEvent(1, 0, "shrink", "page 1", address=page, frame=frame),
        TraceEvent(2, 0, "step", "GiveBack", text="GiveBack(frame 0x5000)"),
        TraceEvent(3, 0, "grow", "page 1", address=page, frame=frame),
        TraceEvent(4, 0, "shrink", "page 1", address=page, frame=frame),
        TraceEvent(5, 1, "tlb-stale", "load", address=page + 8, frame=frame),
        TraceEvent(6, 1, "finding", "overflow", address=page + 8, frame=0x7000),
        TraceEvent(7, 1, "finding", "stale-translation", address=page + 8, frame=frame),
    ]
    found = flows(told)
    assert found.passing == {3: [1], 4: [1]}, "not yet given back since"
    assert found.ending == {6: [1]}
