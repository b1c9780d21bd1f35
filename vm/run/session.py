"""One run: a machine, a schedule, a policy and the oracle, put together. Every tool above speaks to this.

A scenario's run begins where its guest has booted (`kstack.run.booted`), the same state for every policy and schedule; from
there its own schedule decides. What a session knows of its guest it asks the guest's kernel.
"""

from __future__ import annotations

from typing import Final

from kstack.base.errors import ConfigError
from kstack.hw.cpu.state import SliceEnd
from kstack.kernels.kernel import Kernel, KernelOf
from kstack.kernels.known import usual_guests
from kstack.load import Symbols
from kstack.machine import FOR_EVER, End, Machine, Slice
from kstack.run.adversary import Adversary
from kstack.run.ending import Ending
from kstack.run.options import RunOptions, check_pools
from kstack.run.outside import Advances, RunHooks, Writer
from kstack.run.result import BOUND, WORK, RunResult
from kstack.run.saved import MachineState, Prefix, Saves, SessionState, attributes_of, can_save, set_attributes
from kstack.run.waiting import Waiting
from kstack.sanitizer.findings import Finding
from kstack.sanitizer.history import Marked
from kstack.sanitizer.sanitizer import Sanitizer
from kstack.schedule import Choice, Exhausted, Scheduler, View
from kstack.stacks.host.call import HookCall
from kstack.stacks.host.runtime import StackRuntime
from kstack.stacks.measure.usage import Usage
from kstack.stacks.oracle import Oracle
from kstack.stacks.policy import Policy

IDLE_WARPS: Final = 64


class Session:
    """One run of what is loaded in a machine.

    Args:
        machine: loaded, and at reset or just booted.
        symbols: of the image.
        scheduler: decides every slice.
        policy: None runs the guest without one, and without the oracle.
        options: bounds and pools.
        booted: the runtime to which the guest has given its frames, if that has happened already.
        kernel: makes the kernel of its guest; None makes kstack's own.

    Raises:
        ConfigError: there is a policy, and a kernel that asks none.
    """

    def __init__(
        self,
        machine: Machine,
        symbols: Symbols,
        scheduler: Scheduler,
        policy: Policy | None = None,
        options: RunOptions = RunOptions(),
        booted: StackRuntime | None = None,
        kernel: KernelOf | None = None,
    ) -> None:
        self.machine = machine
        self.symbols = symbols
        self.scheduler = scheduler
        self.options = options
        machine.strict = options.strict
        machine.told.clear()
        self.kernel: Kernel = (kernel or usual_guests().kernel)(machine, symbols)
        if policy is not None and self.kernel.frames is not None:
            raise ConfigError(
                f"policy {policy.id}: this guest's kernel gives and frees its frames itself; leave the policy out"
            )
        self.runtime = StackRuntime(machine, self.kernel, policy, options.pool)
        self.kernel.serve(self.runtime)
        self.hooks = RunHooks()
        machine.instruments.offer(self.hooks)
        self.oracle: Oracle | None = None
        self.sanitizer: Sanitizer | None = None  # the oracle's, or of the kernel's own frames
        self.usage: Usage | None = None
        self._marked: list[tuple[int, str]] = []
        self.events: list[tuple[int, int, str]] = []  # (virtual time, CPU, name)
        self.choices: list[Choice] = []
        self.injector: Advances | None = None
        self.writer: Writer | None = None
        self._limit = machine.time + options.max_time
        self._looked = 0  # findings that `ends_here` has seen
        self._idle = 0  # warps in a row that woke nobody
        self._waiting = Waiting(machine, self.runtime)
        adversarial = machine.modes.tlb == "adversarial" and not options.undisturbed
        self._adversary = Adversary(machine, self.runtime, options.adversary) if adversarial else None
        self._detach()
        if options.max_work is not None:
            machine.work_limit = machine.work + options.max_work
        self._ending = Ending(machine, self.kernel.facts.exits)
        self._own = attributes_of(policy)
        if policy is not None:
            self._attach()
        elif self.kernel.frames is not None:
            self.sanitizer = Sanitizer(machine, symbols, self.kernel.frames)
            machine.instruments.add(self.sanitizer)
        machine.instruments.add(_EventLog(self))
        if booted is not None:
            self.runtime.boot_again(booted)

    def _detach(self) -> None:
        self.machine.instruments.clear()
        self.machine.work_limit = FOR_EVER
        for cpu in self.machine.cpus:
            cpu.mmu.decides_invlpg.release()
        self.machine.decides_send.release()

    def _attach(self) -> None:
        self.oracle = oracle = Oracle(self.machine, self.symbols, self.kernel.facts.shootdown_vector)
        self.sanitizer = oracle.sanitizer
        self.usage = usage = Usage(self.machine, self.runtime)
        self.machine.instruments.add(oracle)
        self.machine.instruments.add(usage)

    def mark(self, cpu: int, name: str) -> None:
        """The guest marked an event; the schedule hears of it when the slice has ended."""
        self._marked.append((cpu, name))
        self.events.append((self.machine.now(), cpu, name))
        if self.sanitizer is not None and self.oracle is None:
            self.sanitizer.events.append(Marked(self.machine.now(), cpu, name))

    @property
    def findings(self) -> list[Finding]:
        """All that has been found, in order."""
        return [] if self.sanitizer is None else self.sanitizer.findings

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
        if not self.options.stop_at_finding:
            return False
        new = self.findings[self._looked :]
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
        blocked = self._waiting.blocked(runnable)
        choice = self.scheduler.choose(View(tuple(runnable), blocked, machine.time))
        if choice.quantum > limit:
            choice = Choice(choice.cpu, limit)
        self.choices.append(choice)
        self._waiting.begin(choice.cpu, runnable, blocked)
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
        dead = self._waiting.finish(self.injector)
        if dead:
            if self.oracle is not None:
                self.oracle.deadlocked(dead)
            if not (self.writer is not None and self.writer.due()):
                return "deadlock"
        if self._marked:
            for marker, name in self._marked:
                self.scheduler.event(marker, name)
            self._marked.clear()
        return None

    def stirred(self) -> None:
        """Something has been written from outside: whoever waited in vain, or slept, may go on."""
        self._idle = 0
        self._waiting.in_vain.clear()

    # --- the whole

    @property
    def is_current(self) -> bool:
        """Whether the machine still runs this session: the next one that is made ends it."""
        return self.kernel.is_attached

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
            None if self.sanitizer is None or self.oracle is not None else self.sanitizer.save(),
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
            self._waiting.save(),
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
        elif self.sanitizer is not None and state.sanitizer is not None:
            self.sanitizer.load(state.sanitizer)
        if self.usage is not None and state.usage is not None:
            self.usage.load(state.usage, threads)
        if isinstance(self.injector, Saves):
            self.injector.load(state.injector)
        if self.writer is not None and state.writer is not None:
            self.writer.load(state.writer)
        if self._adversary is not None and state.adversary is not None:
            self._adversary.load(state.adversary)
        self._ending.load(state.ending)
        self._marked, self.events, self.choices = list(state.marked), state.events.list(), state.choices.list()
        self._looked, self._idle = state.looked, state.idle
        self._waiting.load(state.waiting)

    def _in_flight(self) -> list[HookCall]:
        return [call for calls in self.runtime.calls for call in calls]

    def _result(self, ended: str) -> RunResult:
        oracle, machine, sanitizer, exits = self.oracle, self.machine, self.sanitizer, self.kernel.facts.exits
        if oracle is not None and ended == "exit":
            if machine.exit_port.code == exits.panicked:
                oracle.panicked(exits.last_words(machine.uart.sent.decode("utf-8", "replace")))
            else:
                oracle.finish(self._in_flight(), self.runtime.variables)
        scheduler = self.scheduler
        usage = self.usage.summary() if self.usage else None
        return RunResult(
            ended=ended,
            exit_value=machine.exit_port.code,
            time=machine.time,
            serial=machine.uart.sent.decode("utf-8", "replace").replace("\r", ""),
            findings=tuple(self.findings),
            exercised=sanitizer.exercised if sanitizer else 0,
            stack_walks=sanitizer.walks if sanitizer else 0,
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
            exits=exits,
        )

    def reason(self, ended: str) -> str:
        """Why the run has ended, in a sentence, as `step` or `begin` has named it."""
        counted = [one for one in self.findings if one.kind.value not in self.options.ignored]
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
        session = self._session
        if session.runtime.pools is not None:
            check_pools(session.options, session.runtime.pools, len(session.machine.cpus), len(frames))
