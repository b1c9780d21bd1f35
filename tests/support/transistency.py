"""An abstract machine of x86-TSO with page tables, written from the manuals; it shares nothing with kstack.hw or kstack.explore.

Owens, Sarkar and Sewell's machine (TPHOLs 2009) has a store buffer a CPU. Here each CPU has a TLB besides, of one entry a
page at the most, which is filled and evicted by steps of its own at any time (SDM 4.10.2.2, 4.10.2.3); a walker that sets A
and D by locked updates (4.8); INVLPG, loads of CR3, and interprocessor interrupts that arrive between two operations.
`outcomes` tries everything.

What the manuals leave open is in `Reading`: kstack's modes, and what is finer than kstack's explorer has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from kstack.kernels.kstack.language import NAMES, Entry, Operation
from kstack.kernels.kstack.pages import FAULT, OK, FinalValues, Litmus, Value

ORDERS: Final = ("sc", "tso", "tso-walks-memory")
SPECULATIONS: Final = ("none", "needs-accessed", "sets-accessed", "keeps-accessed-clear")
INCLUDED: Final = (
    ("none", "needs-accessed"),
    ("needs-accessed", "sets-accessed"),
    ("needs-accessed", "keeps-accessed-clear"),
)
"""Of two speculations: whatever the first lets a processor do, the second does too."""
DRAINING: Final = frozenset({"exchange", "fence", "lock", "entry-exchange", "entry-compare", "entry-lock"}) | frozenset(
    {"invlpg", "cr3", "send"}
)
"""What waits until the store buffer is empty: locked, serialising, or a store to a device (SDM 8.3, 11.10)."""


@dataclass(frozen=True)
class Reading:
    """How what the manuals leave open is read.

    Attributes:
        order, speculation: kstack's modes `memory-order` and `speculation`.
        apart: a translation, and the access that it is for, are two steps.
        drains_slowly: stores become visible one by one between a fault and its handler, not all with the fault.
        hits_pass: an access through the TLB does not wait for the CPU's own store to the page's entry, as a walk does in `tso`.
        forwards: a walk in `tso` finds its own CPU's store to the entry in the store buffer, where A and D need no update.
    """

    order: str = "sc"
    speculation: str = "sets-accessed"
    apart: bool = False
    drains_slowly: bool = True
    hits_pass: bool = True
    forwards: bool = False


class Store(NamedTuple):
    """In a store buffer: a word of a frame, or an entry, by location; with its value."""

    name: str
    value: int | Entry


class Cpu(NamedTuple):
    """A CPU.

    Attributes:
        place: number of its next operation.
        results: so far.
        buffer: stores that nobody else sees, the oldest first.
        tlb: by location.
        inside: what it is in the middle of: a fault, a translated access (its frame), an entry that it has loaded and is
            about to store, an interrupt (its sender).
    """

    place: int = 0
    results: tuple[Value, ...] = ()
    buffer: tuple[Store, ...] = ()
    tlb: tuple[Entry | None, ...] = (None,) * len(NAMES)
    inside: tuple[str, str | int | Entry] | None = None

    def caching(self, where: int, entry: Entry | None) -> Cpu:
        """With another entry in the TLB."""
        return self._replace(tlb=(*self.tlb[:where], entry, *self.tlb[where + 1 :]))


class State(NamedTuple):
    """All there is; `words` and `entries` by location, `owed` the CPUs (as bits) whose answer a sender waits for."""

    words: tuple[int, ...]
    entries: tuple[Entry, ...]
    cpus: tuple[Cpu, ...]
    requests: frozenset[tuple[int, int, int]] = frozenset()  # on their way: sender, target, location
    owed: tuple[int, ...] = ()

    def with_cpu(self, number: int, cpu: Cpu) -> State:
        """With another state of a CPU."""
        return self._replace(cpus=(*self.cpus[:number], cpu, *self.cpus[number + 1 :]))

    def storing(self, store: Store) -> State:
        """With a store made in memory."""
        at = NAMES.index(store.name)
        if isinstance(store.value, Entry):
            return self._replace(entries=(*self.entries[:at], store.value, *self.entries[at + 1 :]))
        return self._replace(words=(*self.words[:at], store.value, *self.words[at + 1 :]))


def outcomes(test: Litmus, reading: Reading) -> set[FinalValues]:
    """All outcomes of a test."""
    machine = Machine(test, reading)
    start = machine.start()
    seen, work, ends = {start}, [start], set()
    for state in work:
        if machine.ended(state):
            ends.add(machine.outcome(state))
        for after in machine.steps(state):
            if after not in seen:
                seen.add(after)
                work.append(after)
    return ends


class Machine:
    """The machine, running one test."""

    def __init__(self, test: Litmus, reading: Reading) -> None:
        self.test = test
        self.reading = reading
        self.buffers = reading.order != "sc"
        self.left = [
            [{one.where for one in program[place:] if one.accesses} for place in range(len(program) + 1)]
            for program in test.programs
        ]

    def start(self) -> State:
        """Nothing is done, and nothing cached."""
        words = tuple(self.test.values.get(name, 0) for name in NAMES)
        entries = tuple(self.test.entry(name) for name in NAMES)
        cpus = tuple(Cpu() for _ in self.test.programs)
        return State(words, entries, cpus, owed=(0,) * len(cpus))

    def ended(self, state: State) -> bool:
        """All programs are at their end, and all stores visible."""
        programs = zip(state.cpus, self.test.programs, strict=True)
        return all(cpu.place == len(program) and not cpu.buffer and cpu.inside is None for cpu, program in programs)

    def outcome(self, state: State) -> FinalValues:
        """Final values by name."""
        used = [NAMES.index(name) for name in self.test.locations]
        values = [result for cpu in state.cpus for result in cpu.results] + [state.words[at] for at in used]
        values += [str(state.entries[at]) for at in used if self.test.pages]
        return tuple(zip(self.test.names, values, strict=True))

    # --- what can happen

    def steps(self, state: State) -> Iterator[State]:
        """All that can happen next."""
        for number, cpu in enumerate(state.cpus):
            if cpu.buffer:
                oldest, *rest = cpu.buffer
                yield state.storing(oldest).with_cpu(number, cpu._replace(buffer=tuple(rest)))
            if cpu.inside is not None:
                yield from self._go_on(state, number, cpu, *cpu.inside)
            elif cpu.place < len(self.test.programs[number]):
                yield from self._operate(state, number, cpu, self.test.programs[number][cpu.place])
            yield from self._interrupts(state, number, cpu)
            yield from self._unasked(state, number, cpu)

    def _unasked(self, state: State, number: int, cpu: Cpu) -> Iterator[State]:
        """Evictions, and fills by speculation, of pages that the program will still use; A is set for any page."""
        for where, entry in enumerate(state.entries):
            if cpu.tlb[where] is not None:
                yield state.with_cpu(number, cpu.caching(where, None))
            if "P" not in entry.flags or self.reading.speculation == "none":
                continue
            if self.reading.speculation == "needs-accessed" and "A" not in entry.flags:
                continue
            after, found = state, entry
            if self.reading.speculation == "sets-accessed" and "A" not in entry.flags:
                found = entry.changed("A", True)
                after = state.storing(Store(NAMES[where], found))
                yield after  # and evicted at once
            if where in self.left[number][cpu.place]:
                yield after.with_cpu(number, cpu.caching(where, found))

    def _interrupts(self, state: State, number: int, cpu: Cpu) -> Iterator[State]:
        """A request arrives between two operations, with all stores visible: the page is invalidated."""
        if cpu.buffer or (cpu.inside is not None and cpu.inside[0] != "change"):
            return
        for request in sorted(state.requests):
            sender, target, where = request
            if target == number and cpu.inside is None:
                after = cpu.caching(where, None)._replace(inside=("answer", sender))
                yield state._replace(requests=state.requests - {request}).with_cpu(number, after)
            elif target == number:  # between the halves of a plain change: answered at once
                after = cpu.caching(where, None)
                yield self._answered(state._replace(requests=state.requests - {request}), sender, number, after)

    def _answered(self, state: State, sender: int, number: int, cpu: Cpu) -> State:
        owed = state.owed[sender] & ~(1 << number)
        state = state._replace(owed=(*state.owed[:sender], owed, *state.owed[sender + 1 :]))
        return state.with_cpu(number, cpu)

    def _go_on(self, state: State, number: int, cpu: Cpu, what: str, value: str | int | Entry) -> Iterator[State]:
        """The next step of what a CPU is in the middle of."""
        if what == "answer":
            assert isinstance(value, int)
            yield self._answered(state, value, number, cpu._replace(inside=None))
            return
        one = self.test.programs[number][cpu.place]
        if what == "fault" and not cpu.buffer:
            yield self._done(state, number, cpu, FAULT)
        elif what == "frame":
            assert isinstance(value, str)
            yield self._accessed(state, number, cpu, one, value)
        elif what == "change":
            assert isinstance(value, Entry)
            yield self._stored(state, number, cpu, Store(one.name, value))

    def _done(self, state: State, number: int, cpu: Cpu, *results: Value) -> State:
        """A CPU is behind its operation; what is cached of a page that it will not use again is no matter."""
        place = cpu.place + 1
        left = self.left[number][place]
        tlb = tuple(entry if where in left else None for where, entry in enumerate(cpu.tlb))
        return state.with_cpu(number, Cpu(place, (*cpu.results, *results), cpu.buffer, tlb))

    # --- operations

    def _operate(self, state: State, number: int, cpu: Cpu, one: Operation) -> Iterator[State]:
        if one.what in DRAINING and cpu.buffer:
            return
        if one.accesses:
            yield from self._access(state, number, cpu, one)
        elif one.what in ("fence", "lock") or (one.what == "cr3" and self.test.global_pages):
            yield self._done(state, number, cpu)
        elif one.what == "invlpg":
            yield self._done(state, number, cpu.caching(one.where, None))
        elif one.what == "cr3":
            yield self._done(state, number, cpu._replace(tlb=(None,) * len(NAMES)))
        elif one.what == "send":
            yield self._sent(state, number, cpu, one)
        elif one.what == "wait":
            if not state.owed[number]:
                yield self._done(state, number, cpu)
        else:
            yield self._on_entry(state, number, cpu, one)

    def _sent(self, state: State, number: int, cpu: Cpu, one: Operation) -> State:
        others = [other for other in range(len(state.cpus)) if other != number]
        requests = state.requests | {(number, other, one.where) for other in others}
        owed = sum(1 << other for other in others)
        state = state._replace(requests=requests, owed=(*state.owed[:number], owed, *state.owed[number + 1 :]))
        return self._done(state, number, cpu)

    def _on_entry(self, state: State, number: int, cpu: Cpu, one: Operation) -> State:
        """An entry is loaded, stored, or both by a locked operation."""
        forwarded = next((store.value for store in reversed(cpu.buffer) if _is_entry(store, one.name)), None)
        found = forwarded if isinstance(forwarded, Entry) else state.entries[one.where]
        if one.what == "entry-load":
            return self._done(state, number, cpu, str(found))
        if one.what == "entry-store":
            assert one.entry is not None
            return self._stored(state, number, cpu, Store(one.name, one.entry))
        if one.flag:
            changed = found.changed(one.flag[1], one.flag[0] == "+")
            if one.what == "entry-change":
                return state.with_cpu(number, cpu._replace(inside=("change", changed)))
            state = state.storing(Store(one.name, changed))
            return self._done(state, number, cpu, int(one.flag[1] in found.flags))
        assert one.entry is not None
        if one.what == "entry-exchange" or found == one.expected:
            state = state.storing(Store(one.name, one.entry))
        return self._done(state, number, cpu, str(found))

    def _stored(self, state: State, number: int, cpu: Cpu, store: Store, *results: Value) -> State:
        """A plain store."""
        if not self.buffers:
            return self._done(state.storing(store), number, cpu, *results)
        return self._done(state, number, cpu._replace(buffer=(*cpu.buffer, store)), *results)

    # --- accesses

    def _access(self, state: State, number: int, cpu: Cpu, one: Operation) -> Iterator[State]:
        """An access through its page: by what is cached, or by a walk."""
        own = next((store.value for store in reversed(cpu.buffer) if _is_entry(store, one.name)), None)
        waits = own is not None and self.reading.order == "tso"
        cached, writes = cpu.tlb[one.where], one.what != "load"
        if waits and not self.reading.hits_pass:
            cached = None
        if cached is not None and writes and "W" not in cached.flags:
            yield self._fault(state, number, cpu, one)
        elif cached is not None and ("D" in cached.flags or not writes):
            yield self._hit(state, number, cpu, one, cached)
        elif not waits:
            yield self._walk(state, number, cpu, one, state.entries[one.where])
        elif self.reading.forwards and isinstance(own, Entry):
            used = own.changed("A", True).changed("D", True) if writes else own.changed("A", True)
            if "P" not in own.flags or used == own or (writes and "W" not in own.flags):
                yield self._walk(state, number, cpu, one, own)

    def _hit(self, state: State, number: int, cpu: Cpu, one: Operation, cached: Entry) -> State:
        """Through the TLB."""
        state, cpu = self._use(state, one, cached), cpu.caching(one.where, cached.changed("A", True))
        return self._translated(state, number, cpu, one, cached.frame)

    def _use(self, state: State, one: Operation, cached: Entry) -> State:
        """What was cached with A clear sets A when it is used first, if the entry still maps its frame."""
        entry = state.entries[one.where]
        if "A" in cached.flags or "P" not in entry.flags or entry.frame != cached.frame:
            return state
        return state.storing(Store(one.name, entry.changed("A", True)))

    def _walk(self, state: State, number: int, cpu: Cpu, one: Operation, entry: Entry) -> State:
        """By the tables: A, and D for a write, are set by a locked update; what refuses the access sets nothing."""
        writes = one.what != "load"
        if "P" not in entry.flags or (writes and "W" not in entry.flags):
            return self._fault(state, number, cpu, one)
        used = entry.changed("A", True).changed("D", True) if writes else entry.changed("A", True)
        if used != entry:
            state = state.storing(Store(one.name, used))
        return self._translated(state, number, cpu.caching(one.where, used), one, used.frame)

    def _fault(self, state: State, number: int, cpu: Cpu, one: Operation) -> State:
        """It drops what is cached of the page (4.10.4.1); the handler runs when all stores are visible (SDM 11.10)."""
        cpu = cpu.caching(one.where, None)._replace(inside=("fault", ""))
        if not self.reading.drains_slowly:
            for store in cpu.buffer:
                state = state.storing(store)
            cpu = cpu._replace(buffer=())
        return state.with_cpu(number, cpu)

    def _translated(self, state: State, number: int, cpu: Cpu, one: Operation, frame: str) -> State:
        if self.reading.apart:
            return state.with_cpu(number, cpu._replace(inside=("frame", frame)))
        return self._accessed(state, number, cpu, one, frame)

    def _accessed(self, state: State, number: int, cpu: Cpu, one: Operation, frame: str) -> State:
        """The access itself, to a frame; a load sees its own CPU's stores."""
        at = NAMES.index(frame)
        if one.what == "store":
            return self._stored(state, number, cpu, Store(frame, one.value), *([OK] if self.test.pages else []))
        own = (store.value for store in reversed(cpu.buffer) if store.name == frame and isinstance(store.value, int))
        value = next(own, state.words[at])
        if one.what == "exchange":
            state = state.storing(Store(frame, one.value))
        return self._done(state, number, cpu, value)


def _is_entry(store: Store, name: str) -> bool:
    return store.name == name and isinstance(store.value, Entry)
