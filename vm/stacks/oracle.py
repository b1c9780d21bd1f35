"""The oracle: a sanitizer's client for dynamic kernel stacks.

It follows every frame that the guest gave to the policy through the policy's steps: in the pool, taken, mapped by a page of a
thread's stack, unmapped. That is what the sanitizer asks it; what else can go wrong with stacks and pools it finds itself. It
watches the machine and the policy's steps and never acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kstack.hw.cpu.events import Event, EventKind, Outcome
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.mmu.moments import Drop, Fill, Use
from kstack.load import Symbols
from kstack.machine import Ipi, Machine
from kstack.sanitizer.findings import Finding, Kind
from kstack.sanitizer.frames import Frame, FrameState, label_of
from kstack.sanitizer.history import (
    Changed,
    Cleared,
    Freed,
    Invalidated,
    IpiSent,
    IpiTaken,
    Mapped,
    Marked,
    Stored,
)
from kstack.sanitizer.sanitizer import Sanitizer, SanitizerState
from kstack.stacks import Page, Pte, Thread, steps
from kstack.stacks.area import Areas, AreasState
from kstack.stacks.host.call import HookCall
from kstack.x86.addresses import PAGE
from kstack.x86.entries import FRAME_MASK
from kstack.x86.errors import PageFault
from kstack.x86.registers import Gpr
from kstack.x86.vectors import DF, PF

MAX_DRIFT = 32  # pages that a CPU's pool may have gained from others before it is called out of balance
_EMPTY_PAGE = bytes(PAGE)
_WORD = 8


class OracleState(NamedTuple):
    """An `Oracle`'s whole state; nobody changes what is in it."""

    sanitizer: SanitizerState
    frames: dict[int, Frame[Page]]
    holders: dict[int, int]  # by frame: which of the hooks in flight
    threads: tuple[int, ...]
    areas: AreasState
    double_faults: dict[int, tuple[int, bool]]
    drift: dict[int, int]
    leaked: frozenset[int]


def _numbers(values: Iterable[steps.Value]) -> Iterator[int]:
    """All numbers in nested tuples, as frames: addresses and entries without their low and high bits."""
    for value in values:
        if isinstance(value, int):
            yield value & FRAME_MASK
        elif isinstance(value, tuple):
            yield from _numbers(value)


@dataclass
class Oracle:
    """Watches one machine.

    Args:
        machine: the machine.
        symbols: the guest's.
        shootdown_vector: of the interrupt by which its CPUs ask each other to flush.
    """

    machine: Machine
    symbols: Symbols
    shootdown_vector: int
    frames: dict[int, Frame[Page]] = field(default_factory=dict)
    holders: dict[int, HookCall] = field(default_factory=dict)  # by frame: the hook that took or cleared it last
    threads: dict[int, Thread] = field(default_factory=dict)
    areas: Areas = field(default_factory=Areas)
    double_faults: dict[int, tuple[int, bool]] = field(default_factory=dict)  # by CPU: stack pointer, served
    drift: dict[int, int] = field(default_factory=dict)  # by CPU: frames its pool got less those it gave
    leaked: set[int] = field(default_factory=set)  # frames reported already; asked for membership only

    def __post_init__(self) -> None:
        self.sanitizer = Sanitizer(self.machine, self.symbols, self)

    @property
    def findings(self) -> list[Finding]:
        """All that has been found, in order."""
        return self.sanitizer.findings

    def _report(self, kind: Kind, cpu: int, address: int, text: str, frame: int | None = None) -> None:
        self.sanitizer.report(kind, cpu, address, text, frame)

    # --- the whole

    def save(self, in_flight: Sequence[HookCall]) -> OracleState:
        """The whole state.

        Args:
            in_flight: all hooks that have not ended; of those that have it makes no difference which they were.
        """
        numbers = {id(call): number for number, call in enumerate(in_flight)}
        return OracleState(
            self.sanitizer.save(),
            dict(self.frames),
            {frame: numbers[id(call)] for frame, call in self.holders.items() if id(call) in numbers},
            tuple(self.threads),
            self.areas.save(),
            dict(self.double_faults),
            dict(self.drift),
            frozenset(self.leaked),
        )

    def load(self, state: OracleState, in_flight: Sequence[HookCall], threads: Mapping[int, Thread]) -> None:
        """Become what `save` returned.

        Args:
            state: what it returned.
            in_flight: the hooks that have not ended, made again in the same order.
            threads: those that there are, by id.
        """
        self.sanitizer.load(state.sanitizer)
        self.frames = dict(state.frames)
        self.holders = {frame: in_flight[number] for frame, number in state.holders.items()}
        self.threads = {thread: threads[thread] for thread in state.threads}
        self.areas.load(state.areas)
        self.double_faults, self.drift = dict(state.double_faults), dict(state.drift)
        self.leaked = set(state.leaked)

    # --- FrameSource

    def life(self, frame: int) -> Frame[Page] | None:
        """Of a frame that the guest gave to the policy."""
        return self.frames.get(frame)

    def owner_at(self, address: int) -> Page | None:
        """The page of a thread's stack in which a linear address lies."""
        thread = self.areas.find(self.threads, address)
        return None if thread is None else thread.page_at(address)

    # --- translations

    def on_fill(self, moment: Fill) -> None:
        """The sanitizer's."""
        self.sanitizer.on_fill(moment)

    def on_drop(self, moment: Drop) -> None:
        """The sanitizer's."""
        self.sanitizer.on_drop(moment)

    def on_use(self, moment: Use) -> None:
        """The sanitizer's."""
        self.sanitizer.on_use(moment)

    def guest_stored(self, cpu: int, address: int, entry: int) -> None:
        """Guest code has stored to the entry of a page (linear address): no policy's doing, and part of the history."""
        place = self.sanitizer.place(address)
        self.sanitizer.note(Stored(self.machine.now(), cpu, address, place, entry), address, entry & FRAME_MASK)

    # --- the policy

    def on_boot(self, frames: list[int]) -> None:
        """The pool's frames are born free."""
        self.frames = {frame: Frame() for frame in frames}

    def on_thread(self, thread: Thread) -> None:
        """A stack area is watched from now on."""
        self.threads[thread.id] = thread
        self.areas.add(thread)

    def on_thread_end(self, thread: Thread) -> None:
        """What is still mapped in a dead thread's stack is lost."""
        del self.threads[thread.id]
        mmu, memory = self.machine.cpus[0].mmu, self.machine.memory
        leaves = [leaf for page in thread.pages if (leaf := mmu.leaf_address(page.address)) is not None]
        for frame in sorted({Pte(memory.read64(leaf)).frame for leaf in leaves}):
            life = self.frames.get(frame)
            if life is not None and life.owner is not None and life.owner.thread == thread.id:
                text = f"{label_of(life.owner)} is still mapped to frame {frame:#x} after the thread has exited"
                self._report(Kind.LEAK, 0, life.owner.address, text, frame)

    def on_step(self, cpu: int, call: HookCall, step: steps.Step, answer: steps.Answered, previous: Pte | None) -> None:
        """Follow the frames through the policy's steps."""
        if isinstance(step, steps.TakePage | steps.AllocPage) and isinstance(answer, int):
            self.frames[answer] = self.frames[answer]._replace(state=FrameState.TAKEN)
            self.holders[answer] = call
            if isinstance(step, steps.TakePage):
                self._drifted(cpu, cpu, -1)
        elif isinstance(step, steps.PteStore) and previous is not None:
            self._entry_changed(cpu, call, step.page, previous, step.pte)
        elif isinstance(step, steps.GiveBack):
            by = f"{call.hook.value} of thread {call.thread} on CPU {cpu}: {step}, time {self.machine.now()}"
            self._given_back(cpu, step.frame, by)
            self._drifted(cpu, cpu if step.cpu is None else step.cpu, 1)
        elif isinstance(step, steps.Invlpg):
            self.sanitizer.note(
                Invalidated(self.machine.now(), cpu, step.page.address, step.page.label), step.page.address
            )

    def _note(self, what: type[Mapped | Cleared | Changed], cpu: int, page: Page, frame: int) -> None:
        """An entry was stored: part of the history of its page and its frame."""
        self.sanitizer.note(what(self.machine.now(), cpu, page.address, page.label, frame), page.address, frame)

    def _entry_changed(self, cpu: int, call: HookCall, page: Page, old: Pte, new: Pte) -> None:
        """An entry was stored; one that keeps its frame (other rights, Accessed, software bits) is no new mapping."""
        if old.present and new.present and old.frame == new.frame:
            self._note(Changed, cpu, page, new.frame)
            return
        if old.present:
            life = self.frames.get(old.frame)
            if life is not None and life.owner == page:
                self.frames[old.frame] = Frame(FrameState.UNMAPPED, None, page, life.freed_by)
                self.holders[old.frame] = call
                self._note(Cleared, cpu, page, old.frame)
        if not new.present:
            return
        self.sanitizer.may_map(page.address >> 12, new.frame, new.value)
        life = self.frames.get(new.frame)
        if life is None:
            return
        if life.state is FrameState.MAPPED and life.owner != page:
            text = f"frame {new.frame:#x} is mapped at {label_of(page)} while {label_of(life.owner)} has it"
            self._report(Kind.SHARED_FRAME, cpu, page.address, text, new.frame)
        elif life.state is FrameState.POOL:
            text = f"frame {new.frame:#x} is mapped at {label_of(page)} while it is in the pool"
            self._report(Kind.SHARED_FRAME, cpu, page.address, text, new.frame)
        self._look_for_data(cpu, page, new.frame, life)
        self.frames[new.frame] = life._replace(state=FrameState.MAPPED, owner=page)
        self._note(Mapped, cpu, page, new.frame)

    def _look_for_data(self, cpu: int, page: Page, frame: int, life: Frame[Page]) -> None:
        """A frame that another thread used must have been cleared since."""
        if life.previous is None or life.previous.thread == page.thread or frame in self.leaked:
            return
        data = self.machine.memory.read(frame, len(_EMPTY_PAGE))
        if data == _EMPTY_PAGE:
            return
        self.leaked.add(frame)
        at = next(offset for offset in range(0, len(data), _WORD) if any(data[offset : offset + _WORD]))
        word = int.from_bytes(data[at : at + _WORD], "little")
        text = f"{label_of(page)} gets frame {frame:#x} with words of {label_of(life.previous)} in it: {word:#x} at {page.address + at:#x}"
        self._report(Kind.DATA_LEAK, cpu, page.address + at, text, frame)

    def _drifted(self, cpu: int, pool: int, change: int) -> None:
        """Follow what each CPU's pool has gained; frames it is filled up with do not count."""
        drift = self.drift
        drift[pool] = drift.get(pool, 0) + change
        if change > 0 and drift[pool] > MAX_DRIFT and min(drift.values()) < -MAX_DRIFT and pool not in self.leaked:
            self.leaked.add(pool)
            low = min(drift, key=lambda other: (drift[other], other))
            text = f"CPU {pool}'s pool has {drift[pool]} frames more than it gave, CPU {low}'s {-drift[low]} less"
            self._report(Kind.IMBALANCE, cpu, 0, text)

    def _given_back(self, cpu: int, frame: int, by: str) -> None:
        life = self.frames.get(frame)
        if life is None or life.state is FrameState.POOL:
            self._report(Kind.DOUBLE_FREE, cpu, frame, f"frame {frame:#x} is freed twice; now by {by}", frame)
            return
        if life.state is FrameState.MAPPED:
            text = f"frame {frame:#x} is freed while mapped at {label_of(life.owner)}"
            self._report(Kind.SHARED_FRAME, cpu, frame, text, frame)
            life = life._replace(previous=life.owner)
        self.frames[frame] = Frame(FrameState.POOL, None, life.previous, by)
        self.sanitizer.note(Freed(self.machine.now(), cpu, frame), frame)

    def on_fault_end(self, cpu: int, thread: Thread, address: int, handled: bool, dry: bool) -> None:
        """The policy has looked at a fault on a stack."""
        if cpu in self.double_faults:
            self.double_faults[cpu] = self.double_faults[cpu][0], handled
        if handled:
            return
        if thread.contains(address):  # a fault on another's stack may be caught; if not, the guest panics
            self._no_stack(cpu, thread.page_at(address), address, dry)
        self._double_fault(cpu)

    def _no_stack(self, cpu: int, page: Page, address: int, dry: bool) -> None:
        """A thread needs a page of its own stack and does not get it."""
        if dry:
            text = f"CPU {cpu} faulted on {label_of(page)} at {address:#x}, and there is no page for it"
            self._report(Kind.OUT_OF_PAGES, cpu, address, text)
        else:
            text = f"CPU {cpu} faulted on {label_of(page)} at {address:#x}, and the policy does not handle it"
            self._report(Kind.UNHANDLED_FAULT, cpu, address, text)

    def on_cannot_sleep(self, cpu: int, call: HookCall) -> None:
        """An allocation that may sleep finds no memory where the thread cannot leave the CPU."""
        hook = f"{call.hook.value} of thread {call.thread}"
        text = f"CPU {cpu} would sleep for memory in {hook}, where nothing can run it again"
        self._report(Kind.DEADLOCK, cpu, 0, text)

    def on_mark(self, cpu: int, name: str) -> None:
        """Guest events tell where in the scenario a finding lies."""
        self.sanitizer.events.append(Marked(self.machine.now(), cpu, name))

    # --- CPUs

    def on_delivery(self, delivery: Delivery) -> None:
        """Stack overflows, double faults, shutdown."""
        cpu, events, outcome = delivery
        for event in events:
            if event.kind is EventKind.INTERRUPT and event.vector == self.shootdown_vector:
                self.sanitizer.events.append(IpiTaken(self.machine.now(), cpu, event.vector))
            if event.kind is not EventKind.EXCEPTION:
                continue
            if event.vector == PF and event.address is not None and not (event.error or 0) & PageFault.U:
                self._guard_hit(cpu, event.address)
            elif event.vector == DF:
                self._double_fault(cpu)
                self.double_faults[cpu] = self.machine.cpus[cpu].registers.gpr[Gpr.RSP], False
        self._interrupt_lost(cpu, events, outcome)
        if outcome is Outcome.SHUTDOWN:
            self._double_fault(cpu)
            rip = self.machine.cpus[cpu].registers.rip
            self._report(Kind.SHUTDOWN, cpu, rip, f"CPU {cpu} shut down (triple fault)")

    def _double_fault(self, cpu: int) -> None:
        """Report the #DF before, if a policy has not served it; one that it serves is no finding."""
        rsp, served = self.double_faults.pop(cpu, (0, True))
        if not served:
            self._report(Kind.DOUBLE_FAULT, cpu, rsp, f"CPU {cpu} took #DF, which the policy did not serve")

    def _interrupt_lost(self, cpu: int, events: list[Event], outcome: Outcome) -> None:
        """An interrupt whose frame could not be pushed, and that is not given again (SDM 6.10, 6.15; mode)."""
        first, last = events[0], events[-1]
        lost = first.kind is EventKind.INTERRUPT and outcome is Outcome.REPLACED and last.vector in (DF, PF)
        if lost and self.machine.modes.interrupted_delivery == "lost":
            text = f"CPU {cpu} acknowledged interrupt {first.vector:#x}, and its frame faulted: its handler is never entered and its ISR bit stays set"
            self._report(Kind.LOST_INTERRUPT, cpu, last.address or self.machine.cpus[cpu].registers.cr[2], text)

    def check_failed(self, cpu: int) -> None:
        """The guest's own check of what it read has failed; a finding of its own only where nothing else was seen."""
        if not self.findings:
            seen = self.sanitizer.last_stale or "the oracle saw nothing"
            self._report(Kind.WRONG_DATA, cpu, 0, f"the guest's own check failed; {seen}")

    def panicked(self, last_line: str) -> None:
        """The guest gave up by itself, and nothing else was found."""
        for cpu, (rsp, served) in sorted(self.double_faults.items()):
            if served:
                text = f"CPU {cpu} could not go on from a #DF that the policy had served: the state saved there is undefined (SDM 6.15, df-restart)"
                self._report(Kind.DOUBLE_FAULT, cpu, rsp, text)
                return
        if not self.findings:
            self._report(Kind.UNHANDLED_FAULT, 0, 0, f"the guest panicked: {last_line}")

    def _guard_hit(self, cpu: int, address: int) -> None:
        if self.owner_at(address) is not None:
            return  # another thread's stack: growth, not overflow
        for thread in self.threads.values():
            if thread.bottom - thread.size <= address < thread.bottom:
                text = f"CPU {cpu} overflowed the stack of thread {thread.id} at {address:#x}"
                self._report(Kind.OVERFLOW, cpu, address, text)

    # --- the machine

    def on_ipi(self, ipi: Ipi) -> None:
        """A shootdown is on its way: part of the history of whatever it is about."""
        if ipi.vector == self.shootdown_vector:
            self.sanitizer.events.append(IpiSent(self.machine.now(), ipi.source, ipi.target))

    def deadlocked(self, waiting: list[int]) -> None:
        """Every CPU waits for another one, and nothing can end that."""
        cpus = ", ".join(f"CPU {cpu}" for cpu in waiting)
        self._report(Kind.DEADLOCK, waiting[0], 0, f"{cpus} wait for others, and no interrupt can be taken")

    # --- the end

    def finish(self, in_flight: list[HookCall], variables: Iterable[steps.Value]) -> None:
        """Look for frames that belong to nobody when the guest has ended by itself.

        Args:
            in_flight: hooks that had not ended, whose frames are not lost.
            variables: values of the policy's variables; a frame in one of them is not lost either, nor is one in an
                entry that is not present.
        """
        for cpu in sorted(self.double_faults):
            self._double_fault(cpu)
        known = {*_numbers(variables), *self._kept_in_entries()}  # asked for membership only
        for frame, life in sorted(self.frames.items()):
            kept = life.state is FrameState.TAKEN and life.previous is None  # a policy's own reserve
            homeless = life.state in (FrameState.TAKEN, FrameState.UNMAPPED) and not kept
            if homeless and frame not in known and not any(call is self.holders.get(frame) for call in in_flight):
                text = f"frame {frame:#x} is {life.state.value} at the end: it is lost"
                self._report(Kind.LEAK, 0, frame, text, frame)

    def _kept_in_entries(self) -> Iterator[int]:
        """Frames in leaf entries of living threads that are not present: set aside, as for watching who comes."""
        mmu, memory = self.machine.cpus[0].mmu, self.machine.memory
        for thread in self.threads.values():
            for page in thread.pages:
                leaf = mmu.leaf_address(page.address)
                entry = Pte(0 if leaf is None else memory.read64(leaf))
                if not entry.present:
                    yield entry.frame
