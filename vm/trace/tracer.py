"""Follows a session: its engines' records, what they leave to Python, and events; all by virtual time, in parts.

Nothing is different in a machine that is traced: the same states, the same virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from vm.hw.decode import Instruction
from vm.hw.engine import Seg, Stop
from vm.session import Session
from vm.trace.columns import ACCESSES, INSTRUCTIONS, Columns, Pages, Ran, assemble, sorted_together, threads
from vm.trace.events import Event, Events

PART_RECORDS: Final = 1 << 18  # of one engine, after which a part is handed on
_U64: Final = (1 << 64) - 1


class Part:
    """Some of a trace, of all CPUs, by virtual time; parts follow each other.

    Attributes:
        instructions, accesses: columns INSTRUCTIONS and ACCESSES.
        events: in order.
        code: bytes of instructions seen for the first time, or changed since: count, RIP, bytes.
    """

    def __init__(
        self, instructions: Columns, accesses: Columns, events: list[Event], code: list[tuple[int, int, bytes]]
    ) -> None:
        self.instructions = instructions
        self.accesses = accesses
        self.events = events
        self.code = code


class _Cpu:
    """What is kept of one CPU until the next part."""

    def __init__(self, session: Session, index: int) -> None:
        self.cpu = session.machine.cpus[index]
        self.recorder = self.cpu.engine.record()
        self.pages = Pages()
        self.runs: list[Ran] = []
        self.emulated: list[tuple[int, int, int, int, int]] = []  # time, RIP, bytes, ring, RSP
        self.accesses: list[tuple[int, bool, int, int, int, int]] = []  # time, store, bytes, address, physical, value
        self.switches: list[tuple[int, int]] = []

    def entered(self, page: int, physical: int) -> None:
        """The engine gets a page: a frame that it had for another page comes back first when that is used again."""
        frame = physical >> 12
        old = self.pages.now.get(frame)
        if old != page:
            if old is not None and abs(old - page) > 0x1000:  # not while one access straddles both
                self.cpu.engine.flush_page(old)
            self.pages.entered(frame, self.recorder.written, page)


class Tracer:
    """Follows a session from now on.

    Args:
        session: that has not run yet.
        sink: takes each part.
    """

    def __init__(self, session: Session, sink: Callable[[Part], None]) -> None:
        self._machine = session.machine
        self._sink = sink
        self._cpus = [_Cpu(session, index) for index in range(session.machine.cpu_count)]
        self._known: dict[int, bytes] = {}
        self.events = Events(session, self._switched)
        for one in self._cpus:
            one.cpu.instructions = self
            one.cpu.mmu.on_enter = one.entered
            one.cpu.linear.on_access = self._accessed(one)
            one.cpu.engine.flush()  # so that each page comes back, and is known

    # --- what CPUs tell

    def ran(self, cpu: int, time: int, stop: Stop) -> None:
        """InstructionObserver: the engine's records of one run are complete."""
        one = self._cpus[cpu]
        one.runs.append(Ran(time, stop.instructions, one.recorder.written))
        if one.recorder.written >= PART_RECORDS:
            self.hand_on()

    def emulated(self, cpu: int, time: int, rip: int, rsp: int, instruction: Instruction) -> None:
        """InstructionObserver: Python has carried out an instruction."""
        one = self._cpus[cpu]
        ring = one.cpu.registers.segment(Seg.CS).selector & 3
        one.emulated.append((time, rip, instruction.length, ring, rsp))
        self.events.carried_out(cpu, time, instruction)

    def _accessed(self, one: _Cpu) -> Callable[[int, int, int, int, bool], None]:
        def accessed(address: int, physical: int, size: int, value: int, store: bool) -> None:
            low = value & _U64
            one.accesses.append((self._machine.now(), store, min(size, 8), address, physical, low))
            if size > 8:
                one.accesses.append(
                    (self._machine.now(), store, size - 8, address + 8 & _U64, physical + 8, value >> 64 & _U64)
                )

        return accessed

    def _switched(self, cpu: int, time: int, thread: int) -> None:
        self._cpus[cpu].switches.append((time, thread))

    # --- parts

    def hand_on(self) -> None:
        """Hand on what has been gathered; no engine is running."""
        instructions: list[Columns] = []
        accesses: list[Columns] = []
        for index, one in enumerate(self._cpus):
            found = assemble(one.recorder.read(), one.runs, index, one.pages, one.switches) if one.runs else ()
            instructions += [*found[:1], _emulated(one, index)]
            accesses += [*found[1:], _model(one, index)]
            self._next(one)
        part = sorted_together(instructions)
        self._sink(Part(part, sorted_together(accesses), self.events.take(), self._new_code(part)))

    def _next(self, one: _Cpu) -> None:
        one.recorder.clear()
        one.pages.next_buffer()
        one.runs.clear()
        one.emulated.clear()
        one.accesses.clear()
        one.switches = one.switches[-1:]

    def _new_code(self, part: Columns) -> list[tuple[int, int, bytes]]:
        """Bytes of instructions as they are now, where they are not known to be so."""
        columns = dict(zip(part.names, part.arrays, strict=True))
        rips, first = np.unique(columns["rip"], return_index=True)
        new = []
        for rip, at in zip(rips.tolist(), first.tolist(), strict=True):
            cpu = self._cpus[int(columns["cpu"][at])].cpu
            code = cpu.linear.code(rip, int(columns["size"][at]))
            if code and self._known.get(rip) != code:
                self._known[rip] = code
                new.append((int(columns["count"][at]), rip, code))
        return sorted(new)


def _emulated(one: _Cpu, index: int) -> Columns:
    times, rips, sizes, rings, rsps = zip(*one.emulated, strict=True) if one.emulated else ((),) * 5
    counts = np.array(times, dtype=np.uint64)
    arrays: tuple[Any, ...] = (
        counts,
        np.full(len(times), index, np.uint8),
        np.array(rips, dtype=np.uint64),
        np.array(sizes, dtype=np.uint8),
        np.array(rings, dtype=np.uint8),
        np.array(rsps, dtype=np.uint64),
        threads(counts, one.switches),
    )
    return Columns(INSTRUCTIONS, arrays)


def _model(one: _Cpu, index: int) -> Columns:
    times, stores, sizes, addresses, physical, values = zip(*one.accesses, strict=True) if one.accesses else ((),) * 6
    arrays: tuple[Any, ...] = (
        np.array(times, dtype=np.uint64),
        np.full(len(times), index, np.uint8),
        np.array(stores, dtype=np.bool_),
        np.ones(len(times), np.bool_),
        np.array(sizes, dtype=np.uint8),
        np.array(addresses, dtype=np.uint64),
        np.array(physical, dtype=np.uint64),
        np.array(values, dtype=np.uint64),
    )
    return Columns(ACCESSES, arrays)
