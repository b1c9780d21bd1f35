"""One run: a machine, a schedule, a policy and the oracle, put together. Every tool above speaks to this.

A scenario's run boots first, round robin, until the guest marks the event `booted`, with all CPUs up
and no thread yet; from there (the same state for every policy and schedule) its own schedule decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from kstack.base.errors import ConfigError, ScenarioError
from kstack.hw.cpu.state import SliceEnd
from kstack.hw.instruments import Hook, Hooks
from kstack.hw.modes import Modes
from kstack.kernels.kstack.guest import KstackKernel
from kstack.load import Symbols, load
from kstack.machine import FOR_EVER, End, Machine, MachineConfig, MachineSnapshot, Slice
from kstack.run.adversary import Adversary
from kstack.run.ending import GUEST_FAILED, GUEST_PANICKED, GUEST_PASSED, PANIC, Ending, last_words
from kstack.run.saved import MachineState, Prefix, Saves, SessionState, attributes_of, can_save, set_attributes
from kstack.sanitizer.findings import Finding, Kind
from kstack.schedule import Choice, Exhausted, RoundRobin, Scheduler, View
from kstack.stacks.host.call import HookCall, StepCounts
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.host.runtime import StackRuntime
from kstack.stacks.measure.usage import Usage, UsageSummary
from kstack.stacks.oracle import Oracle
from kstack.stacks.policy import Policy

BOOT_QUANTUM: Final = 1000
BOOTED: Final = "booted"
BOUND: Final = "bound"  # of virtual time
WORK: Final = "bound of host work"
IDLE_WARPS: Final = 64
BOOT_LIMIT: Final = 50_000_000


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        ended: `exit`, `shutdown`, `asleep`, `deadlock`, `bound`, `bound of host work`, `finding`, or `unfinished` where a recording was cut off.
        exit_value: what the guest wrote to the debug-exit port, or None.
        time: units of virtual time since reset.
        serial: everything the guest printed.
        findings: what the oracle found, in order.
        exercised: accesses that could have gone two ways had nothing ever been invalidated.
        stack_walks: page walks that cached a translation of a stack page.
        unmaps: present entries of living threads that the policy cleared or changed.
        state_hash: of the machine at the end; empty where the options want none.
        counts: what the policy did.
        kib_per_thread: averaged over time, None without a policy.
        stuck: why a script was not followed to its end, or None.
        cpus: exact counts per CPU, since reset.
        usage: memory, depths, pools and faults, from the run's start on; None without a policy.
        reason: why it has ended, in a sentence.
        told: what the guest has set up and is not modelled, in sentences.
    """

    ended: str
    exit_value: int | None
    time: int
    serial: str
    findings: tuple[Finding, ...]
    exercised: int
    stack_walks: int
    unmaps: int
    state_hash: str
    counts: StepCounts
    kib_per_thread: float | None
    stuck: str | None
    cpus: tuple[dict[str, Any], ...]
    usage: UsageSummary | None = None
    reason: str = ""
    told: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """The process exit code that `kstack run` gives for this.

        Of a guest that has written to the debug-exit port: 0 for the values 0 and 0x10, 3 for 0x12, 1 for any other.
        """
        if self.ended == "shutdown" or self.exit_value == GUEST_PANICKED:
            return 3
        if self.findings:
            return 1
        if self.ended == "exit":
            return 0 if self.exit_value in GUEST_PASSED else 1
        return 4 if self.ended in (BOUND, WORK, "unfinished") else 3

    def without(self, expected: Collection[str]) -> RunResult:
        """This result less the kinds of findings that its scenario expects."""
        return replace(self, findings=tuple(found for found in self.findings if found.kind.value not in expected))


_NOBODY: Final[frozenset[int]] = frozenset()


@dataclass(frozen=True)
class RunOptions:
    """How a session runs.

    Attributes:
        max_time: units of virtual time from the session's start.
        max_work: units of the host's work (`Machine.work`) from the run's start; None for no bound.
        stop_at_finding: end at the first finding that is not ignored.
        pool: how page pools behave.
        adversary: seed of speculative fills and evictions, in the mode tlb=adversarial.
        undisturbed: there are none of these, whatever the mode: a run that is measured, not judged.
        hashed: give the result a state hash, which costs as much as a few hundred instructions.
        ignored: kinds of findings at which it does not end.
        exact_pools: refuse pools for which the guest has not enough pages; else they get what there is.
        strict: a guest that sets up what is not modelled (kstack.hw.cpu.declared) ends there.
    """

    max_time: int = 100_000_000
    stop_at_finding: bool = False
    pool: PoolConfig = field(default_factory=PoolConfig)
    adversary: int = 0
    undisturbed: bool = False
    hashed: bool = True
    ignored: frozenset[str] = frozenset()
    exact_pools: bool = False
    strict: bool = False
    max_work: int | None = None


class Advances(Protocol):
    """Who runs the machine in a session's place."""

    def advance(self, cpu: int, units: int) -> Slice:
        """As `Machine.run`."""
        ...

    @property
    def pending(self) -> bool:
        """Whether something will still happen by itself."""
        ...

    @property
    def due(self) -> int | None:
        """Virtual time at which something happens next, whoever runs then; None if nothing does."""
        ...

    def come(self) -> None:
        """Time has jumped, perhaps to there; every CPU sleeps."""
        ...


class Writer(Protocol):
    """Who writes into a session's machine from outside, at places of its run."""

    def due(self) -> bool:
        """Make all changes whose place this is; whether there were any."""
        ...

    def until(self, units: int) -> int:
        """At most so many units: those until the next change."""
        ...

    @property
    def left(self) -> int:
        """How many have not been made."""
        ...

    def save(self) -> Any:
        """How far it is."""
        ...

    def load(self, state: Any) -> None:
        """Be as far as at `save`; what is due then has to be asked for."""
        ...


class RunHooks(Hooks):
    """What a run tells beside its machine and its policy.

    Attributes:
        write: its writer has changed a register or memory (kstack.run.writes.Change).
    """

    def __init__(self) -> None:
        self.write: Hook[[object]] = Hook()


class Session:
    """One run of what is loaded in a machine.

    Args:
        machine: loaded, and at reset or just booted.
        symbols: of the image.
        scheduler: decides every slice.
        policy: None runs the guest without one, and without the oracle.
        options: bounds and pools.
        booted: the runtime that saw the guest's BOOT hypercall, if that has happened already.
    """

    def __init__(
        self,
        machine: Machine,
        symbols: Symbols,
        scheduler: Scheduler,
        policy: Policy | None = None,
        options: RunOptions = RunOptions(),
        booted: StackRuntime | None = None,
    ) -> None:
        self.machine = machine
        self.symbols = symbols
        self.scheduler = scheduler
        self.options = options
        machine.strict = options.strict
        machine.told.clear()
        kernel = KstackKernel(machine)
        self.runtime = StackRuntime(machine, kernel, policy, options.pool)
        kernel.serve(self.runtime)
        self.hooks = RunHooks()
        machine.instruments.offer(self.hooks)
        self.oracle: Oracle | None = None
        self.usage: Usage | None = None
        self._marked: list[tuple[int, str]] = []
        self.events: list[tuple[int, int, str]] = []  # (virtual time, CPU, name)
        self.choices: list[Choice] = []
        self.injector: Advances | None = None
        self.writer: Writer | None = None
        self._limit = machine.time + options.max_time
        self._looked = 0  # findings that `ends_here` has seen
        self._idle = 0  # warps in a row that woke nobody
        self._waiting: set[int] = set()  # CPUs that have waited in vain since anything else happened
        # Of the slice in flight: its CPU, who could run and whether any of them was not blocked, its CPU's progress
        # (if any has waited in vain), and all attempts in vain of policy steps, before.
        self._slice: tuple[int, list[int], bool, tuple[int, int, int] | None, int] = (0, [], False, None, 0)
        adversarial = machine.modes.tlb == "adversarial" and not options.undisturbed
        self._adversary = Adversary(machine, self.runtime, options.adversary) if adversarial else None
        self._detach()
        if options.max_work is not None:
            machine.work_limit = machine.work + options.max_work
        self._ending = Ending(machine)
        self._own = attributes_of(policy)
        if policy is not None:
            self._attach()
        machine.instruments.add(_EventLog(self))
        if booted is not None:
            self.runtime.boot_again(booted)

    def _detach(self) -> None:
        self.machine.instruments.clear()
        self.machine.work_limit = FOR_EVER
        for cpu in self.machine.cpus:
            cpu.mmu.on_invlpg = None

    def _attach(self) -> None:
        self.oracle = oracle = Oracle(self.machine, self.symbols, self.runtime.kernel.shootdown_vector)
        self.usage = usage = Usage(self.machine, self.runtime)
        self.machine.instruments.add(oracle)
        self.machine.instruments.add(usage)

    def mark(self, cpu: int, name: str) -> None:
        """The guest marked an event; the schedule hears of it when the slice has ended."""
        self._marked.append((cpu, name))
        self.events.append((self.machine.now(), cpu, name))

    def check_pools(self, frames: int) -> None:
        """The guest has given so many frames: find out whether the pools can be as the options say.

        Raises:
            ConfigError: they cannot.
        """
        pool, pools = self.options.pool, self.runtime.pools
        if pools is None or not self.options.exact_pools:
            return
        cpus = len(self.machine.cpus)
        if (pool.per_cpu, pool.shared, pool.reserve) == (None, 0, None):  # the policy's pools, or the usual ones
            if cpus > 1 and 0 < frames <= pools.target * cpus:
                most = max(1, (frames - 1) // pools.target)
                raise ConfigError(
                    f"--cpus {cpus}: the pools of so many CPUs, {pools.target} pages each, leave nothing of the {frames} "
                    f"pages that this guest has for its stacks; give --cpus {most} or less, or --pool-pages"
                )
            return  # as far as there are pages
        wanted = pools.target * cpus + pool.shared + (pool.reserve or 0)
        if wanted > frames:
            raise ConfigError(
                f"--pool-pages {pools.target} for {cpus} CPUs, --pool-shared {pool.shared} and --pool-reserve "
                f"{pool.reserve or 0} are {wanted} pages, and this guest has {frames} for its stacks; give less"
            )

    def run(self) -> RunResult:
        """Run to the end: the guest's exit or death, or a bound.

        Raises:
            PolicyError: the policy did what no policy may.
        """
        ended = self.run_to(FOR_EVER)
        assert ended is not None
        return self._result(ended)

    def run_to(self, time: int) -> str | None:
        """Run until virtual time is `time`, or to the end of the run or of its recording; then why it has ended.

        Raises:
            PolicyError: the policy did what no policy may.
        """
        machine = self.machine
        while machine.time < time:
            if machine.time >= self._limit:
                return BOUND
            try:
                ended = self.step(min(time, self._limit) - machine.time)
            except Exhausted:
                ended = "unfinished"
            if ended is not None:
                return ended
            if self.ends_here():
                return "finding"
            if machine.work >= machine.work_limit and machine.end() is None:
                return WORK
        return self._machine_end()

    def ends_here(self) -> bool:
        """Whether the options end this run at a finding that has come since this was asked last."""
        if self.oracle is None or not self.options.stop_at_finding:
            return False
        new = self.oracle.findings[self._looked :]
        self._looked += len(new)
        return any(found.kind.value not in self.options.ignored for found in new)

    def step(self, limit: int) -> str | None:
        """One slice of at most `limit` units; why the run has ended, or None."""
        choice = self.begin(limit)
        if choice is None or isinstance(choice, str):
            return choice
        self.advance(*choice)
        return self.finish()

    def advance(self, cpu: int, units: int) -> Slice:
        """Let a CPU run for at most so many units; what is injected or written happens at its moment."""
        if self.writer is None:
            return self._advance(cpu, units)
        done = 0
        while True:
            self.writer.due()
            piece = self._advance(cpu, self.writer.until(units - done))
            done += piece.elapsed
            if piece.end is not SliceEnd.BUDGET or done >= units:
                return Slice(piece.end, done)

    def _advance(self, cpu: int, units: int) -> Slice:
        if self.injector is not None:
            return self.injector.advance(cpu, units)
        return self.machine.run(cpu, units)

    def begin(self, limit: int) -> Choice | str | None:
        """Choose the next slice, of at most `limit` units, for `advance`; then call `finish`.

        It may be run in pieces: as long as each ends with `SliceEnd.BUDGET` they are as one. Any other
        end is the slice's.

        Returns:
            What was chosen; why the run has ended; or None where every CPU slept and time has jumped.
        """
        machine = self.machine
        if self.writer is not None:
            self.writer.due()
        end = self._machine_end()
        if end is not None:
            return end
        runnable = machine.runnable()
        if not runnable:
            self._idle += 1
            return None if self._idle < IDLE_WARPS and self._warp() else "asleep"
        self._idle = 0
        if self._adversary is not None:
            self._adversary.act()
        runtime = self.runtime
        blocked = _NOBODY
        if any(runtime.blocked):
            blocked = frozenset(cpu for cpu in runnable if runtime.is_blocked(cpu))
        choice = self.scheduler.choose(View(tuple(runnable), blocked, machine.time))
        if choice.quantum > limit:
            choice = Choice(choice.cpu, limit)
        self.choices.append(choice)
        before = self._progress(choice.cpu) if self._waiting else None
        self._slice = choice.cpu, runnable, len(blocked) < len(runnable), before, runtime.counts.waits
        return choice

    def _machine_end(self) -> str | None:
        end = self.machine.end()
        return None if end is None else "exit" if end is End.EXIT else "shutdown"

    def _warp(self) -> bool:
        """Every CPU sleeps: time jumps to the next timer, or to what is injected next; whether there is any."""
        if self.injector is None:
            return self.machine.warp()
        if not self.machine.warp(self.injector.due):
            return False
        self.injector.come()
        return True

    def finish(self) -> str | None:
        """The slice that `begin` chose has been run: why the run has ended, or None."""
        cpu, runnable, some_go_on, before, tries = self._slice
        if self._waiting and (some_go_on or self._progress(cpu) != before):
            self._waiting.clear()
        runtime = self.runtime
        if runtime.counts.waits != tries and runtime.is_blocked(cpu):
            self._waiting.add(cpu)
            dead = self._waiting.issuperset(runnable) and self._is_deadlock(runnable)
            if dead and not (self.writer is not None and self.writer.due()):
                return "deadlock"
        if self._marked:
            for marker, name in self._marked:
                self.scheduler.event(marker, name)
            self._marked.clear()
        return None

    def stirred(self) -> None:
        """Something has been written from outside: whoever waited in vain, or slept, may go on."""
        self._idle = 0
        self._waiting.clear()

    # --- the whole

    @property
    def is_current(self) -> bool:
        """Whether the machine still runs this session: the next one that is made ends it."""
        return self.runtime.kernel.is_attached

    def save(self) -> SessionState | None:
        """All that decides how the run goes on and what it reports, but for its scheduler, which is its owner's.

        It may be asked for between slices, and where a slice has been run in part. None where the state cannot be had: a
        hook in flight that was made to fail, a policy that keeps in its object what changes, an injector that cannot be saved,
        a machine that breaks a rule.
        """
        injector, policy = self.injector, self.runtime.policy
        plain = self._own is not None and attributes_of(policy) == self._own
        runtime = self.runtime.save() if plain and can_save(self.machine) else None
        if runtime is None or not (injector is None or isinstance(injector, Saves)):
            return None
        return SessionState(
            MachineState.of(self.machine),
            runtime,
            None if self.oracle is None else self.oracle.save(self._in_flight()),
            None if self.usage is None else self.usage.save(),
            None if injector is None else injector.save(),
            None if self.writer is None else self.writer.save(),
            None if self._adversary is None else self._adversary.save(),
            self._ending.save(),
            tuple(self._marked),
            Prefix.of(self.events),
            Prefix.of(self.choices),
            self._looked,
            self._idle,
            frozenset(self._waiting),
            self._slice,
        )

    def load(self, state: SessionState) -> None:
        """Become what `save` returned, of this session or of another one that was set up in the same way.

        Raises:
            PolicyError: a hook in flight does not do again what it has done; the session is of no more use.
        """
        set_attributes(self.runtime.policy, self._own or {})  # as they were at `save`, and at the beginning
        state.machine.load(self.machine)
        self.runtime.load(state.runtime)
        threads = self.runtime.threads
        if self.oracle is not None and state.oracle is not None:
            self.oracle.load(state.oracle, self._in_flight(), threads)
        if self.usage is not None and state.usage is not None:
            self.usage.load(state.usage, threads)
        if isinstance(self.injector, Saves):
            self.injector.load(state.injector)
        if self.writer is not None and state.writer is not None:
            self.writer.load(state.writer)
        if self._adversary is not None:
            self._adversary.load(state.adversary)
        self._ending.load(state.ending)
        self._marked, self.events, self.choices = list(state.marked), state.events.list(), state.choices.list()
        self._looked, self._idle, self._waiting = state.looked, state.idle, set(state.waiting)
        self._slice = state.slice

    def _in_flight(self) -> list[HookCall]:
        return [call for calls in self.runtime.calls for call in calls]

    def _progress(self, cpu: int) -> tuple[int, int, int]:
        """Changes whenever a CPU does more than to try again: it may have taken an interrupt and wait again."""
        counts = self.machine.cpus[cpu].counts
        return self.runtime.counts.steps, counts.interrupts, counts.nmis

    def _is_deadlock(self, runnable: list[int]) -> bool:
        """Whether CPUs that all wait in a policy's step, and have all tried again, can be interrupted by nothing."""
        machine = self.machine
        if self.injector is not None and (self.injector.pending or machine.runnable() != runnable):
            return False  # something is still to come, or has just woken somebody
        if machine.next_deadline() is not None or machine.ipis or any(machine.interruptible(cpu) for cpu in runnable):
            return False
        if self.oracle is not None:
            self.oracle.deadlocked(runnable)
        return True

    def _result(self, ended: str) -> RunResult:
        oracle, machine = self.oracle, self.machine
        if oracle is not None and ended == "exit":
            if machine.exit_port.code == GUEST_PANICKED:
                oracle.panicked(last_words(machine.uart.sent.decode("utf-8", "replace")))
            else:
                oracle.finish(self._in_flight(), self.runtime.variables)
        scheduler = self.scheduler
        usage = self.usage.summary() if self.usage else None
        return RunResult(
            ended=ended,
            exit_value=machine.exit_port.code,
            time=machine.time,
            serial=machine.uart.sent.decode("utf-8", "replace").replace("\r", ""),
            findings=tuple(oracle.findings) if oracle else (),
            exercised=oracle.sanitizer.exercised if oracle else 0,
            stack_walks=oracle.sanitizer.walks if oracle else 0,
            unmaps=self.runtime.counts.unmaps,
            state_hash=machine.state_hash() if self.options.hashed else "",
            counts=self.runtime.counts,
            kib_per_thread=usage.kib_mean if usage else None,
            stuck=getattr(scheduler, "stuck", None),
            cpus=tuple(
                {"cpu": cpu.index, "state": cpu.state.value, "walks": cpu.mmu.walks, **vars(cpu.counts)}
                for cpu in machine.cpus
            ),
            usage=usage,
            reason=self.reason(ended),
            told=tuple(declared.value for declared in self.machine.told),
        )

    def reason(self, ended: str) -> str:
        """Why the run has ended, in a sentence, as `step` or `begin` has named it."""
        findings = self.oracle.findings if self.oracle is not None else []
        counted = [one for one in findings if one.kind.value not in self.options.ignored]
        found = f"{counted[0].kind.value}: {counted[0].text}" if counted else ""
        most = self.options.max_work or 0 if ended == WORK else self.options.max_time
        return self._ending.reason(ended, most, self._idle, found)


class _EventLog:
    """Passes guest events on to the session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_mark(self, cpu: int, name: str) -> None:
        """Pass it on."""
        self._session.mark(cpu, name)

    def on_boot(self, frames: list[int]) -> None:
        """The pools have been filled, as far as there are frames."""
        self._session.check_pools(len(frames))


class _Detached(Policy):
    """Attached while a scenario boots: no thread exists yet, so no hook of it can run."""

    id, title, proposer, source = "boot", "boot", "", ""


class BootedScenario:
    """A guest that has booted up to its event `booted`, from which any number of runs start.

    Args:
        image: an ELF image with hypercalls.
        name: what to call it in errors.
        cpus: CPUs of the machine.
        ram: bytes.
        modes: architecture modes.

    Raises:
        ScenarioError: the guest makes no BOOT hypercall, or never marks the event.
        ImageError: the image cannot be loaded.
    """

    def __init__(self, image: bytes, name: str, cpus: int, ram: int = 64 << 20, modes: Modes | None = None) -> None:
        self.machine = Machine(MachineConfig(cpus, ram, modes or Modes()))
        self.symbols = load(self.machine, image, name)
        session = Session(self.machine, self.symbols, RoundRobin(BOOT_QUANTUM), _Detached())
        while not any(event == BOOTED for _, _, event in session.events):
            if self.machine.time > BOOT_LIMIT or session.step(BOOT_LIMIT) is not None:
                raise ScenarioError(f"{name}: the guest never marked the event {BOOTED!r}")
        if session.runtime.pools is None:
            raise ScenarioError(f"{name}: the guest marked {BOOTED!r} without a BOOT hypercall before")
        self._runtime = session.runtime
        self._snapshot: MachineSnapshot = self.machine.snapshot()

    def session(self, policy: Policy, scheduler: Scheduler, options: RunOptions = RunOptions()) -> Session:
        """A new run from the booted state; it ends any earlier run of this object."""
        self.rewind()
        return Session(self.machine, self.symbols, scheduler, policy, options, self._runtime)

    def rewind(self) -> None:
        """Let the machine be as it was when the guest had booted; it ends any run of this object."""
        self.machine.restore(self._snapshot)


SessionFactory = Callable[[Policy, Scheduler, RunOptions], Session]
__all__ = [
    "GUEST_FAILED",
    "GUEST_PANICKED",
    "GUEST_PASSED",
    "PANIC",
    "BootedScenario",
    "Finding",
    "Kind",
    "RunOptions",
    "RunResult",
    "Session",
    "last_words",
]
