"""Lets faults happen at their moments: in the middle of slices, at policies' steps, IPIs and invalidations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from kstack.fault import places
from kstack.fault.actions import GARBAGE, act
from kstack.fault.records import At, Fault, Flush, Moment, Send, Step, Where
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.decode import decode
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.cpu.state import ActivityState, Slice, SliceEnd
from kstack.machine import FOR_EVER, Ipi
from kstack.run.session import Session
from kstack.stacks import steps
from kstack.stacks.host.call import WAITING, HookCall, Interposed
from kstack.x86.registers import Gpr

MOST_BEGUN: Final = 63  # executions on one CPU of which handlers have not come back


class InjectedError(Exception):
    """What a policy's code fails with where a fault lets it fail."""


class _Armed:
    """A fault, and how it stands with it.

    Attributes:
        seen: how often what it waits for has come.
        place: linear address of its instruction.
        inside: where its place is inside an instruction that was executed: what to say of that.
        came: its moment has come.
    """

    def __init__(self, fault: Fault, number: int) -> None:
        self.fault = fault
        self.number = number
        self.nth: int = getattr(fault.when, "nth", 1)
        self.seen = 0
        self.place = 0
        self.inside: str | None = None
        self.came = False


class _ArmedState(NamedTuple):
    """How it stands with a fault, as `_Armed` has it."""

    seen: int
    inside: str | None
    came: bool


class _TriedState(NamedTuple):
    """A hook in flight whose step has been tried: answers that it had, and the fault that happens there, if one does."""

    answers: int
    hit: int | None


class _Saved(NamedTuple):
    """What `Injector.save` gives: faults by number, each with how it stands with it."""

    armed: tuple[_ArmedState, ...]
    fired: tuple[int | None, ...]
    waiting: tuple[tuple[int, ...], ...]
    later: tuple[tuple[int, Ipi], ...]
    behind: tuple[Ipi, ...]
    tried: dict[tuple[int, int], _TriedState]  # by CPU and depth
    begun: dict[int, tuple[tuple[int, int], ...]]
    delivered: bool


class Injector:
    """Faults of one session; they happen while it runs.

    Args:
        session: that has not run yet, and whose machine the injector runs from now on.
        faults: in the order in which they were declared.
        recorded: they are of a recording, in which a place may be of an instruction that is none: it was never reached.

    Attributes:
        fired: for each fault, the virtual time at which it happened; None as long as it has not, and where there was
            nothing that it could do anything to.

    Raises:
        ConfigError: a fault makes no sense on this machine, names a symbol that is not there, or a place at which no
            instruction begins.
    """

    def __init__(self, session: Session, faults: Iterable[Fault], recorded: bool = False) -> None:
        self._session, self._machine = session, session.machine
        armed = [_Armed(fault.checked(self._machine.cpu_count), number) for number, fault in enumerate(faults)]
        self._all = tuple(armed)
        self.fired: list[int | None] = [None] * len(armed)
        self._by_time = sorted((one for one in armed if isinstance(one.fault.when, Moment)), key=_time)
        self._at = [one for one in armed if isinstance(one.fault.when, At | Where)]
        self._steps = [one for one in armed if isinstance(one.fault.when, Step)]
        self._sends = [one for one in armed if isinstance(one.fault.when, Send)]
        self._flushes = [one for one in armed if isinstance(one.fault.when, Flush)]
        for one in self._at:
            if isinstance(one.fault.when, At):
                one.place = places.resolved(session.symbols, one.fault.when.place)
                if not recorded:
                    places.check(self._machine.cpus[0], session.symbols, one.fault.when.place, one.place)
        self._later: list[tuple[int, Ipi]] = []  # arrive at a virtual time
        self._behind: list[Ipi] = []  # arrive behind the next IPI
        self._tried: dict[
            tuple[int, int], tuple[HookCall, int]
        ] = {}  # by CPU and depth: a hook, and its answers so far
        self._hit: dict[tuple[int, int], _Armed | None] = {}  # what happens at that step
        self._begun: dict[int, list[tuple[int, int]]] = {}  # by CPU: RIP and RSP of what has begun and not retired
        self._delivered = False
        if self._steps:
            session.runtime.decides_step.hold(self._step)
        if self._sends:
            self._machine.decides_send.hold(self._send)
        self._machine.instruments.add(self)
        for cpu in self._machine.cpus:
            if self._flushes:
                cpu.mmu.decides_invlpg.hold(self._flush_of(cpu.index))
        session.injector = self

    # --- the whole

    def save(self) -> _Saved:
        """What decides what still happens, and what has been seen of it; nobody changes it."""
        lists = self._by_time, self._at, self._steps, self._sends, self._flushes
        calls = self._session.runtime.calls
        tried: dict[tuple[int, int], _TriedState] = {}
        for (cpu, depth), (call, answers) in self._tried.items():
            if len(calls[cpu]) >= depth and calls[cpu][depth - 1] is call:  # to one that has ended nobody comes back
                hit = self._hit[cpu, depth]
                tried[cpu, depth] = _TriedState(answers, None if hit is None else hit.number)
        return _Saved(
            tuple(_ArmedState(one.seen, one.inside, one.came) for one in self._all),
            tuple(self.fired),
            tuple(tuple(one.number for one in waiting) for waiting in lists),
            tuple(self._later),
            tuple(self._behind),
            tried,
            {cpu: tuple(begun) for cpu, begun in self._begun.items()},
            self._delivered,
        )

    def load(self, state: _Saved) -> None:
        """Become what `save` returned, of this session or of another one with the same faults, whose hooks are made again."""
        for one, (seen, inside, came) in zip(self._all, state.armed, strict=True):
            one.seen, one.inside, one.came = seen, inside, came
        self.fired = list(state.fired)
        waiting = ([self._all[number] for number in numbers] for numbers in state.waiting)
        self._by_time, self._at, self._steps, self._sends, self._flushes = waiting
        self._later, self._behind, self._delivered = list(state.later), list(state.behind), state.delivered
        calls = self._session.runtime.calls
        self._tried = {(cpu, n): (calls[cpu][n - 1], one.answers) for (cpu, n), one in state.tried.items()}
        self._hit = {place: None if one.hit is None else self._all[one.hit] for place, one in state.tried.items()}
        self._begun = {cpu: list(begun) for cpu, begun in state.begun.items()}

    # --- what has not happened

    def why(self, number: int) -> str:
        """Why a fault has not happened so far, in words; empty if it has.

        Args:
            number: of the fault, from 0.
        """
        one = self._all[number]
        if self.fired[number] is not None:
            return ""
        if one.came:
            return "there was nothing that it could do anything to"
        if one.inside is not None:
            return one.inside
        when = one.fault.when
        if isinstance(when, Moment):
            return f"the run was at {self._machine.now()}, and it waits for {when.time}"
        if isinstance(when, Where):
            return f"at no instruction {when.register} was {when.value:#x}"
        what = {At: "executions of its place", Step: "such steps", Send: "such IPIs", Flush: "INVLPGs"}[type(when)]
        return f"there were {one.seen} {what}, and it waits for number {one.nth}"

    def misplaced(self, number: int) -> str | None:
        """What to say of a fault whose place was never executed, and is inside an instruction that was; None if not so."""
        one = self._all[number]
        return one.inside if one.seen == 0 and not one.came else None

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
            place = self._machine.cpus[cpu].linear_rip()
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
            one is not None
            and one.fault.what == "delay-ack"
            and len(self._tried[place][0].answers) == self._tried[place][1]
            for place, one in self._hit.items()
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
        one.came = True
        if act(self._session, fault, cpu if fault.cpu is None else fault.cpu):
            self.fired[one.number] = now

    # --- instructions

    def _before(self, cpu: int) -> None:
        """An instruction is about to begin, or to be tried again; also where a fault lets the CPU go on elsewhere."""
        processor = self._machine.cpus[cpu]
        here = None
        while processor.state is ActivityState.RUNNING and here != processor.linear_rip():
            here = processor.linear_rip()
            self._begins(processor, here)

    def _begins(self, processor: Cpu, here: int) -> None:
        cpu, stack = processor.index, processor.registers.gpr[Gpr.RSP]
        # A handler that has run in between had another stack pointer; with the same one nobody comes back to the others.
        begun = [one for one in self._begun.get(cpu, ()) if one == (here, stack) or one[1] != stack]
        again = (here, stack) in begun
        for one in list(self._at):
            when = one.fault.when
            assert isinstance(when, At | Where)
            if when.cpu not in (None, cpu):
                continue
            if isinstance(when, Where):
                if processor.registers.gpr[Gpr[when.register.upper()]] == when.value:
                    self._at.remove(one)
                    self._fire(one, cpu)
            elif one.place == here and not again:
                one.seen += 1
                if one.seen == one.nth and not when.after:
                    self._at.remove(one)
                    self._fire(one, cpu)
            elif 0 < one.place - here < places.LONGEST and one.inside is None:
                one.inside = self._inside(processor, here, one)
        if processor.linear_rip() == here:
            stack = processor.registers.gpr[Gpr.RSP]  # a fault may have moved it
        self._begun[cpu] = begun if (here, stack) in begun else [*begun[-MOST_BEGUN:], (here, stack)]

    def _inside(self, processor: Cpu, here: int, one: _Armed) -> str | None:
        """What to say of a place, if it is inside the instruction that is to be executed."""
        bits = processor.registers.bits
        instruction = decode(processor.linear.code(here), bits)
        if instruction is None or one.place >= here + instruction.length:
            return None
        assert isinstance(one.fault.when, At)
        around = (here, instruction.length)
        return places.inside(processor, self._session.symbols, one.fault.when.place, around, bits)

    def _after(self, cpu: int, place: int, piece: Slice) -> None:
        """One unit has been spent at `place`: an instruction has retired, or an event was delivered, or it goes on."""
        processor = self._machine.cpus[cpu]
        stays = processor.linear_rip() == place
        if self._delivered or not piece.elapsed or (piece.end is SliceEnd.YIELDED and stays):
            return  # it has not retired
        if stays and self._repeats(cpu, place):
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

    def on_delivery(self, delivery: Delivery) -> None:
        """What was about to be executed was not."""
        self._delivered = True

    # --- IPIs

    def _send(self, ipi: Ipi) -> list[Ipi]:
        arrive, held = [ipi], self._behind
        self._behind = []
        for one in list(self._sends):
            when = one.fault.when
            assert isinstance(when, Send)
            if when.vector in (None, ipi.vector) and when.cpu in (None, ipi.source) and self._comes(one, self._sends):
                if arrive:  # else another fault has taken it
                    self.fired[one.number] = self._machine.now()
                arrive = self._instead(one.fault, arrive)
        return arrive + held

    @staticmethod
    def _comes(one: _Armed, waiting: list[_Armed]) -> bool:
        """What a fault waits for has come once more; whether it is the one."""
        one.seen += 1
        if one.seen != one.nth:
            return False
        one.came = True
        waiting.remove(one)
        return True

    def _instead(self, fault: Fault, arrive: list[Ipi]) -> list[Ipi]:
        if fault.what == "duplicate-ipi":
            return [one for one in arrive for _ in range(2)]
        if fault.what == "delay-ipi":
            self._later += [(self._machine.now() + (fault.units or 0), one) for one in arrive]
        elif fault.what == "reorder-ipi":
            self._behind += arrive
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
                if when.cpu in (None, cpu) and self._comes(one, self._flushes):
                    if carried_out:  # else another fault has dropped it
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
        one = self._hit[place]
        return None if one is None else self._at_step(one, call)

    def _triggered(self, cpu: int, call: HookCall) -> _Armed | None:
        """What happens at a step that has not been tried before: the first fault that waits for it and can."""
        found = None
        for one in list(self._steps):
            when = one.fault.when
            assert isinstance(when, Step)
            fits = when.cpu in (None, cpu) and when.name in ("", type(call.step).__name__)
            if fits and self._comes(one, self._steps) and found is None and self._can(one.fault, cpu, call):
                self.fired[one.number], found = self._machine.now(), one
        return found

    def _can(self, fault: Fault, cpu: int, call: HookCall) -> bool:
        """Whether there is something that the fault can do at a step."""
        step, pools = call.step, self._session.runtime.pools
        if fault.what == "narrow-flush":
            return isinstance(step, steps.PostFlush) and step.pages > 1
        if fault.what in ("fail-alloc", "corrupt-page") and pools is not None:
            more = bool(pools.shared or pools.reserve)
            if isinstance(step, steps.TakePage):
                return bool(pools.level(cpu)) or (step.fallback and more)
            return bool(pools.reserve)
        return True

    def _at_step(self, one: _Armed, call: HookCall) -> Interposed | None:
        fault, fired = one.fault, self.fired[one.number] or 0
        if fault.what == "raise":
            return Interposed(error=InjectedError("injected"))
        if fault.what in ("fail-alloc", "early-ack"):
            return Interposed(instead=True, answer=None)
        if fault.what in ("lose-ack", "endless-step"):
            return Interposed(instead=True, answer=WAITING)
        if fault.what == "delay-ack":
            late = self._machine.now() < fired + (fault.units or 0)
            return Interposed(instead=True, answer=WAITING) if late else None
        if fault.what == "corrupt-page":
            return Interposed(behind=self._corrupt)
        assert fault.what == "narrow-flush", "all others are above"
        call.step = replace(call.step, pages=call.step.pages - 1)  # once: a PostFlush does not wait
        return None

    def _corrupt(self, frame: steps.Answered) -> None:
        assert isinstance(frame, int), "`_can` has seen to it that there is one"
        self._machine.memory.write(frame, GARBAGE)


def _time(one: _Armed) -> int:
    assert isinstance(one.fault.when, Moment)
    return one.fault.when.time
