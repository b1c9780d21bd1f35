"""Events of a session by virtual time: what is no instruction, and why instructions did what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypedDict, Unpack

from kstack.hw.apic.apic import DeliveryMode
from kstack.hw.cpu.decode import Instruction
from kstack.hw.cpu.events import EventKind, Outcome
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.mmu.moments import Fill, Use
from kstack.machine import Ipi
from kstack.run.session import Session
from kstack.run.writes import Change, RegisterChange
from kstack.sanitizer.findings import Finding
from kstack.stacks import Pte, Thread, steps
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall
from kstack.x86.vectors import name_of

FLUSHES: Final = frozenset({"invlpg", "invpcid", "invlpgb", "tlbsync"})

END: Final = "end"
WRITTEN: Final = "written"
"""Kind of an event that comes before the instruction of its time; all others come with it or behind it."""


class TraceEvent(NamedTuple):
    """One event.

    Attributes:
        count: virtual time.
        cpu: where it happened.
        kind: `fault`, `interrupt`, `nmi`, `software`, `ipi`, `tlb-fill`, `tlb-speculated`, `tlb-stale`, `flush`, `hook`,
            `hook-end`, `step`, `grow`, `shrink`, `thread`, `thread-gone`, `switch`, `wake`, `mark`, `written` (by a debugger),
            `finding` or, behind all others, `end` (of the run).
        name: of its kind: the exception, the hook, the step, the guest's event, the kind of finding, how the run has ended.
        thread: whom it concerns; None for nobody.
        address: linear (bytes).
        frame: physical (bytes).
        value: a number: error code, vector, target CPU of an IPI, a PTE, what the guest has written to the debug-exit port.
        text: a few words.
    """

    count: int  # type: ignore[assignment] # hides tuple.count, which nobody calls on an event
    cpu: int
    kind: str
    name: str
    thread: int | None = None
    address: int | None = None
    frame: int | None = None
    value: int | None = None
    text: str = ""


class _Details(TypedDict, total=False):
    """What an event may say, as `TraceEvent` has it."""

    thread: int | None
    address: int | None
    frame: int | None
    value: int | None
    text: str


class Events:
    """Gathers the events of a session.

    Args:
        session: that has not run yet.
        switched: told of the CPU, the virtual time and the thread at each switch.
    """

    def __init__(self, session: Session, switched: Callable[[int, int, int], None]) -> None:
        self._machine, self._session, self._switched = session.machine, session, switched
        self._found: list[TraceEvent] = []
        self._findings = 0
        self._hooks: list[list[HookCall]] = [[] for _ in session.machine.cpus]
        session.machine.instruments.add(self)

    def take(self) -> list[TraceEvent]:
        """All events since the last time, by virtual time."""
        found, self._found = self._found, []
        new = self._session.findings[self._findings :]
        self._findings += len(new)
        return sorted(found + [_of(finding) for finding in new], key=lambda event: (event.count, event.kind == END))

    def add(self, cpu: int, kind: str, name: str, **more: Unpack[_Details]) -> None:
        """Something happens now."""
        self._found.append(TraceEvent(self._machine.now(), cpu, kind, name, **more))

    def ended(self, how: str, reason: str) -> None:
        """The run has ended; an event of the CPU that ran last says so."""
        choices, value = self._session.choices, self._machine.exit_port.code
        self.add(choices[-1].cpu if choices else 0, END, how, value=value, text=reason)

    def woken(self, count: int, cpu: int, thread: int) -> None:
        """A CPU has made a thread runnable that slept."""
        self._found.append(TraceEvent(count, cpu, "wake", f"{thread}", thread=thread))

    # --- CPUs and the machine

    def carried_out(self, cpu: int, time: int, instruction: Instruction) -> None:
        """Python has carried out an instruction."""
        if instruction.name in FLUSHES or (
            instruction.name == "mov" and instruction.registers[:1] in (("cr3",), ("cr4",))
        ):
            what = f"{instruction.name} {' '.join(instruction.registers)}".strip()
            self.add(cpu, "flush", what)
        if instruction.name == "out" and self._hooks[cpu]:
            running = self._session.runtime.calls[cpu]
            while self._hooks[cpu] and self._hooks[cpu][-1] not in running:
                call = self._hooks[cpu].pop()
                self.add(cpu, "hook-end", call.hook.value, thread=call.thread)

    def on_delivery(self, delivery: Delivery) -> None:
        """Exceptions, interrupts, NMIs."""
        cpu, events, outcome = delivery
        for event in events:
            text = "" if outcome is Outcome.DELIVERED else outcome.value
            if event.kind is EventKind.EXCEPTION:
                name = name_of(event.vector)
                self.add(cpu, "fault", name, address=event.address, value=event.error, text=text)
            else:
                kind = {EventKind.INTERRUPT: "interrupt", EventKind.NMI: "nmi"}.get(event.kind, "software")
                self.add(cpu, kind, f"{event.vector:#x}", value=event.vector, text=text)

    def on_ipi(self, ipi: Ipi) -> None:
        """An IPI has left its sender."""
        name = f"{ipi.vector:#x}" if ipi.mode is DeliveryMode.FIXED else ipi.mode.name.lower()
        self.add(ipi.source, "ipi", name, value=ipi.target)

    def on_write(self, change: Change) -> None:
        """A debugger has written a register, or memory."""
        if isinstance(change, RegisterChange):
            self.add(change.cpu, WRITTEN, change.register, value=change.value)
        else:
            self.add(0, WRITTEN, "memory", frame=change.address, text=f"{len(change.data) // 2} bytes")

    # --- translations

    def on_fill(self, moment: Fill) -> None:
        """A walk has cached a translation, asked for or not."""
        kind = "tlb-speculated" if moment.speculative else "tlb-fill"
        self.add(moment.cpu, kind, "walk", address=moment.address, frame=moment.translation.frame)

    def on_use(self, moment: Use) -> None:
        """An access goes through what the tables no longer give."""
        now = None if moment.current is None else moment.current.frame
        name = moment.access.name.lower()
        self.add(moment.cpu, "tlb-stale", name, address=moment.address, frame=moment.found.frame, value=now)

    # --- the policy

    def on_thread(self, thread: Thread) -> None:
        """Of the policy's host."""
        self.add(0, "thread", f"{thread.id}", thread=thread.id, address=thread.bottom, value=thread.size)

    def on_thread_end(self, thread: Thread) -> None:
        """Of the policy's host."""
        self.add(0, "thread-gone", f"{thread.id}", thread=thread.id)

    def on_call(self, cpu: int, call: HookCall) -> None:
        """A hook has been called."""
        self._hooks[cpu].append(call)
        self.add(cpu, "hook", call.hook.value, thread=call.thread)
        if call.hook is HookKind.SWITCH_IN:
            self.add(cpu, "switch", f"{call.thread}", thread=call.thread)
            self._switched(cpu, self._machine.now(), call.thread)

    def on_step(self, cpu: int, call: HookCall, step: steps.Step, answer: steps.Answered, previous: Pte | None) -> None:
        """One of its steps, and what that does to a stack."""
        page = getattr(step, "page", None)
        address = getattr(page, "address", None)
        told = f"{answer.value:#x}" if isinstance(answer, Pte) else answer
        text = f"{step}" if answer is None else f"{step} -> {told}"
        self.add(cpu, "step", type(step).__name__, thread=call.thread, address=address, text=text)
        if isinstance(step, steps.PteStore) and previous is not None:
            now = step.pte
            if previous.present != now.present:
                one = now if now.present else previous
                self.add(
                    cpu,
                    "grow" if now.present else "shrink",
                    f"page {step.page.index}",
                    thread=step.page.thread,
                    address=step.page.address,
                    frame=one.frame,
                    value=now.value,
                )
        elif isinstance(step, (steps.Invlpg, steps.Invlpgb)):
            self.add(cpu, "flush", type(step).__name__, thread=call.thread, address=address)

    def on_cannot_sleep(self, cpu: int, call: HookCall) -> None:
        """Of the policy's host."""
        self.add(cpu, "step", "cannot sleep", thread=call.thread)

    def on_mark(self, cpu: int, name: str) -> None:
        """The guest marks something."""
        self.add(cpu, "mark", name)


def _of(finding: Finding) -> TraceEvent:
    return TraceEvent(
        finding.time,
        finding.cpu,
        "finding",
        finding.kind.value,
        address=finding.address,
        frame=finding.frame,
        text=finding.text,
    )
