"""The timeline: a Perfetto trace, for https://ui.perfetto.dev or `kstack trace view`.

    process CPUs      CPU n: the thread that runs, and in it what it is in the middle of; instants of all events
                      CPU n TLB fills; CPU n pool, if the policy asks for its level
    process threads   thread n: its system calls, faults, interrupts and hooks, whole, also across switches
                      thread n on CPU: where it runs
                      thread n stack depth, in bytes; thread n pages
    process policy    frames in use
    arrows            as `flows` says

Times are virtual time as nanoseconds. Two exports of one trace are byte-identical.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kstack.trace.events import TraceEvent
from kstack.trace.export.calls import Call, Calls, by_time, unhandled
from kstack.trace.export.counters import Counters, Depths, areas
from kstack.trace.export.flows import Flows, flows
from kstack.trace.export.packets import NO_FLOWS, Annotations, FlowIds, Packets
from kstack.trace.export.read import DELIVERED, Code, Instructions, events, instructions
from kstack.trace.store import Trace

CPUS, THREADS, POLICY = "CPUs", "threads", "policy"
A_GROUP: Final = 4  # tracks of one CPU or thread
NAMES: Final = {
    "ipi": "IPI {name} to CPU {value}",
    "tlb-fill": "TLB fill",
    "tlb-speculated": "TLB fill by speculation",
    "tlb-stale": "stale {name}",
    "flush": "flush: {name}",
    "grow": "grow {name}",
    "shrink": "shrink {name}",
    "thread": "thread {name} created",
    "thread-gone": "thread {name} gone",
    "wake": "wake thread {name}",
    "written": "debugger: {name}",
    "end": "end: {name}",
}
_UNSEEN: Final = ("hook", "hook-end", "switch")  # they are slices


class _Told(NamedTuple):
    """An event, and its place in the table."""

    place: int
    event: TraceEvent


class _Executed(NamedTuple):
    """An instruction of interest."""

    cpu: int
    rip: int
    ring: int
    rsp: int


def write(trace: Trace, path: Path) -> None:
    """Write the trace as protobuf."""
    with path.open("wb") as file:
        timeline = _Timeline(trace, Packets(file))
        for rows in instructions(trace):
            timeline.depths(rows)
        timeline.follow()


class _Timeline:
    """Tracks, and who gets what; an `Audience`."""

    def __init__(self, trace: Trace, packets: Packets) -> None:
        self._trace, self._packets = trace, packets
        self._code = Code(trace)
        self._flows: Flows = flows(events(trace))
        self._end = trace.meta.time + 1
        cpus = packets.process(CPUS, 0)
        self._threads_group = packets.process(THREADS, 1)
        self._policy = packets.process(POLICY, 2)
        self._cpus = [packets.track(f"CPU {cpu}", cpus, cpu * A_GROUP) for cpu in range(trace.meta.cpus)]
        self._tracks: dict[tuple[str, int], int] = {
            ("fills", cpu): packets.counter(f"CPU {cpu} TLB fills", cpus, cpu * A_GROUP + 1, "fills")
            for cpu in range(trace.meta.cpus)
        }
        self._cpus_group = cpus
        self._unhandled = unhandled(events(trace))
        self._shown = [-1 - cpu for cpu in range(trace.meta.cpus)]  # by CPU: the thread of its track, as in `Calls`
        self._slices = [0] * trace.meta.cpus  # that are open there
        self._place = 0  # of the present event
        self._switched = -1  # of the last one whose arrows a thread's slice has, and not its hook's
        stacks = areas(events(trace), self._end)
        for thread in sorted({area.thread for area in stacks}):
            self._thread(thread)
        self._depths, self._counts = Depths(stacks), Counters()

    # --- tracks

    def _thread(self, thread: int, what: str = "calls") -> int:
        """The track of a thread for this; all of a thread's are made together."""
        if (what, thread) not in self._tracks:
            order, group = thread * A_GROUP, self._threads_group
            name, packets = f"thread {thread}", self._packets
            self._tracks["calls", thread] = packets.track(name, group, order)
            self._tracks["runs", thread] = packets.track(f"{name} on CPU", group, order + 1)
            self._tracks["depth", thread] = packets.counter(f"{name} stack depth", group, order + 2, "bytes")
            self._tracks["pages", thread] = packets.counter(f"{name} pages", group, order + 3, "pages")
        return self._tracks[what, thread]

    def _counter(self, what: str, whose: int) -> int:
        if what == "pages":
            return self._thread(whose, what)
        if (what, whose) not in self._tracks:
            name, group = ("frames in use", self._policy) if what == "used" else (f"CPU {whose} pool", self._cpus_group)
            self._tracks[what, whose] = self._packets.counter(name, group, whose * A_GROUP + 2, "frames")
        return self._tracks[what, whose]

    # --- the whole

    def depths(self, rows: Instructions) -> None:
        """The stack depths of these instructions."""
        for time, thread, depth in self._depths.samples(rows):
            self._packets.count(time, self._thread(thread, "depth"), depth)

    def follow(self) -> None:
        """Everything else."""
        times = [event.count for event in events(self._trace) if event.kind in DELIVERED]
        calls = Calls(self._trace.meta.cpus, self._code, self._unhandled, self)
        deliveries = np.array(times, dtype=np.uint64)
        for time, what in by_time(self._told(), self._marks(calls, deliveries)):
            if isinstance(what, _Told):
                self._place = what.place
                calls.event(*what)
                self._event(*what)
            else:
                calls.instruction(time, *what)
        calls.finish(self._end)
        for cpu in range(self._trace.meta.cpus):
            self._stop(self._end, cpu)

    def _told(self) -> Iterator[tuple[int, _Told]]:
        for place, event in enumerate(events(self._trace)):
            yield event.count, _Told(place, event)

    def _marks(self, calls: Calls, deliveries: NDArray[np.uint64]) -> Iterator[tuple[int, _Executed]]:
        for rows in instructions(self._trace):
            at = calls.of_interest(rows, deliveries)
            columns = (rows.count[at], rows.cpu[at], rows.rip[at], rows.ring[at], rows.rsp[at])
            for time, *row in zip(*(column.tolist() for column in columns), strict=True):
                yield time, _Executed(*row)

    def _event(self, place: int, event: TraceEvent) -> None:
        for what, whose, value in self._counts.told(event):
            self._packets.count(event.count, self._counter(what, whose), value)
        if event.kind in _UNSEEN or (event.kind in DELIVERED and place not in self._unhandled):
            return
        shown = NAMES.get(event.kind, "{name}").format(name=event.name, value=event.value)
        self._packets.instant(
            event.count, self._cpus[event.cpu], shown, event.kind, _arguments(event), self._arrows(place)
        )

    def _arrows(self, place: int | None) -> FlowIds:
        if place is None:
            return NO_FLOWS
        return FlowIds(self._flows.passing.get(place, ()), self._flows.ending.get(place, ()))

    # --- Audience

    def switched(self, time: int, cpu: int, thread: int, calls: list[Call]) -> None:
        """A CPU's track shows its new thread, and what that is in the middle of."""
        self._stop(time, cpu)
        self._shown[cpu] = thread or -1 - cpu
        if thread:
            arrows, self._switched = self._arrows(self._place), self._place
            self._show(time, cpu, f"thread {thread}", "thread", {"thread": thread}, arrows)
            self._packets.begin(time, self._thread(thread, "runs"), f"CPU {cpu}", "thread", {"cpu": cpu})
        for call in calls:
            self._show(time, cpu, call.name, call.kind, {**_arguments_of(call), "continued": 1})

    def _show(
        self, time: int, cpu: int, name: str, category: str, more: Annotations, arrows: FlowIds = NO_FLOWS
    ) -> None:
        self._packets.begin(time, self._cpus[cpu], name, category, more, arrows)
        self._slices[cpu] += 1

    def _stop(self, time: int, cpu: int) -> None:
        """A CPU's track ends all that it shows."""
        for _ in range(self._slices[cpu]):
            self._packets.end(time, self._cpus[cpu])
        if self._shown[cpu] > 0:
            self._packets.end(time, self._thread(self._shown[cpu], "runs"))
        self._slices[cpu], self._shown[cpu] = 0, -1 - cpu

    def begun(self, time: int, cpu: int, thread: int, call: Call) -> None:
        """A slice on the CPU's track, with the arrows, and one on the thread's."""
        more = _arguments_of(call)
        arrows = NO_FLOWS if call.place == self._switched else self._arrows(call.place)
        self._show(time, cpu, call.name, call.kind, more, arrows)
        if thread > 0:
            self._packets.begin(time, self._thread(thread), call.name, call.kind, more)

    def ended(self, time: int, thread: int, calls: list[Call]) -> None:
        """Slices end."""
        for cpu in range(len(self._cpus)):
            if self._shown[cpu] == thread:
                for _ in calls:
                    self._packets.end(time, self._cpus[cpu])
                self._slices[cpu] -= len(calls)
        for _ in calls if thread > 0 else ():
            self._packets.end(time, self._thread(thread))


def _arguments_of(call: Call) -> Annotations:
    return {} if call.event is None else _arguments(call.event)


def _arguments(event: TraceEvent) -> Annotations:
    """What is known of an event, by names to show."""
    value = {"fault": "error", "tlb-stale": "now frame", "grow": "pte", "shrink": "pte", "thread": "bytes"}
    return {
        "cpu": event.cpu,
        "thread": event.thread,
        "address": event.address,
        "frame": event.frame,
        value.get(event.kind, "value"): event.value,
        "text": event.text,
    }
