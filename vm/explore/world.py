"""The state space of a litmus scenario under a policy: states, the moves out of each, and how to make them.

A *move* is one visible operation of one CPU with the choice it contains: an access through the tables
or through an entry that may be cached, a policy's micro-step (and whether a walker has set Accessed
in the entry it looks at), an instruction that the model carries out, the arrival of an IPI. After a
move its CPU runs on at full speed to its next visible operation. So a state is fixed between moves.

Time does not exist here: no timers, and every sleeper has slept long enough for `Sleepers`.
"""

from __future__ import annotations

from typing import Final

from kstack.base.errors import ScenarioError
from kstack.explore.choices import AccessChoices
from kstack.explore.components import Decomposition
from kstack.explore.dead_stack import Below, below, put_back
from kstack.explore.model.gate import Gate, Held, Touch, Visible, gate_of
from kstack.explore.model.lazy_tlb import LazyTlb
from kstack.explore.model.page_tables import GuestPageTables, managed_pages
from kstack.explore.model.store_buffers import StoreBuffers, passes
from kstack.explore.refusals import Refusals
from kstack.explore.running import FENCE, LocalRunner
from kstack.explore.saving import StateSaver
from kstack.explore.start import FoundBefore, NotReady, boot_litmus, get_ready
from kstack.explore.states import Move, State
from kstack.hw.cpu.state import ActivityState
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.machine import Machine
from kstack.run.booted import BootedScenario
from kstack.run.expected import ignored_kinds
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.sanitizer.findings import Finding
from kstack.schedule import RoundRobin
from kstack.stacks import Invlpgb, Policy, Tlbsync
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.oracle import Oracle
from kstack.x86.addresses import PAGE
from kstack.x86.registers import Gpr

_RSP: Final = int(Gpr.RSP)  # a plain integer, for the search's inner loops
WINDOW: Final = "window"
_BROADCASTS: Final = frozenset({"invlpgb", "tlbsync"})


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
        self.marks = programs
        assert self.session.oracle is not None
        self.oracle: Oracle = self.session.oracle
        self.ignored = ignored_kinds(found)
        self._scenario = scenario
        self.programs = get_ready(self.session, programs.ready)
        self._found_until_now("event `ready`")
        if not self.programs:
            raise NotReady(f"scenario {scenario}: its programs do not get ready")
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
        self.tables = GuestPageTables(self.machine.memory, mmus, pages, self.lazy, self.session.symbols.name)
        self.visible = visible
        visible.grown, visible.tables = False, frozenset(self.tables.frames)
        # Translations that are fixed, by root and linear page.
        self._frames: dict[tuple[int | None, int], int | None] = {}
        self.buffers = StoreBuffers(self.machine, self.runtime.executor, self.lazy, self.tables, modes.memory_order)
        self.refusals = Refusals(scenario, self.session.symbols, self.machine, self.tables, self.facts.ports)
        self.choices = AccessChoices(self.machine, self.lazy, self.tables, self.buffers, self.refusals, self.frame_of)
        self._runner = LocalRunner(self)
        self._close(pages)
        self.held: list[Held | None] = [None] * len(self.machine.cpus)
        self.below: list[Below | None] = [None] * len(self.machine.cpus)  # of those in an interrupt's handler
        for cpu in range(len(self.machine.cpus)):
            self.watch_returns(cpu)  # an earlier world of the same machine may have been left in one
        self.done = [cpu not in self.programs for cpu in range(len(self.machine.cpus))]
        for cpu in self.programs:
            self._runner.run_on(cpu)
        if self.finished:
            self.judge_end()
        self._found_until_now("visible operation")
        self._saver = StateSaver(self)
        self.exercised = 0
        self.judges_end = True  # at each move that is the last one

    # --- the beginning

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
            ways = len(self.choices.options(cpu, held)) * (2 if self.choices.pending(cpu, held) else 1)
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
            return not calls or not self._runner.is_begun(cpu) or not passes(calls[-1].step)
        return held.what != WINDOW

    def _make_visible(self, cpu: int) -> None:
        """A CPU's oldest store becomes visible; what has waited for the last one goes on."""
        self.buffers.commit(cpu)
        held = self.held[cpu]
        if held is not None and held.what == FENCE and not self.buffers.stores[cpu]:
            self.held[cpu] = None
            self._runner.run_on(cpu)

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
                self.exercised += self.choices.exercises(cpu, held)
                gate.option, gate.option_page = self.choices.option(cpu, held, move.choice), held.address >> 12
                accessed = move.choice >= len(self.choices.options(cpu, held))
                if accessed and (pending := self.choices.pending(cpu, held)) is not None:
                    self.choices.set_accessed(pending.word)
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
        self.refusals.check(cpu)
        if self.held[cpu] is None:
            self._runner.run_on(cpu)
        for thread in self.runtime.threads.values():
            thread.since = min(thread.since, 0)  # asleep for ever, or awake
        if self.judges_end and self.finished:
            self.judge_end()
        return self._first_finding(before)

    def _tell(self, cpu: int) -> None:
        """Tell the oracle of entries that guest code has stored."""
        for page in dict.fromkeys(self.tables.stored):
            self.oracle.guest_stored(cpu, page << 12, self.choices.entry(cpu, page << 12))

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
            self.watch_returns(cpu)

    def watch_returns(self, cpu: int) -> None:
        """Hear of a CPU's returns from events as long as something is to be put back there."""
        core = self.machine.cpus[cpu]
        core.hears_return.swap(None if self.below[cpu] is None else self._returned)
        core.watch_returns()

    def _returned(self, cpu: int) -> None:
        """A CPU has returned from an event."""
        found = self.below[cpu]
        if found is not None and self.machine.cpus[cpu].registers.gpr[_RSP] == found.pointer:
            put_back(self.machine.memory, found)
            self.below[cpu] = None
            self.watch_returns(cpu)

    def _forget(self, move: Move) -> None:
        """Some parts of the state will be others after a move: those of its CPU, of all if it invalidates on all."""
        held, calls = self.held[move.cpu], self.runtime.calls[move.cpu]
        broadcast = held is not None and held.what in _BROADCASTS
        broadcast = broadcast or (move.kind == "step" and bool(calls) and isinstance(calls[-1].step, Invlpgb | Tlbsync))
        self._saver.forget(range(len(self.machine.cpus)) if broadcast else (move.cpu,))

    def _first_finding(self, before: int) -> Finding | None:
        """The first of what the oracle has found since it had found so many."""
        machine = self.machine
        if machine.exit_port.code == self.facts.exits.panicked:
            self.oracle.panicked("see the run")
        new = [found for found in self.oracle.findings[before:] if found.kind.value not in self.ignored]
        return new[0] if new else None

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
        return self._saver.state()

    def become(self, state: State) -> None:
        """Go back, or over, to a state of this world."""
        self._saver.become(state)

    def key(self, state: State) -> int:
        """What makes two states the same: all that decides what can happen; no times, no counts."""
        return self.decomposition.key(state)

    @property
    def decomposition(self) -> Decomposition:
        """Cuts its states into components."""
        return self._saver.decomposition
