"""The oracle: who owns each frame, which translations are stale, and what of that is a finding.

Every frame that the guest gave to the policy has a state and an owner, which is a page of a
thread's stack and not the thread alone (a pool may give a thread its own old frame for another
page). A stale translation is normal; *using* one whose frame was freed or given to somebody else
is a finding. The oracle watches the machine and the policy's steps and never acts.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kstack.hw.cpu.events import Event, EventKind, Outcome
from kstack.hw.engine import Access
from kstack.hw.mmu.walk import NX, RW, US, PageFault, Translation
from kstack.kernels.kstack.hypercall import SHOOTDOWN_VECTOR
from kstack.load import Symbols
from kstack.machine import Ipi, Machine
from kstack.stacks import Page, Pte, Thread, steps
from kstack.stacks.area import Areas, AreasState
from kstack.stacks.host.call import HookCall

MAX_FINDINGS = 1000
KEPT = 24  # moments remembered of each page and frame
MAX_DRIFT = 32  # pages that a CPU's pool may have gained from others before it is called out of balance
_FRAME = (1 << 52) - 1 & ~0xFFF
_EMPTY_PAGE = bytes(4096)
_WORD = 8
_RIGHTS = RW | US | NX
Candidate = tuple[int, int]  # frame, rights


class Kind(enum.Enum):
    """What can be found; the names are those of the command line's JSON."""

    STALE_TRANSLATION = "stale-translation"
    USE_AFTER_FREE = "use-after-free"
    WRONG_DATA = "wrong-data"
    OVERFLOW = "overflow"
    UNHANDLED_FAULT = "unhandled-fault"
    DOUBLE_FAULT = "double-fault"
    SHUTDOWN = "shutdown"
    LEAK = "leak"
    DOUBLE_FREE = "double-free"
    SHARED_FRAME = "shared-frame"
    OUT_OF_PAGES = "out-of-pages"
    LOST_INTERRUPT = "lost-interrupt"
    DATA_LEAK = "data-leak"
    DEADLOCK = "deadlock"
    LIVELOCK = "livelock"
    IMBALANCE = "imbalance"


class Moment(NamedTuple):
    """Something that happened to a page or a frame: virtual time, CPU, and a few words."""

    time: int
    cpu: int
    what: str


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong.

    Attributes:
        kind: what.
        cpu: on which CPU.
        symbol: where in the guest (symbol+offset of RIP).
        address: the linear address accessed, or the frame for pool errors (bytes).
        time: virtual time.
        text: one sentence with both sides.
        frame: physical address of the frame concerned, or None.
        old_owner, new_owner: whom the frame belonged to, and whom it belongs to now.
        freed_by: the policy step that freed it.
        history: what happened to the page and the frame before, on all CPUs, and guest events.
    """

    kind: Kind
    cpu: int
    symbol: str
    address: int
    time: int
    text: str
    frame: int | None = None
    old_owner: str | None = None
    new_owner: str | None = None
    freed_by: str | None = None
    history: tuple[Moment, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; addresses in hex."""
        return {
            "kind": self.kind.value,
            "cpu": self.cpu,
            "symbol": self.symbol,
            "address": f"{self.address:#x}",
            "time": self.time,
            "text": self.text,
            "frame": None if self.frame is None else f"{self.frame:#x}",
            "old_owner": self.old_owner,
            "new_owner": self.new_owner,
            "freed_by": self.freed_by,
            "history": [{"time": m.time, "cpu": m.cpu, "what": m.what} for m in self.history],
        }


class FrameState(enum.Enum):
    """Where a frame of the policy's is."""

    POOL = "in the pool"
    TAKEN = "taken, mapped nowhere"
    MAPPED = "mapped"
    UNMAPPED = "unmapped, not freed"


class Frame(NamedTuple):
    """A frame's life: its state, its owner now and before, the step that freed it last."""

    state: FrameState = FrameState.POOL
    owner: Page | None = None
    previous: Page | None = None
    freed_by: str | None = None


class OracleState(NamedTuple):
    """An `Oracle`'s whole state; nobody changes what is in it. Moments that are no others are shared between states."""

    findings: tuple[Finding, ...]
    exercised: int
    stack_walks: int
    frames: dict[int, Frame]
    holders: dict[int, int]  # by frame: which of the hooks in flight
    threads: tuple[int, ...]
    areas: AreasState
    seen: dict[int, frozenset[Candidate]]
    last_use: tuple[object, ...]
    moments: dict[int, tuple[Moment, ...]]
    events: tuple[Moment, ...]
    double_faults: dict[int, tuple[int, bool]]
    drift: dict[int, int]
    last_stale: str | None
    leaked: frozenset[int]


def _numbers(values: Iterable[Any]) -> Iterator[int]:
    """All numbers in nested tuples, as frames: addresses and entries without their low and high bits."""
    for value in values:
        if isinstance(value, int):
            yield value & _FRAME
        elif isinstance(value, tuple):
            yield from _numbers(value)


def _as_before(candidates: set[Candidate], before: frozenset[Candidate] | None) -> frozenset[Candidate]:
    """A set that only grows as it is, and the same object as before where it has not grown."""
    return before if before is not None and len(before) == len(candidates) else frozenset(candidates)


def _since(known: deque[Moment], before: tuple[Moment, ...] | None) -> tuple[Moment, ...]:
    """Moments of which each is an object of its own, and the same tuple as before where none has come."""
    return before if before and known and before[-1] is known[-1] else tuple(known)


def _owner(page: Page | None) -> str | None:
    return None if page is None else f"thread {page.thread} page {page.index}"


@dataclass
class Oracle:
    """Watches one machine.

    Args:
        machine: the machine.
        symbols: the guest's.
    """

    machine: Machine
    symbols: Symbols
    findings: list[Finding] = field(default_factory=list)
    exercised: int = 0
    stack_walks: int = 0  # page walks that cached a translation of a stack page
    frames: dict[int, Frame] = field(default_factory=dict)
    holders: dict[int, HookCall] = field(default_factory=dict)  # by frame: the hook that took or cleared it last
    threads: dict[int, Thread] = field(default_factory=dict)
    areas: Areas = field(default_factory=Areas)
    seen: dict[int, set[Candidate]] = field(default_factory=dict)  # by page (linear number): all it was ever mapped to
    last_use: tuple[object, ...] = ()
    moments: dict[int, deque[Moment]] = field(default_factory=dict)  # by page or frame address
    events: deque[Moment] = field(default_factory=lambda: deque(maxlen=KEPT))
    double_faults: dict[int, tuple[int, bool]] = field(default_factory=dict)  # by CPU: stack pointer, served
    drift: dict[int, int] = field(default_factory=dict)  # by CPU: frames its pool got less those it gave
    last_stale: str | None = None  # the last stale use, whether it is a finding or not, until somebody clears it
    leaked: set[int] = field(default_factory=set)  # frames reported already; asked for membership only
    saved: OracleState | None = field(default=None, init=False, repr=False, compare=False)  # by `save` or `load`, last

    # --- reporting

    def _report(self, kind: Kind, cpu: int, address: int, text: str, frame: int | None = None) -> None:
        if len(self.findings) >= MAX_FINDINGS:
            return
        life = self.frames.get(frame) if frame is not None else None
        self.findings.append(
            Finding(
                kind,
                cpu,
                self.symbols.name(self.machine.cpus[cpu].rip()),
                address,
                self.machine.now(),
                text,
                frame,
                _owner(life.previous) if life else None,
                (_owner(life.owner) or life.state.value) if life else None,
                life.freed_by if life else None,
                self._history(address, frame),
            )
        )

    def _note(self, cpu: int, what: str, *addresses: int) -> None:
        """Remember a moment of these pages and frames."""
        moment = Moment(self.machine.now(), cpu, what)
        for address in addresses:
            self.moments.setdefault(address, deque(maxlen=KEPT)).append(moment)

    def _history(self, address: int, frame: int | None) -> tuple[Moment, ...]:
        """The moments of a page and a frame, and the guest's events between them, in order."""
        page = address & ~0xFFF
        own = [*self.moments.get(page, ()), *(self.moments.get(frame, ()) if frame is not None else ())]
        if not own:
            return ()
        first = min(moment.time for moment in own)
        merged = dict.fromkeys([*own, *(event for event in self.events if event.time >= first)])
        return tuple(sorted(merged, key=lambda moment: moment.time))[-KEPT:]

    def _place(self, address: int) -> str:
        """A linear address in words: whose stack it lies in, or what the guest calls it."""
        return f"{_owner(self._page(address)) or self.symbols.name(address)} at {address:#x}"

    def guest_stored(self, cpu: int, address: int, entry: int) -> None:
        """Guest code has stored to the entry of a page (linear address): no policy's doing, and part of the history."""
        self._note(cpu, f"guest code stores {entry:#x} to the entry of {self._place(address)}", address, entry & _FRAME)

    def _page(self, address: int) -> Page | None:
        thread = self.areas.find(self.threads, address)
        return None if thread is None else thread.page_at(address)

    # --- MmuObserver

    def filled(self, cpu: int, address: int, translation: Translation) -> None:
        """Count accesses that could have gone two ways had nothing ever been invalidated.

        The adversary is the same in every reading: any CPU may have cached whatever a page was ever mapped to, whether
        Accessed was set or not.
        """
        page = self._page(address)
        if page is None:
            return
        self.stack_walks += 1
        candidates = self.seen.setdefault(address >> 12, set())
        candidates.add((translation.frame, translation.rights))
        self.exercised += len(candidates) > 1
        self._note(cpu, f"TLB fill: {_owner(page)} -> frame {translation.frame:#x}", address & ~0xFFF)

    def speculated(self, cpu: int, address: int, translation: Translation) -> None:
        """A candidate that no access has asked for."""
        page = self._page(address)
        if page is not None:
            self._note(cpu, f"speculative TLB fill: {_owner(page)} -> frame {translation.frame:#x}", address & ~0xFFF)

    def stale_use(
        self, cpu: int, address: int, access: Access, translation: Translation, current: Translation | None
    ) -> None:
        """Judge an access through a translation that the tables no longer give."""
        page = self._page(address)
        frame = translation.frame
        life = self.frames.get(frame)
        verb, where = "wrote" if access is Access.STORE else "read", self._place(address)
        now = f"the tables have {current.frame:#x}" if current is not None else "the tables have none"
        self.last_stale = f"CPU {cpu} {verb} {where} through its cached translation to frame {frame:#x}; {now}"
        if page is not None:
            self.exercised += 1
        if life is None or (life.state is FrameState.MAPPED and life.owner == page):
            return
        if life.state in (FrameState.UNMAPPED, FrameState.TAKEN) and life.previous is None:
            return
        if life.state is FrameState.UNMAPPED and current is None:
            return  # cleared, not freed yet: this access may still go either way (SDM 4.10.4.4)
        once = (cpu, self.machine.cpus[cpu].rip(), address >> 12, access, self.machine.now())
        if once == self.last_use:
            return  # the same access, seen in two parts
        self.last_use = once
        if life.state is FrameState.MAPPED:
            kind, now = Kind.STALE_TRANSLATION, f"now {_owner(life.owner)}"
        elif life.state is FrameState.UNMAPPED:  # the address may not be reused either (SDM 4.10.5)
            kind, now = (
                Kind.STALE_TRANSLATION,
                f"unmapped, and the page has frame {current.frame:#x}" if current else "",
            )
        else:
            kind, now = Kind.USE_AFTER_FREE, life.state.value
        text = f"CPU {cpu} {verb} {where} through its cached translation to frame {frame:#x}, which is {now}"
        self._note(cpu, f"{verb} {_owner(page)} through its TLB: frame {frame:#x}", address & ~0xFFF)
        self._report(kind, cpu, address, text, frame)
        self._compare(cpu, address, access, translation, current)

    def _compare(
        self, cpu: int, address: int, access: Access, translation: Translation, current: Translation | None
    ) -> None:
        if current is None:
            return
        offset = address & 0xFFF & ~(_WORD - 1)
        memory = self.machine.memory
        stale, right = memory.read64(translation.frame + offset), memory.read64(current.frame + offset)
        if access is Access.STORE:
            text = f"CPU {cpu}'s store to {address:#x} goes to frame {translation.frame:#x}, and {current.frame:#x} misses it"
        elif stale != right:
            text = f"CPU {cpu} gets {stale:#x} from frame {translation.frame:#x}; the tables give {right:#x}"
        else:
            return
        self._report(Kind.WRONG_DATA, cpu, address, text, translation.frame)

    # --- StackObserver

    def booted(self, frames: list[int]) -> None:
        """The pool's frames are born free."""
        self.frames = {frame: Frame() for frame in frames}

    def thread_created(self, thread: Thread) -> None:
        """A stack area is watched from now on."""
        self.threads[thread.id] = thread
        self.areas.add(thread)

    def thread_gone(self, thread: Thread) -> None:
        """What is still mapped in a dead thread's stack is lost."""
        del self.threads[thread.id]
        mmu, memory = self.machine.cpus[0].mmu, self.machine.memory
        leaves = [leaf for page in thread.pages if (leaf := mmu.leaf_address(page.address)) is not None]
        for frame in sorted({Pte(memory.read64(leaf)).frame for leaf in leaves}):
            life = self.frames.get(frame)
            if life is not None and life.owner is not None and life.owner.thread == thread.id:
                text = f"{_owner(life.owner)} is still mapped to frame {frame:#x} after the thread has exited"
                self._report(Kind.LEAK, 0, life.owner.address, text, frame)

    def stepped(self, cpu: int, call: HookCall, step: Any, answer: Any, previous: Pte | None) -> None:
        """Follow the frames through the policy's steps."""
        if isinstance(step, steps.TakePage | steps.AllocPage) and answer is not None:
            self.frames[answer] = self.frames[answer]._replace(state=FrameState.TAKEN)
            self.holders[answer] = call
            if isinstance(step, steps.TakePage):
                self._drifted(cpu, cpu, -1)
        elif isinstance(step, steps.PteStore) and previous is not None:
            self._entry_changed(cpu, call, step.page, previous, step.pte)
        elif isinstance(step, steps.GiveBack):
            by = f"{call.function.name.lower()} of thread {call.thread} on CPU {cpu}: {step}, time {self.machine.now()}"
            self._given_back(cpu, step.frame, by)
            self._drifted(cpu, cpu if step.cpu is None else step.cpu, 1)
        elif isinstance(step, steps.Invlpg):
            self._note(cpu, f"INVLPG {_owner(step.page)}", step.page.address)

    def _entry_changed(self, cpu: int, call: HookCall, page: Page, old: Pte, new: Pte) -> None:
        """An entry was stored; one that keeps its frame (other rights, Accessed, software bits) is no new mapping."""
        if old.present and new.present and old.frame == new.frame:
            self._note(cpu, f"change {_owner(page)} (frame {new.frame:#x} stays)", page.address, new.frame)
            return
        if old.present:
            life = self.frames.get(old.frame)
            if life is not None and life.owner == page:
                self.frames[old.frame] = Frame(FrameState.UNMAPPED, None, page, life.freed_by)
                self.holders[old.frame] = call
                self._note(cpu, f"clear {_owner(page)} (was frame {old.frame:#x})", page.address, old.frame)
        if not new.present:
            return
        self.seen.setdefault(page.address >> 12, set()).add((new.frame, new.value & _RIGHTS))
        life = self.frames.get(new.frame)
        if life is None:
            return
        if life.state is FrameState.MAPPED and life.owner != page:
            text = f"frame {new.frame:#x} is mapped at {_owner(page)} while {_owner(life.owner)} has it"
            self._report(Kind.SHARED_FRAME, cpu, page.address, text, new.frame)
        elif life.state is FrameState.POOL:
            text = f"frame {new.frame:#x} is mapped at {_owner(page)} while it is in the pool"
            self._report(Kind.SHARED_FRAME, cpu, page.address, text, new.frame)
        self._look_for_data(cpu, page, new.frame, life)
        self.frames[new.frame] = life._replace(state=FrameState.MAPPED, owner=page)
        self._note(cpu, f"map {_owner(page)} -> frame {new.frame:#x}", page.address, new.frame)

    def _look_for_data(self, cpu: int, page: Page, frame: int, life: Frame) -> None:
        """A frame that another thread used must have been cleared since."""
        if life.previous is None or life.previous.thread == page.thread or frame in self.leaked:
            return
        data = self.machine.memory.read(frame, len(_EMPTY_PAGE))
        if data == _EMPTY_PAGE:
            return
        self.leaked.add(frame)
        at = next(offset for offset in range(0, len(data), _WORD) if any(data[offset : offset + _WORD]))
        word = int.from_bytes(data[at : at + _WORD], "little")
        text = f"{_owner(page)} gets frame {frame:#x} with words of {_owner(life.previous)} in it: {word:#x} at {page.address + at:#x}"
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
            text = f"frame {frame:#x} is freed while mapped at {_owner(life.owner)}"
            self._report(Kind.SHARED_FRAME, cpu, frame, text, frame)
            life = life._replace(previous=life.owner)
        self.frames[frame] = Frame(FrameState.POOL, None, life.previous, by)
        self._note(cpu, f"free frame {frame:#x}", frame)

    def fault_ended(self, cpu: int, thread: Thread, address: int, handled: bool, dry: bool) -> None:
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
            text = f"CPU {cpu} faulted on {_owner(page)} at {address:#x}, and there is no page for it"
            self._report(Kind.OUT_OF_PAGES, cpu, address, text)
        else:
            text = f"CPU {cpu} faulted on {_owner(page)} at {address:#x}, and the policy does not handle it"
            self._report(Kind.UNHANDLED_FAULT, cpu, address, text)

    def cannot_sleep(self, cpu: int, call: HookCall) -> None:
        """An allocation that may sleep finds no memory where the thread cannot leave the CPU."""
        hook = f"{call.function.name.lower()} of thread {call.thread}"
        text = f"CPU {cpu} would sleep for memory in {hook}, where nothing can run it again"
        self._report(Kind.DEADLOCK, cpu, 0, text)

    def event(self, cpu: int, name: str) -> None:
        """Guest events tell where in the scenario a finding lies."""
        self.events.append(Moment(self.machine.now(), cpu, f"guest: {name}"))

    # --- CpuObserver

    def delivered(self, cpu: int, events: list[Event], outcome: Outcome) -> None:
        """Stack overflows, double faults, shutdown."""
        for event in events:
            if event.kind is EventKind.INTERRUPT and event.vector == SHOOTDOWN_VECTOR:
                self.events.append(Moment(self.machine.now(), cpu, f"takes interrupt {event.vector:#x}"))
            if event.kind is not EventKind.EXCEPTION:
                continue
            if event.vector == 14 and event.address is not None and not (event.error or 0) & PageFault.U:
                self._guard_hit(cpu, event.address)
            elif event.vector == 8:
                self._double_fault(cpu)
                self.double_faults[cpu] = self.machine.cpus[cpu].registers.gpr[4], False
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
        lost = first.kind is EventKind.INTERRUPT and outcome is Outcome.REPLACED and last.vector in (8, 14)
        if lost and self.machine.modes.interrupted_delivery == "lost":
            text = f"CPU {cpu} acknowledged interrupt {first.vector:#x}, and its frame faulted: its handler is never entered and its ISR bit stays set"
            self._report(Kind.LOST_INTERRUPT, cpu, last.address or self.machine.cpus[cpu].registers.cr[2], text)

    def check_failed(self, cpu: int) -> None:
        """The guest's own check of what it read has failed; a finding of its own only where nothing else was seen."""
        if not self.findings:
            seen = self.last_stale or "the oracle saw nothing"
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
        if self._page(address) is not None:
            return  # another thread's stack: growth, not overflow
        for thread in self.threads.values():
            if thread.bottom - thread.size <= address < thread.bottom:
                text = f"CPU {cpu} overflowed the stack of thread {thread.id} at {address:#x}"
                self._report(Kind.OVERFLOW, cpu, address, text)

    # --- MachineObserver

    def ipi_sent(self, ipi: Ipi) -> None:
        """A shootdown is on its way: part of the history of whatever it is about."""
        if ipi.vector == SHOOTDOWN_VECTOR:
            self.events.append(Moment(self.machine.now(), ipi.source, f"IPI to CPU {ipi.target}"))

    def deadlocked(self, waiting: list[int]) -> None:
        """Every CPU waits for another one, and nothing can end that."""
        cpus = ", ".join(f"CPU {cpu}" for cpu in waiting)
        self._report(Kind.DEADLOCK, waiting[0], 0, f"{cpus} wait for others, and no interrupt can be taken")

    # --- the end

    def finish(self, in_flight: list[HookCall], variables: Iterable[Any]) -> None:
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

    # --- the whole

    def save(self, in_flight: Sequence[HookCall]) -> OracleState:
        """The whole state.

        Args:
            in_flight: all hooks that have not ended; of those that have it makes no difference which they were.
        """
        numbers = {id(call): number for number, call in enumerate(in_flight)}
        before = self.saved
        moments, seen = (before.moments, before.seen) if before is not None else ({}, {})
        self.saved = OracleState(
            tuple(self.findings),
            self.exercised,
            self.stack_walks,
            dict(self.frames),
            {frame: numbers[id(call)] for frame, call in self.holders.items() if id(call) in numbers},
            tuple(self.threads),
            self.areas.save(),
            {page: _as_before(candidates, seen.get(page)) for page, candidates in self.seen.items()},
            self.last_use,
            {address: _since(known, moments.get(address)) for address, known in self.moments.items()},
            tuple(self.events),
            dict(self.double_faults),
            dict(self.drift),
            self.last_stale,
            frozenset(self.leaked),
        )
        return self.saved

    def load(self, state: OracleState, in_flight: Sequence[HookCall], threads: Mapping[int, Thread]) -> None:
        """Become what `save` returned.

        Args:
            state: what it returned.
            in_flight: the hooks that have not ended, made again in the same order.
            threads: those that there are, by id.
        """
        self.findings, self.exercised, self.stack_walks = list(state.findings), state.exercised, state.stack_walks
        self.frames = dict(state.frames)
        self.holders = {frame: in_flight[number] for frame, number in state.holders.items()}
        self.threads = {thread: threads[thread] for thread in state.threads}
        self.areas.load(state.areas)
        self.seen = {page: set(candidates) for page, candidates in state.seen.items()}
        self.last_use, self.last_stale = state.last_use, state.last_stale
        self.moments = {address: deque(known, maxlen=KEPT) for address, known in state.moments.items()}
        self.events = deque(state.events, maxlen=KEPT)
        self.double_faults, self.drift = dict(state.double_faults), dict(state.drift)
        self.leaked = set(state.leaked)
        self.saved = state

    def _kept_in_entries(self) -> Iterator[int]:
        """Frames in leaf entries of living threads that are not present: set aside, as for watching who comes."""
        mmu, memory = self.machine.cpus[0].mmu, self.machine.memory
        for thread in self.threads.values():
            for page in thread.pages:
                leaf = mmu.leaf_address(page.address)
                entry = Pte(0 if leaf is None else memory.read64(leaf))
                if not entry.present:
                    yield entry.frame
