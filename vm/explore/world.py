"""The state space of a litmus scenario under a policy: states, the moves out of each, and how to make them.

A *move* is one visible operation of one CPU with the choice it contains: an access through the tables
or through an entry that may be cached, a policy's micro-step (and whether a walker has set Accessed
in the entry it looks at), an instruction that the model carries out, the arrival of an IPI. After a
move its CPU runs on at full speed to its next visible operation. So a state is fixed between moves.

Time does not exist here: no timers, and every sleeper has slept long enough for `Sleepers`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final, NamedTuple, NoReturn

from kstack.base.errors import ConfigError, ScenarioError
from kstack.explore.dead_stack import Below, below, put_back
from kstack.explore.model.gate import Gate, Held, Touch, Visible, gate_of
from kstack.explore.model.lazy_tlb import How, LazyTlb, Option
from kstack.explore.model.page_tables import Tables, managed_pages
from kstack.explore.model.store_buffers import StoreBuffers, drains, passes, plain
from kstack.hw.apic.apic import DeliveryMode
from kstack.hw.cpu.decode import decode
from kstack.hw.cpu.state import ActivityState
from kstack.hw.engine import Registers
from kstack.hw.mmu.walk import Attempt, forbidding
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.machine import End, Machine, MachineSnapshot
from kstack.run.booted import BootedScenario
from kstack.run.expected import ignored_kinds
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.run.spec import boot
from kstack.sanitizer.findings import Finding
from kstack.sanitizer.frames import Frame
from kstack.schedule import RoundRobin
from kstack.stacks import Invlpgb, Page, Policy, Tlbsync
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.execute import Pending
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.oracle import Oracle
from kstack.x86.addresses import PAGE
from kstack.x86.entries import A
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr

_RSP: Final = int(Gpr.RSP)  # a plain integer, for the search's inner loops
FENCE: Final = "fence"
WINDOW: Final = "window"
_BROADCASTS: Final = frozenset({"invlpgb", "tlbsync"})
USER: Final = 3  # privilege level
_TAKEN_WITH_IF: Final = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)
_CLOCKS: Final = frozenset({"rdtsc", "rdtscp", "rdpmc"})
_INVALIDATES: Final = frozenset({"int1", "int3", "into", "invd", "invlpg", "invlpgb", "invpcid"})
LOCAL: Final = 200_000  # instructions a CPU may run between two visible operations
TO_READY: Final = 3_000_000


class Grown(Exception):
    """More is visible than was known: what has been explored so far was too coarse, so begin again.

    Args:
        frames: all that is known to be visible now (frame numbers, sorted).
    """

    def __init__(self, frames: tuple[int, ...] = ()) -> None:
        super().__init__(frames)
        self.frames = frames


class Move(NamedTuple):
    """One visible operation.

    Attributes:
        cpu: whose.
        kind: `access`, `step`, `instruction`, `interrupt`, or `store` for the moment at which the oldest store
            in its buffer becomes visible.
        choice: which of its outcomes, 0 for the first (the tables; A as it is). Of an access that loads an entry, those in
            which some walker has set A come behind those in which none has.
    """

    cpu: int
    kind: str
    choice: int = 0


class State(NamedTuple):
    """Everything, immutable; `memory` and `frames` are what differs from the root state.

    Parts that a move does not touch are the same objects in the state before and the one after it.
    """

    memory: tuple[tuple[int, bytes | None], ...]
    rest: MachineSnapshot
    runtime: Any
    lazy: Any
    frames: tuple[tuple[int, Frame[Page]], ...]
    cpu_keys: tuple[bytes, ...]
    threads: tuple[int, ...]
    held: tuple[Held | None, ...]
    done: tuple[bool, ...]
    double_faults: tuple[tuple[int, tuple[int, bool]], ...]
    stores: tuple[tuple[Pending, ...], ...]
    below: tuple[Below | None, ...]


def boot_litmus(scenario: str, policy: type[Policy], modes: Modes) -> BootedScenario:
    """Boot the guest of a world.

    Raises:
        ScenarioError: the scenario is no litmus scenario.
        ConfigError: a mode cannot be explored.
    """
    found = usual_guests().scenario(scenario)
    if not found.litmus:
        raise ScenarioError(
            f"scenario {scenario} is not made to be explored (its TOML has no litmus = true); kstack scenarios lists those that are"
        )
    if modes.dirty_rewalk != "yes":
        raise ConfigError("dirty-rewalk=no cannot be explored; kstack compare and kstack run can have it")
    if modes.capacity:
        raise ConfigError("tlb=capacity cannot be explored: every fill and eviction is tried; leave it out")
    return boot(found, modes=replace(modes.resolved(policy.delivery), tlb="retain", memory_order="sc"))


class FoundBefore(ScenarioError):
    """A finding before a move could be made: there is nothing left to explore.

    Args:
        scenario: its id.
        what: before which of the programs' `event`s or operations it is.
        finding: the first.
    """

    def __init__(self, scenario: str, what: str, finding: Finding) -> None:
        super().__init__(f"scenario {scenario}: before its programs' {what}, {finding.kind.value}: {finding.text}")
        self.finding = finding


class NotReady(ScenarioError):
    """The programs of a scenario do not get ready."""


class World:
    """A litmus scenario under a policy, explored from the moment at which all its programs are ready.

    Args:
        scenario: its id; its kernel runs programs (`kstack.kernels.kernel.Programs`).
        policy: the policy's class.
        modes: architecture modes.
        visible: what is known to be visible from an earlier attempt.
        booted: its guest, from an earlier world, which ends; None boots it.

    Raises:
        ScenarioError: the scenario is no litmus scenario.
        NotReady: its programs do not get ready.
        FoundBefore: something is found until then, or before their first visible operation.
    """

    def __init__(
        self,
        scenario: str,
        policy: type[Policy],
        modes: Modes,
        visible: Visible,
        booted: BootedScenario | None = None,
    ) -> None:
        found, modes = usual_guests().scenario(scenario), modes.resolved(policy.delivery)
        self.booted = booted or boot_litmus(scenario, policy, modes)
        self._open(self.booted.machine)
        self.session: Session = self.booted.session(policy(), RoundRobin(1), RunOptions(pool=PoolConfig()))
        self.machine, self.runtime = self.session.machine, self.session.runtime
        self.facts, programs = self.session.kernel.facts, self.session.kernel.facts.programs
        if programs is None:
            raise ScenarioError(
                f"scenario {scenario} cannot be explored: its kernel runs no programs of litmus scenarios"
            )
        self._marks = programs
        assert self.session.oracle is not None
        self.oracle: Oracle = self.session.oracle
        self.ignored = ignored_kinds(found)
        self._scenario = scenario
        self.programs = self._get_ready()
        stacks = (
            page.address >> 12
            for thread in self.runtime.threads.values()
            if thread.id >= programs.first_thread
            for page in thread.pages
        )
        pages = managed_pages(found.managed, self.session.symbols).union(stacks)
        self.managed = pages  # linear page numbers; asked for membership, or sorted
        self.lazy = LazyTlb(len(self.machine.cpus), modes.speculation, lambda address: address >> 12 in pages)
        mmus = [cpu.mmu for cpu in self.machine.cpus]
        self.tables = Tables(self.machine.memory, mmus, pages, self.lazy, self.session.symbols.name)
        self.visible = visible
        visible.grown, visible.tables = False, frozenset(self.tables.frames)
        self._frames: dict[
            tuple[int | None, int], int | None
        ] = {}  # by root and linear page: translations that are fixed
        self.buffers = StoreBuffers(self.machine, self.runtime.executor, self.lazy, self.tables, modes.memory_order)
        self._close(pages)
        self.held: list[Held | None] = [None] * len(self.machine.cpus)
        self.below: list[Below | None] = [None] * len(self.machine.cpus)  # of those in an interrupt's handler
        for cpu in range(len(self.machine.cpus)):
            self._watch_returns(cpu)  # an earlier world of the same machine may have been left in one
        self.done = [cpu not in self.programs for cpu in range(len(self.machine.cpus))]
        for cpu in self.programs:
            self._run_on(cpu)
        if self.finished:
            self.judge_end()
        self._found_until_now("visible operation")
        self._base = self.machine.memory.snapshot()
        self._digests: dict[bytes, bytes] = {}
        self._lives = dict(self.oracle.frames)
        self._parts: list[Any] = [None] * len(self.machine.cpus)  # of each CPU, as it was when it ran last
        self._calls: list[Any] = [None] * len(self.machine.cpus)
        self._devices: Any = None
        self._ports = -1  # accesses to them until then
        self._changed: list[int] = []  # frames that differ from the root, but for those that are dirty
        self._keys: list[bytes] = [b""] * len(self.machine.cpus)
        self.exercised = 0
        self.judges_end = True  # at each move that is the last one

    # --- the beginning

    def _get_ready(self) -> list[int]:
        """Run every CPU to its event `ready`; the CPUs that have a program."""
        machine, ready = self.machine, []
        while machine.time < TO_READY:
            running = [cpu for cpu in machine.runnable() if cpu not in ready]
            if not running or machine.end() is not None:
                break
            for cpu in running:
                if cpu not in ready:
                    machine.run(cpu, 50)
                    ready += [
                        who for _, who, name in self.session.events if name == self._marks.ready and who not in ready
                    ]
        self._found_until_now("event `ready`")
        if not ready:
            raise NotReady(f"scenario {self._scenario}: its programs do not get ready")
        return sorted(ready)

    def _found_until_now(self, what: str) -> None:
        """Find out whether anything is wrong before there is a move to make.

        Raises:
            FoundBefore: it is.
        """
        finding = self._first_finding(0)
        if finding is not None:
            raise FoundBefore(self._scenario, what, finding)

    @staticmethod
    def _open(machine: Machine) -> None:
        """Take the gates of an earlier world down."""
        machine.hold_ipis = False
        for cpu in machine.cpus:
            cpu.mmu.translator = None

    def _close(self, pages: frozenset[int]) -> None:
        """Put up the gates."""
        machine = self.machine
        machine.hold_ipis = True
        self.runtime.executor.lazy = self.lazy
        self.runtime.executor.hears_touch.swap(
            lambda cpu, address: self.visible.note(address >> 12, Touch.MANAGED, 1 << cpu)
        )
        for cpu in machine.cpus:
            cpu.mmu.translator = self.gate(cpu.index)
            cpu.mmu.drop_all(True)
            cpu.mmu.softmmu.flush()
            cpu.engine.flush()
        for page in sorted(pages):
            leaf = machine.cpus[0].mmu.leaf_address(page << 12)
            if leaf is not None:
                self.lazy.entry_is(page, machine.memory.read64(leaf))

    def gate(self, cpu: int) -> Gate:
        """A gate for a CPU."""
        return Gate(cpu, self.visible, self.lazy, lambda address: self.frame_of(cpu, address))

    def frame_of(self, cpu: int, address: int) -> int | None:
        """The frame number of a linear address that is not managed, whose translation is fixed; None where there is none."""
        mmu, memory = self.machine.cpus[cpu].mmu, self.machine.memory
        place = (mmu.table, address >> 12)
        if place not in self._frames:
            hears = memory.hears_touch.swap(None)
            physical = mmu.resolve(address)
            memory.hears_touch.swap(hears)
            self._frames[place] = None if physical is None else physical >> 12
        return self._frames[place]

    # --- moving

    def moves(self) -> list[Move]:
        """All that can happen next."""
        found = [move for cpu in self.programs for move in self.moves_of(cpu)]
        return found + [move for cpu in range(len(self.machine.cpus)) for move in self.interrupts_of(cpu)]

    def moves_of(self, cpu: int) -> list[Move]:
        """All that a CPU's program can do next."""
        found: list[Move] = []
        held, waiting = self.held[cpu], self.buffers.stores[cpu]
        if held is not None and not (waiting and self._waits_for_stores(cpu, held)):
            found += self._moves_of(cpu, held)
        if waiting:
            found.append(Move(cpu, "store"))
        return found

    def interrupts_of(self, cpu: int) -> list[Move]:
        """The arrival at a CPU of the first IPI that is on its way there, if it can be taken."""
        core, registers = self.machine.cpus[cpu], self.machine.cpus[cpu].registers
        if not registers.interrupt_flag or registers.shadow or self.buffers.stores[cpu]:
            return []
        if core.state not in (ActivityState.RUNNING, ActivityState.HALTED):
            return []
        return [] if self.next_ipi(cpu) is None else [Move(cpu, "interrupt")]

    def next_ipi(self, cpu: int) -> int | None:
        """Which of the machine's IPIs arrives next at a CPU, None if none is on its way there."""
        return next((index for index, ipi in enumerate(self.machine.ipis) if ipi.target == cpu), None)

    def _moves_of(self, cpu: int, held: Held) -> list[Move]:
        if held.what == "access":
            ways = len(self.options(cpu, held)) * (2 if self._pending(cpu, held) else 1)
            return [Move(cpu, "access", choice) for choice in range(ways)]
        if held.what == FENCE:
            return []
        if held.what != "out":
            return [Move(cpu, "instruction")]
        calls = self.runtime.calls[cpu]
        if not calls:
            return [Move(cpu, "step")]
        executor, step = self.runtime.executor, calls[-1].step
        if executor.waits(cpu, calls[-1], step):
            return []
        pending = executor.pending(cpu, step) and not self.buffers.has_entry(cpu, step.page.address)
        return [Move(cpu, "step", choice) for choice in range(2 if pending else 1)]

    # --- store buffers

    def _waits_for_stores(self, cpu: int, held: Held) -> bool:
        """Whether a CPU's operation waits until all can see what it has stored."""
        buffers = self.buffers
        if not buffers.on:
            return True  # the store of a read-modify-write comes right behind its load
        if held.what == "access":
            return buffers.plain(cpu, held.address) is None
        if held.what == "out":
            calls = self.runtime.calls[cpu]
            return not calls or not self._is_begun(cpu) or not passes(calls[-1].step)
        return held.what != WINDOW

    def _make_visible(self, cpu: int) -> None:
        """A CPU's oldest store becomes visible; what has waited for the last one goes on."""
        self.buffers.commit(cpu)
        held = self.held[cpu]
        if held is not None and held.what == FENCE and not self.buffers.stores[cpu]:
            self.held[cpu] = None
            self._run_on(cpu)

    def options(self, cpu: int, held: Held) -> list[Option]:
        """How an access can go."""
        if not self.lazy.manages(held.address):
            return [Option(How.WALK)]
        core = self.machine.cpus[cpu]
        leaf = core.mmu.leaf_address(held.address)
        entry = 0 if leaf is None else self.machine.memory.read64(leaf)
        user = core.registers.cpl == USER
        smap = core.mmu.smap and not user and not core.registers.rflags & Flags.AC
        write = held.write or self.buffers.is_locked(cpu)  # which loads and stores by one translation
        denies = forbidding(Attempt(write, False, user, smap), core.mmu.control)
        walks = not self.buffers.holds_back(cpu, held.address)
        return self.lazy.options(cpu, held.address >> 12, entry, write, denies, walks)

    def option(self, cpu: int, held: Held, choice: int) -> Option:
        """How an access goes by a choice of `Move`."""
        options = self.options(cpu, held)
        return options[choice % len(options)]

    def _pending(self, cpu: int, held: Held) -> tuple[int, int] | None:
        """The entry (its address, a managed page) that an access loads and of which it shows now if A has been set."""
        if self.lazy.manages(held.address):
            return None
        frame = self.frame_of(cpu, held.address)
        if frame not in self.tables.frames:
            return None
        code = self.buffers.code(cpu)
        operand = plain(code, held.address)
        if operand is not None and operand.only_stores:
            return None
        physical = frame << 12 | held.address & 0xFFF
        entries = [
            (word, page)
            for word, page in self.tables.pages_of(physical, 8 if operand is None else operand.width)
            if self.lazy.is_pending(self.machine.memory.read64(word)) and not self.buffers.has_word(cpu, word)
        ]
        if len({word for word, _ in entries}) > 1:
            self._refuse(cpu, "loads several entries at once")
        return entries[0] if entries else None

    def _set_accessed(self, word: int) -> None:
        """Some CPU's walker has set Accessed, speculatively, in the entry at a physical address."""
        memory = self.machine.memory
        entry = memory.read64(word)
        memory.exchange_quietly(word, entry, entry | A)
        for page in self.tables.leaves[word]:
            self.lazy.entry_is(page, entry | A)

    def _refuse(self, cpu: int, what: str) -> NoReturn:
        place = self.session.symbols.name(self.machine.cpus[cpu].registers.rip)
        raise ScenarioError(f"scenario {self._scenario} cannot be explored: CPU {cpu} {what}, at {place}")

    def _exercises(self, cpu: int, held: Held) -> bool:
        """Whether an access could have gone two ways had nothing ever been invalidated."""
        if not self.lazy.manages(held.address):
            return False
        leaf = self.machine.cpus[cpu].mmu.leaf_address(held.address)
        entry = 0 if leaf is None else self.machine.memory.read64(leaf)
        return self.lazy.is_exercised(cpu, held.address >> 12, entry)

    def make(self, move: Move) -> Finding | None:
        """Make a move; the first finding that it brings, if any."""
        cpu, machine = move.cpu, self.machine
        core = machine.cpus[cpu]
        before = len(self.oracle.findings)
        self._forget(move)
        self.tables.stored.clear()
        self.oracle.sanitizer.last_stale = None
        if move.kind == "store":
            self._make_visible(cpu)
            self._tell(cpu)
            return self._first_finding(before)
        held, self.held[cpu] = self.held[cpu], None
        if move.kind == "interrupt":
            arriving = self.next_ipi(cpu)
            assert arriving is not None
            self._begin_interrupt(cpu)
            machine.deliver_ipi(arriving)
            machine.run(cpu, 1)
        else:
            assert held is not None
            gate = gate_of(core)
            if move.kind == "access":
                self.exercised += self._exercises(cpu, held)
                gate.option, gate.option_page = self.option(cpu, held, move.choice), held.address >> 12
                pending = self._pending(cpu, held) if move.choice >= len(self.options(cpu, held)) else None
                if pending is not None:
                    self._set_accessed(pending[0])
            elif move.kind == "step" and move.choice:
                self.runtime.executor.set_accessed(cpu, self.runtime.calls[cpu][-1].step.page)
            faults = core.counts.exceptions
            gate.granted, gate.writes = True, move.kind == "access" and self.buffers.is_locked(cpu)
            if move.kind == "access":
                self.buffers.access(cpu, held.address)
            elif held.what != WINDOW:  # what comes behind the boundary is an operation of its own
                self.buffers.step(cpu)
            gate.granted, gate.option, gate.writes = False, None, False
            if core.counts.exceptions != faults and self.buffers.stores[cpu]:
                self.held[cpu] = Held(FENCE)  # the handler waits until all can see what its CPU has stored
        self._tell(cpu)
        self._check(cpu)
        if self.held[cpu] is None:
            self._run_on(cpu)
        for thread in self.runtime.threads.values():
            thread.since = min(thread.since, 0)  # asleep for ever, or awake
        if self.judges_end and self.finished:
            self.judge_end()
        return self._first_finding(before)

    def _tell(self, cpu: int) -> None:
        """Tell the oracle of entries that guest code has stored."""
        for page in dict.fromkeys(self.tables.stored):
            leaf = self.machine.cpus[cpu].mmu.leaf_address(page << 12)
            self.oracle.guest_stored(cpu, page << 12, 0 if leaf is None else self.machine.memory.read64(leaf))

    def _check(self, cpu: int) -> None:
        """Whether what a CPU has just done can be explored.

        Raises:
            ScenarioError: it cannot.
        """
        gate = gate_of(self.machine.cpus[cpu])
        if gate.refused:
            self._refuse(cpu, gate.refused)
        for ipi in self.machine.ipis:
            if ipi.mode not in _TAKEN_WITH_IF:
                self._refuse(ipi.source, f"sends {ipi.mode.name}, and only interrupts arrive at any moment here")
        if self.machine.apics[cpu].next_deadline() is not None:
            self._refuse(cpu, "starts its timer, and there is no time here")
        table = self.machine.cpus[cpu].mmu.table
        if table is not None and table not in self.tables.roots:
            self._refuse(cpu, f"loads CR3 with the table {table:#x}, which no CPU had when its programs began")

    def _check_held(self, cpu: int, what: str) -> None:
        """Whether an instruction before which a CPU stands can be explored.

        Raises:
            ScenarioError: it cannot: it reads the clock, or reaches a device, which is in no state's key.
        """
        if what in _CLOCKS:
            self._refuse(cpu, "reads the clock, and there is no time here")
        if what.startswith(("in", "out")) and what not in _INVALIDATES:
            registers = self.machine.cpus[cpu].registers
            instruction = decode(self.machine.cpus[cpu].linear.code(registers.rip), registers.bits)
            assert instruction is not None
            port = instruction.immediates[0] & 0xFF if instruction.immediates else registers.gpr[Gpr.RDX] & 0xFFFF
            if what not in ("in", "out") or port not in self.facts.ports:
                self._refuse(cpu, f"reaches port {port:#x}, and devices are not explored")

    def judge_end(self) -> Finding | None:
        """Look for frames that are lost when all programs have come to their end: the first finding, if any."""
        before = len(self.oracle.findings)
        self.oracle.finish([], self.runtime.variables)
        return self._first_finding(before)

    def _begin_interrupt(self, cpu: int) -> None:
        """Keep what lies below a CPU's stack pointer until it returns; an interrupt inside another one's handler does not."""
        if self.below[cpu] is not None:
            return
        found = below(self.machine.cpus[cpu], self.machine.memory)
        shared = found is not None and found.address // PAGE in self.visible.frames  # others may store there meanwhile
        if not shared:
            self.below[cpu] = found
            self._watch_returns(cpu)

    def _watch_returns(self, cpu: int) -> None:
        core = self.machine.cpus[cpu]
        core.hears_return.swap(None if self.below[cpu] is None else self._returned)
        core.watch_returns()

    def _returned(self, cpu: int) -> None:
        """A CPU has returned from an event."""
        found = self.below[cpu]
        if found is not None and self.machine.cpus[cpu].registers.gpr[_RSP] == found.pointer:
            put_back(self.machine.memory, found)
            self.below[cpu] = None
            self._watch_returns(cpu)

    def _forget(self, move: Move) -> None:
        """Some parts of the state will be others after a move: those of its CPU, of all if it invalidates on all."""
        held, calls = self.held[move.cpu], self.runtime.calls[move.cpu]
        broadcast = held is not None and held.what in _BROADCASTS
        broadcast = broadcast or (move.kind == "step" and bool(calls) and isinstance(calls[-1].step, Invlpgb | Tlbsync))
        for cpu in range(len(self._parts)) if broadcast else (move.cpu,):
            self._parts[cpu] = self._calls[cpu] = None

    def _first_finding(self, before: int) -> Finding | None:
        """The first of what the oracle has found since it had found so many."""
        machine = self.machine
        if machine.exit_port.code == self.facts.exits.panicked:
            self.oracle.panicked("see the run")
        new = [found for found in self.oracle.findings[before:] if found.kind.value not in self.ignored]
        return new[0] if new else None

    def _run_on(self, cpu: int) -> None:
        """Run a CPU to its next visible operation; what nobody can tell is done on the way."""
        core, machine, left = self.machine.cpus[cpu], self.machine, LOCAL
        gate = gate_of(core)
        self.visible.recent.clear()
        while left > 0 and not self._rests(cpu):
            gate.held = None
            events = len(self.session.events)
            watched = bool(self.buffers.stores[cpu])
            if watched and drains(self.buffers.code(cpu)):
                self.held[cpu] = Held(FENCE)
                return
            left -= max(1, machine.run(cpu, 1 if self.done[cpu] or watched else left).elapsed)
            self._check(cpu)
            self.done[cpu] = self.done[cpu] or self._ends(cpu, events)
            if gate.held is None:
                if core.state is not ActivityState.RUNNING or machine.end() is not None:
                    break
                continue
            self._check_held(cpu, gate.held.what)
            if gate.held.what != "out" or not self._is_private(cpu):
                self.held[cpu] = gate.held
                return
            gate.granted = True
            machine.run(cpu, 1)
            gate.granted = False
            self.done[cpu] = self.done[cpu] or self._ends(cpu, events)
        if left > 0:
            return
        own = [thread for thread in self.runtime.threads.values() if thread.id < self._marks.first_thread]
        recent = self.visible.recent.items()
        shared = [frame for frame, page in recent if not any(thread.contains(page << 12) for thread in own)]
        if not shared:
            raise ScenarioError(f"CPU {cpu} runs for {LOCAL} instructions without a visible operation")
        for frame in shared:  # it waits for one of these to change
            self.visible.add(frame)
        raise Grown(tuple(sorted(self.visible.frames)))

    def _rests(self, cpu: int) -> bool:
        """Whether a CPU's program has ended, and no interrupt handler (which has IF clear) runs there."""
        return self.done[cpu] and self.machine.cpus[cpu].registers.interrupt_flag

    def _ends(self, cpu: int, events: int) -> bool:
        names = [name for _, who, name in self.session.events[events:] if who == cpu]
        wrong = self._marks.wrong in names
        if wrong or self._exits_badly():
            self.oracle.check_failed(cpu)
        return wrong or self._marks.done in names or self.machine.end() is End.SHUTDOWN

    def _exits_badly(self) -> bool:
        """Whether the guest has said itself, by what it wrote to the debug-exit port, that something is wrong."""
        code, exits = self.machine.exit_port.code, self.facts.exits
        return code is not None and code not in exits.passed and code != exits.panicked

    def _is_private(self, cpu: int) -> bool:
        """Whether an OUT is one that nobody else can tell: an event, or the beginning of a hook."""
        hook = self.session.kernel.asks(cpu)
        if hook is None:
            return True  # an event, or the console, when the guest panics
        return not self._is_begun(cpu) and hook not in (HookKind.SWITCH_IN, HookKind.SWITCH_OUT)

    def _is_begun(self, cpu: int) -> bool:
        """Whether the OUT before which a CPU stands makes the next step of a hook that has begun."""
        registers, calls = self.machine.cpus[cpu].registers, self.runtime.calls[cpu]
        return bool(calls) and calls[-1].key == (registers.rip, registers.gpr[_RSP])

    @property
    def stronger(self) -> tuple[str, ...]:
        """Where in the guest something was one operation so far though hardware may make several of it."""
        return tuple(sorted(self.session.symbols.name(rip) for rip in self.buffers.stronger))

    @property
    def finished(self) -> bool:
        """All programs have come to their end."""
        return all(self.done) and not any(self.buffers.stores)

    # --- states

    def state(self) -> State:
        """The present state."""
        machine, oracle = self.machine, self.oracle
        touched = machine.memory.dirty.union(self._changed)
        snapshot = machine.snapshot(self._parts, self._known_devices())
        runtime = self.runtime.snapshot(self._calls)
        for cpu, part in enumerate(snapshot.cpus):
            if self._parts[cpu] is None:
                self._keys[cpu] = _cpu_key(part)
        self._parts, self._calls = list(snapshot.cpus), list(runtime[0])
        self._devices, self._ports = snapshot.devices, machine.port_accesses
        base, pages = self._base, snapshot.memory
        changed = tuple(
            (frame, pages.get(frame))
            for frame in sorted(touched)
            if base.get(frame) is not pages.get(frame) and base.get(frame) != pages.get(frame)
        )
        self._changed = [frame for frame, _ in changed]
        lives = self._lives
        return State(
            changed,
            snapshot._replace(memory={}),
            runtime,
            self.lazy.state(),
            tuple((number, frame) for number, frame in oracle.frames.items() if frame != lives[number]),
            tuple(self._keys),
            tuple(oracle.threads),
            tuple(self.held),
            tuple(self.done),
            tuple(sorted(oracle.double_faults.items())),
            tuple(self.buffers.stores),
            tuple(self.below),
        )

    def _known_devices(self) -> Any:
        """The devices' part of the last state, if they are still in it; a timer that runs changes them."""
        untouched = self.machine.port_accesses == self._ports and self.machine.pit.next_deadline() is None
        return self._devices if untouched else None

    def become(self, state: State) -> None:
        """Go back, or over, to a state of this world."""
        pages = dict(self._base)
        for frame, data in state.memory:
            if data is None:
                pages.pop(frame, None)
            else:
                pages[frame] = data
        frames = [frame for frame, _ in state.memory]
        rest = state.rest._replace(memory=pages)
        self.machine.restore(rest, self._parts, (*self._changed, *frames), self._known_devices())
        self._changed, self._devices, self._ports = frames, rest.devices, self.machine.port_accesses
        self.runtime.restore(state.runtime, self._calls)
        self._parts, self._calls, self._keys = list(state.rest.cpus), list(state.runtime[0]), list(state.cpu_keys)
        self.lazy.restore(state.lazy)
        oracle = self.oracle
        oracle.frames = {**self._lives, **dict(state.frames)}
        oracle.threads = {thread: self.runtime.threads[thread] for thread in state.threads}
        for thread in oracle.threads.values():
            oracle.areas.add(thread)
        oracle.findings.clear()
        oracle.sanitizer.last_use = ()
        oracle.double_faults = dict(state.double_faults)
        oracle.leaked.clear()  # what was reported, and counted, on other paths
        oracle.drift.clear()
        self.session.events.clear()
        self.held, self.done = list(state.held), list(state.done)
        self.buffers.stores = list(state.stores)
        for cpu, found in enumerate(state.below):
            if found is not self.below[cpu]:
                self.below[cpu] = found
                self._watch_returns(cpu)

    def key(self, state: State) -> bytes:
        """What makes two states the same: all that decides what can happen; no times, no counts."""
        whole = hashlib.blake2b(b"".join(state.cpu_keys), digest_size=16)
        for frame, data in state.memory:
            whole.update(frame.to_bytes(8, "little") + self._digest(data or b""))
        ghost = tuple((number, life.state.name, life.owner, life.previous) for number, life in state.frames)
        ipis = sorted(state.rest.ipis, key=lambda ipi: ipi.target)  # in order for each target
        way = (ipis, sorted(state.rest.broadcast, key=lambda request: request[0]))
        rest = (way, self.runtime.key(state.runtime), state.lazy[0], ghost, state.held, state.done, state.double_faults)
        whole.update(repr((*rest, state.stores, state.below)).encode())
        return whole.digest()

    def _digest(self, data: bytes) -> bytes:
        found = self._digests.get(data)
        if found is None:
            found = self._digests[data] = hashlib.blake2b(data, digest_size=16).digest()
        return found


def _cpu_key(part: Any) -> bytes:
    """What decides how a CPU goes on, of its part of a snapshot: registers, MSRs, APIC, state and NMI."""
    registers, _, msrs, apic, _, running, _ = part
    whole = hashlib.blake2b(Registers.canonical_of(registers), digest_size=16)
    whole.update(repr((msrs, apic, running[:3])).encode())
    return whole.digest()
