"""Waveforms: a value change dump (IEEE 1364-2001, 18), for GTKWave, Surfer or Sigrok.

    cpuN.rip, ring, thread   of the instruction at this time; thread 0 is none, or an idle one
    cpuN.halted              from a HLT to what wakes it
    threadN.pages            mapped pages of its stack
    finding                  1 for one unit of virtual time

One unit of virtual time is a nanosecond; times are those of the trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from kstack.trace.events import TraceEvent
from kstack.trace.export.counters import Counters, areas
from kstack.trace.export.read import DELIVERED, Code, events, instructions
from kstack.trace.export.running import Running
from kstack.trace.store import Trace

WIDTHS: Final = {"rip": 64, "ring": 2, "thread": 32, "halted": 1}
PAGES_BITS: Final = 16
FIRST: Final = 33  # of the characters that identifiers are made of
LETTERS: Final = 94
Change = tuple[int, str, str, int]  # virtual time, scope, signal, value


def write(trace: Trace, path: Path) -> None:
    """Write all changes."""
    stacks = areas(events(trace), trace.meta.time)
    signals = {(f"cpu{cpu}", name): width for cpu in range(trace.meta.cpus) for name, width in WIDTHS.items()}
    signals |= {(f"thread{thread}", "pages"): PAGES_BITS for thread in sorted({one.thread for one in stacks})}
    signals["kstack", "finding"] = 1
    names = dict(zip(signals, (_identifier(number) for number in count()), strict=False))
    begun = trace.meta.begun
    with path.open("w", encoding="ascii") as file:
        file.write(_header(trace, signals, names))
        now = begun
        last = dict.fromkeys(signals, 0)
        changes = heapq.merge(_of_instructions(trace), _of_events(trace), key=lambda change: change[0])
        for time, scope, signal, value in changes:
            key = scope, signal
            if key not in signals or last[key] == value:
                continue
            last[key] = value
            if time != now:
                file.write(f"#{time}\n")
                now = time
            file.write(_change(value, signals[key], names[key]))
        file.write(f"#{max(now, trace.meta.time) + 1}\n")


def _header(trace: Trace, signals: dict[tuple[str, str], int], names: dict[tuple[str, str], str]) -> str:
    image = "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in trace.meta.image)
    lines = [f"$comment kstack trace of {image.replace('$', '_')} $end", "$timescale 1 ns $end"]
    scope = ""
    for (whose, name), width in signals.items():
        if whose != scope:
            lines += ["$upscope $end"] * bool(scope) + [f"$scope module {whose} $end"]
            scope = whose
        lines.append(f"$var wire {width} {names[whose, name]} {name} $end")
    lines += ["$upscope $end", "$enddefinitions $end", f"#{trace.meta.begun}", "$dumpvars"]
    return "\n".join(lines) + "\n" + "".join(_change(0, signals[key], names[key]) for key in signals) + "$end\n"


def _identifier(number: int) -> str:
    found = chr(FIRST + number % LETTERS)
    return found if number < LETTERS else _identifier(number // LETTERS - 1) + found


def _change(value: int, width: int, name: str) -> str:
    return f"{value}{name}\n" if width == 1 else f"b{value:b} {name}\n"


def _of_instructions(trace: Trace) -> Iterator[Change]:
    halts = Code(trace).having("hlt")
    for rows in instructions(trace):
        halted = np.isin(rows.rip, halts).tolist()
        columns = (rows.count.tolist(), rows.cpu.tolist(), rows.rip.tolist(), rows.ring.tolist())
        waiting: Iterator[Change] = iter(())
        for (time, cpu, rip, ring), halt in zip(zip(*columns, strict=True), halted, strict=True):
            scope = f"cpu{cpu}"
            yield from waiting
            yield from ((time, scope, "halted", 0), (time, scope, "rip", rip), (time, scope, "ring", ring))
            waiting = iter([(time + 1, scope, "halted", 1)] if halt else ())
        yield from waiting


def _of_events(trace: Trace) -> Iterator[Change]:
    running, counts = Running(trace.meta.cpus), Counters()
    found = -1  # when the last finding was
    for event in events(trace):
        if 0 <= found < event.count:
            yield found + 1, "kstack", "finding", 0
            found = -1
        for cpu, thread in running.told(event):
            yield event.count, f"cpu{cpu}", "thread", thread
        yield from _of_event(event, counts)
        if event.kind == "finding":
            found = event.count
            yield event.count, "kstack", "finding", 1
    if found >= 0:
        yield found + 1, "kstack", "finding", 0


def _of_event(event: TraceEvent, counts: Counters) -> Iterator[Change]:
    for what, whose, value in counts.told(event):
        if what == "pages":
            yield event.count, f"thread{whose}", "pages", value
    if event.kind in DELIVERED:
        yield event.count, f"cpu{event.cpu}", "halted", 0
