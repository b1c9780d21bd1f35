"""Follows a session: its engines' records, what they leave to Python, and events; all by virtual time, in parts.

Nothing is different in a machine that is traced: the same states, the same virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kstack.hw.cpu.decode import Instruction
from kstack.hw.cpu.hooks import Before
from kstack.hw.engine import Stop
from kstack.run.session import Session
from kstack.trace.code import Codes, Row, Translated
from kstack.trace.columns import (
    ACCESSES,
    INSTRUCTIONS,
    REGISTERS,
    Columns,
    Pages,
    Ran,
    assemble,
    sorted_together,
    threads,
)
from kstack.trace.events import Events, TraceEvent
from kstack.trace.wakeups import Wakes

PART_RECORDS: Final = 1 << 17  # instructions or accesses of one engine, after which a part is handed on
_U64: Final = (1 << 64) - 1


class TracePart:
    """Some of a trace, of all CPUs, by virtual time; parts follow each other.

    Attributes:
        instructions, accesses, registers: columns INSTRUCTIONS, ACCESSES and REGISTERS.
        events: in order.
        code: bytes of instructions that are executed for the first time, or are not what was executed there before.
    """

    def __init__(
        self,
        instructions: Columns,
        accesses: Columns,
        registers: Columns,
        events: list[TraceEvent],
        code: list[Row],
    ) -> None:
        self.instructions = instructions
        self.accesses = accesses
        self.registers = registers
        self.events = events
        self.code = code


class _Cpu:
    """What is kept of one CPU until the next part."""

    def __init__(self, session: Session, index: int, registers: bool) -> None:
        self.cpu = session.machine.cpus[index]
        self.recorder = self.cpu.engine.record(registers, self._translation)
        self.pages = Pages()
        self.translated = Translated()
        self._memory = session.machine.memory
        self.runs: list[Ran] = []
        self.emulated: list[tuple[int, Before]] = []  # with the virtual time
        self.accesses: list[tuple[int, bool, int, int, int, int]] = []  # time, store, bytes, address, physical, value
        self.switches: list[tuple[int, int]] = []

    def _translation(self, linear: int, size: int) -> None:
        """The engine is about to execute a block for the first time: its code may lie in two pages."""
        while size:
            within = min(size, 0x1000 - (linear & 0xFFF))
            physical = self.pages.physical_now(linear)
            if physical is not None:
                self.translated.add(self.recorder.instructions, physical, self._memory.read(physical, within))
            linear, size = linear + within & _U64, size - within

    def entered(self, page: int, physical: int) -> None:
        """The engine gets a page: a frame that it had for another page comes back first when that is used again."""
        frame = physical >> 12
        old = self.pages.page_of.get(frame)
        if old is not None and old != page:
            self.cpu.engine.flush_page(old)
        self.pages.entered(frame, (self.recorder.accesses, self.recorder.instructions), page)


class Tracer:
    """Follows a session from now on.

    Args:
        session: that has not run yet.
        sink: takes each part.
        registers: record them where blocks of code begin, too.
    """

    def __init__(self, session: Session, sink: Callable[[TracePart], None], registers: bool = False) -> None:
        self._machine = session.machine
        self._sink = sink
        self._cpus = [_Cpu(session, index, registers) for index in range(session.machine.cpu_count)]
        self._codes = Codes()
        wakes_at = session.kernel.facts.wakes_at
        store = session.symbols.address(wakes_at) if wakes_at else None
        self._wakes = Wakes(store, session.machine.memory.read)
        self.events = Events(session, self._switched)
        session.machine.instruments.add(self)
        for one in self._cpus:
            one.cpu.engine.flush()  # so that each page comes back, and is known

    # --- what CPUs tell

    def on_run(self, cpu: int, time: int, stop: Stop) -> None:
        """The engine's records of one run are complete."""
        one = self._cpus[cpu]
        recorder = one.recorder
        one.runs.append(Ran(time, stop.instructions, recorder.instructions))
        if recorder.instructions >= PART_RECORDS or recorder.accesses >= PART_RECORDS:
            self.hand_on()

    def on_emulation(self, cpu: int, time: int, instruction: Instruction, before: Before) -> None:
        """Python has carried out an instruction."""
        self._cpus[cpu].emulated.append((time, before))
        self.events.carried_out(cpu, time, instruction)

    def on_enter(self, cpu: int, page: int, physical: int) -> None:
        """An engine gets a page."""
        self._cpus[cpu].entered(page, physical)

    def on_access(self, cpu: int, address: int, physical: int, size: int, value: int, store: bool) -> None:
        """A CPU reaches memory by itself."""
        accesses, time = self._cpus[cpu].accesses, self._machine.now()
        accesses.append((time, store, min(size, 8), address, physical, value & _U64))
        if size > 8:
            accesses.append((time, store, size - 8, address + 8 & _U64, physical + 8, value >> 64 & _U64))

    def _switched(self, cpu: int, time: int, thread: int) -> None:
        self._cpus[cpu].switches.append((time, thread))

    # --- parts

    def hand_on(self) -> None:
        """Hand on what has been gathered; no engine is running."""
        instructions: list[Columns] = []
        accesses: list[Columns] = []
        registers = [Columns(REGISTERS, tuple(np.array([], dtype=np.uint64) for _ in REGISTERS))]
        for index, one in enumerate(self._cpus):
            if one.runs:
                own, made, left, kept, widths = assemble(one.recorder.read(), one.runs, index, one.pages, one.switches)
                instructions.append(own)
                accesses.append(made)
                registers.append(left)
                self._codes.executed(own, kept, widths, one.pages, one.translated)
            instructions.append(_emulated(one, index))
            accesses.append(_model(one, index))
            for time, before in one.emulated:
                self._codes.emulated(time, before.rip, before.code, before.bits)
        new = self._codes.take()
        for one in self._cpus:
            self._next(one)
        together = [sorted_together(rows) for rows in (instructions, accesses, registers)]
        for wake in self._wakes.of(together[0], together[1], new):
            self.events.woken(*wake)
        self._sink(TracePart(together[0], together[1], together[2], self.events.take(), new))

    def _next(self, one: _Cpu) -> None:
        one.recorder.clear()
        one.pages.next_buffer()
        one.runs.clear()
        one.emulated.clear()
        one.accesses.clear()
        one.switches = one.switches[-1:]


def _emulated(one: _Cpu, index: int) -> Columns:
    counts = np.array([time for time, _ in one.emulated], dtype=np.uint64)
    before = [before for _, before in one.emulated]
    arrays: tuple[NDArray[np.generic], ...] = (
        counts,
        np.full(len(counts), index, np.uint8),
        np.array([one.rip for one in before], dtype=np.uint64),
        np.array([len(one.code) for one in before], dtype=np.uint8),
        np.array([one.ring for one in before], dtype=np.uint8),
        np.array([one.rsp for one in before], dtype=np.uint64),
        threads(counts, one.switches),
    )
    return Columns(INSTRUCTIONS, arrays)


def _model(one: _Cpu, index: int) -> Columns:
    times, stores, sizes, addresses, physical, values = zip(*one.accesses, strict=True) if one.accesses else ((),) * 6
    arrays: tuple[NDArray[np.generic], ...] = (
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
