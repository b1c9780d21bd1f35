"""Lets faults happen at their moments: in the middle of slices, at policies' steps, IPIs and invalidations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from vm.errors import ConfigError
from vm.fault.actions import DEEDS, GARBAGE, act
from vm.fault.records import At, Fault, Flush, Moment, Send, Step, Where
from vm.hw.cpu import CpuState, Slice, SliceEnd
from vm.hw.decode import decode
from vm.hw.engine import Gpr
from vm.hw.events import Event, Outcome
from vm.machine import FOR_EVER, Ipi
from vm.session import Session
from vm.stacks import steps
from vm.stacks.call import HookCall, Interposed
from vm.stacks.execute import WAITING

MOST_BEGUN: Final = 63  # executions on one CPU of which handlers have not come back


class InjectedError(Exception):
    """What a policy's code fails with where a fault lets it fail."""


class _Armed:
    """A fault that has not happened yet: how often what it waits for has come already."""

    def __init__(self, fault: Fault, number: int) -> None:
        self.fault = fault
        self.number = number
        self.nth: int = getattr(fault.when, "nth", 1)
        self.seen = 0
        self.place = 0


class Injector:
    """Faults of one session; they happen while it runs.

    Args:
        session: that has not run yet, and whose machine the injector runs from now on.
        faults: in the order in which they were declared.

    Attributes:
        fired: for each fault, the virtual time at which it happened; None as long as it has not, and where there was
            nothing that it could do anything to.

    Raises:
        ConfigError: a fault makes no sense on this machine, or names a symbol that is not there.
    """

    def __init__(self, session: Session, faults: Iterable[Fault]) -> None:
        self._session, self._machine = session, session.machine
        armed = [_Armed(fault.checked(self._machine.cpu_count), number) for number, fault in enumerate(faults)]
        self.fired: list[int | None] = [None] * len(armed)
        self._by_time = sorted((one for one in armed if isinstance(one.fault.when, Moment)), key=_time)
        self._at = [one for one in armed if isinstance(one.fault.when, At | Where)]
        self._steps = [one for one in armed if isinstance(one.fault.when, Step)]
        self._sends = [one for one in armed if isinstance(one.fault.when, Send)]
        self._flushes = [one for one in armed if isinstance(one.fault.when, Flush)]
        for one in self._at:
            if isinstance(one.fault.when, At):
                one.place = self._resolved(one.fault.when.place)
        self._later: list[tuple[int, Ipi]] = []  # arrive at a virtual time
        self._behind: list[Ipi] = []  # arrive behind the next IPI
        self._tried: dict[
            tuple[int, int], tuple[HookCall, int]
        ] = {}  # by CPU and depth: a hook, and its answers so far
        self._hit: dict[tuple[int, int], list[_Armed]] = {}  # what that step has triggered
        self._begun: dict[int, list[tuple[int, int]]] = {}  # by CPU: RIP and RSP of what has begun and not retired
        self._delivered = False
        session.injector = self
        if self._steps:
            session.runtime.interpose = self._step
        if self._sends:
            self._machine.on_send = self._send
        for cpu in self._machine.cpus:
            cpu.observers.append(self)
            if self._flushes:
                cpu.mmu.on_invlpg = self._flush_of(cpu.index)

    def _resolved(self, place: str) -> int:
        name, _, offset = place.partition("+")
        try:
            base = int(name, 16) if name.startswith("0x") else self._session.symbols.address(name)
            more = int(offset, 0) if offset else 0
            if base is not None and not 0 <= base + more < 1 << 64:
                raise ValueError
        except ValueError:
            raise ConfigError(f"place {place!r}: give symbol, symbol+offset or 0x...") from None
        if base is None:
            raise ConfigError(f"place {place!r}: the image has no symbol {name!r}")
        return base + more

    # --- running

    def advance(self, cpu: int, units: int) -> Slice:
        """As `Machine.run`, and what is to happen happens."""
        done = 0
        while True:
            self._arrive()
            self._moments(cpu)
            if self._at:
                self._before(cpu)
            if cpu in self._machine.stalls and self._machine.stalls[cpu] > self._machine.time:
                return Slice(SliceEnd.HALTED, done)
            place = self._machine.cpus[cpu].registers.rip
            self._delivered = False
            piece = self._machine.run(cpu, min(units - done, self._until()))
            done += piece.elapsed
            if self._at:
                self._after(cpu, place, piece)
            if piece.end is not SliceEnd.BUDGET or done >= units:
                return Slice(piece.end, done)

    @property
    def pending(self) -> bool:
        """Whether something will still happen by itself: a moment, an IPI or an acknowledgement that is late."""
        waits = any(
            one.fault.what == "delay-ack" and len(self._tried[place][0].answers) == self._tried[place][1]
            for place, hit in self._hit.items()
            for one in hit
        )
        return bool(self._by_time or self._later) or waits

    @property
    def due(self) -> int | None:
        """Virtual time at which something happens next, whoever runs then: a moment, or an IPI that is late."""
        times = [_time(self._by_time[0])] if self._by_time else []
        return min(times + [when for when, _ in self._later], default=None)

    def come(self) -> None:
        """Time has jumped, perhaps to there; every CPU sleeps, and CPU 0 is hit where a fault names none."""
        self._arrive()
        self._moments(0)

    def _until(self) -> int:
        """Units until something may happen; 1 where each instruction is looked at."""
        if self._at:
            return 1
        due = self.due
        return FOR_EVER if due is None else max(1, due - self._machine.time)

    def _moments(self, cpu: int) -> None:
        while self._by_time and _time(self._by_time[0]) <= self._machine.time:
            self._fire(self._by_time.pop(0), cpu)

    def _fire(self, one: _Armed, cpu: int) -> None:
        fault, now = one.fault, self._machine.now()
        if fault.what not in DEEDS or act(self._session, fault, cpu if fault.cpu is None else fault.cpu):
            self.fired[one.number] = now

    # --- instructions

    def _before(self, cpu: int) -> None:
        """An instruction is about to begin, or to be tried again."""
        processor = self._machine.cpus[cpu]
        if processor.state is not CpuState.RUNNING:
            return
        place = processor.registers.rip, processor.registers.gpr[Gpr.RSP]
        # A handler that has run in between had another stack pointer; with the same one nobody comes back to the others.
        begun = [one for one in self._begun.get(cpu, ()) if one == place or one[1] != place[1]]
        again = place in begun
        for one in list(self._at):
            when = one.fault.when
            assert isinstance(when, At | Where)
            if when.cpu not in (None, cpu):
                continue
            if isinstance(when, Where):
                if processor.registers.gpr[Gpr[when.register.upper()]] == when.value:
                    self._at.remove(one)
                    self._fire(one, cpu)
            elif one.place == processor.registers.rip and not again:
                one.seen += 1
                if one.seen == one.nth and not when.after:
                    self._at.remove(one)
                    self._fire(one, cpu)
        place = processor.registers.rip, processor.registers.gpr[Gpr.RSP]  # a fault may have moved them
        self._begun[cpu] = begun if place in begun else [*begun[-MOST_BEGUN:], place]

    def _after(self, cpu: int, place: int, piece: Slice) -> None:
        """One unit has been spent at `place`: an instruction has retired, or an event was delivered, or it goes on."""
        processor = self._machine.cpus[cpu]
        if self._delivered or not piece.elapsed or (piece.end is SliceEnd.YIELDED and processor.registers.rip == place):
            return  # it has not retired
        if processor.registers.rip == place and self._repeats(cpu, place):
            return
        begun = self._begun.get(cpu, [])
        own = next((one for one in reversed(begun) if one[0] == place), None)  # it may have changed RSP
        if own is not None:
            begun.remove(own)
        for one in list(self._at):
            when = one.fault.when
            here = isinstance(when, At) and when.after and one.place == place and when.cpu in (None, cpu)
            if here and one.seen >= one.nth:
                self._at.remove(one)
                self._fire(one, cpu)

    def _repeats(self, cpu: int, place: int) -> bool:
        processor = self._machine.cpus[cpu]
        instruction = decode(processor.linear.code(place), processor.registers.bits)
        return instruction is not None and instruction.repeat

    def delivered(self, cpu: int, events: list[Event], outcome: Outcome) -> None:
        """CpuObserver: what was about to be executed was not."""
        self._delivered = True

    # --- IPIs

    def _send(self, ipi: Ipi) -> list[Ipi]:
        arrive, held = [ipi], self._behind
        self._behind = []
        for one in list(self._sends):
            when = one.fault.when
            assert isinstance(when, Send)
            if when.vector not in (None, ipi.vector) or when.cpu not in (None, ipi.source):
                continue
            one.seen += 1
            if one.seen == one.nth:
                self._sends.remove(one)
                self.fired[one.number] = self._machine.now()
                arrive = self._instead(one.fault, ipi)
        return arrive + held

    def _instead(self, fault: Fault, ipi: Ipi) -> list[Ipi]:
        if fault.what == "duplicate-ipi":
            return [ipi, ipi]
        if fault.what == "delay-ipi":
            self._later.append((self._machine.now() + (fault.units or 0), ipi))
        elif fault.what == "reorder-ipi":
            self._behind.append(ipi)
        return []

    def _arrive(self) -> None:
        for when, ipi in [one for one in self._later if one[0] <= self._machine.time]:
            self._later.remove((when, ipi))
            self._machine.arrive(ipi)

    # --- invalidations

    def _flush_of(self, cpu: int) -> Callable[[int], bool]:
        def flush(address: int) -> bool:
            carried_out = True
            for one in list(self._flushes):
                when = one.fault.when
                assert isinstance(when, Flush)
                if when.cpu in (None, cpu):
                    one.seen += 1
                    if one.seen == one.nth:
                        self._flushes.remove(one)
                        self.fired[one.number] = self._machine.now()
                        carried_out = False
            return carried_out

        return flush

    # --- policies' steps

    def _step(self, cpu: int, call: HookCall) -> Interposed | None:
        """A step is about to be carried out, or to be tried again."""
        place, this = (cpu, len(self._session.runtime.calls[cpu])), (call, len(call.answers))
        before = self._tried.get(place)
        if before is None or before[0] is not call or before[1] != this[1]:
            self._tried[place], self._hit[place] = this, self._triggered(cpu, call)
        for one in self._hit[place]:
            other = self._at_step(one, call)
            if other is not None:
                return other
        return None

    def _triggered(self, cpu: int, call: HookCall) -> list[_Armed]:
        found = []
        for one in list(self._steps):
            when = one.fault.when
            assert isinstance(when, Step)
            if when.cpu in (None, cpu) and when.name in ("", type(call.step).__name__):
                one.seen += 1
                if one.seen == one.nth:
                    self._steps.remove(one)
                    self.fired[one.number] = self._machine.now()
                    found.append(one)
        return found

    def _at_step(self, one: _Armed, call: HookCall) -> Interposed | None:
        fault, fired = one.fault, self.fired[one.number] or 0
        if fault.what == "raise":
            return Interposed(error=InjectedError("injected"))
        if fault.what in ("fail-alloc", "early-ack"):
            return Interposed(instead=True, answer=None)
        if fault.what in ("lose-ack", "endless-step"):
            return Interposed(instead=True, answer=WAITING)
        if fault.what == "delay-ack":
            return (
                Interposed(instead=True, answer=WAITING) if self._machine.now() < fired + (fault.units or 0) else None
            )
        if fault.what == "corrupt-page":
            return Interposed(behind=self._corrupt)
        if isinstance(call.step, steps.PostFlush) and call.step.pages > 1:  # narrow-flush
            call.step = replace(call.step, pages=call.step.pages - 1)
        return None

    def _corrupt(self, frame: int | None) -> None:
        if frame is not None:
            self._machine.memory.write(frame, GARBAGE)


def _time(one: _Armed) -> int:
    assert isinstance(one.fault.when, Moment)
    return one.fault.when.time
