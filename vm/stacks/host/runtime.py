"""Runs a policy's hooks on a machine, for the kernel of its guest: one micro-step each time that the kernel comes back.

Not modelled: the stack bytes that a hook written in C would itself use, its instructions and its
cache misses; the guest's own code around the hook is real.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import TypeVar

from kstack.base.errors import PolicyError
from kstack.hw.instruments import Slot
from kstack.kernels.kernel import Kernel
from kstack.machine import Machine
from kstack.stacks import steps
from kstack.stacks.area import Thread
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import (
    WAITING,
    GuestMisuse,
    HookCall,
    HookSteps,
    Interposed,
    StackHooks,
    StepCounts,
)
from kstack.stacks.host.checks import raised_at, said, shown, stands_at
from kstack.stacks.host.execute import Executor
from kstack.stacks.host.pool import PoolConfig, Pools
from kstack.stacks.host.state import (
    CallSnapshot,
    CallSnapshots,
    CallState,
    RuntimeSnapshot,
    RuntimeState,
    ThreadState,
)
from kstack.stacks.host.watch import Watch
from kstack.stacks.loading.contract import check_contract
from kstack.stacks.policy import Policy
from kstack.x86.addresses import PAGE
from kstack.x86.registers import Gpr

MAX_STEPS = 1 << 20
"""Of one hook; what each has answered is kept while the hook is in flight."""
MAX_THREADS = 1 << 17  # at once
_MAX_STACK = 1 << 20
_RAISED = (Exception, SystemExit, GeneratorExit)
"""What a policy may raise; KeyboardInterrupt is the user's."""
_DECISIONS = frozenset({HookKind.CREATE_THREAD, HookKind.STACK_FAULT, HookKind.REQUEST})
_NO_THREAD = frozenset({HookKind.MEMORY_PRESSURE, HookKind.TICK})


RanT = TypeVar("RanT")


class StackRuntime:
    """One policy on one machine.

    Args:
        machine: the machine.
        kernel: of its guest.
        policy: None answers events only, and tells the guest that no policy is attached.
        pool: how page pools behave.

    Raises:
        PolicyError: the policy breaks the contract of policies.
    """

    def __init__(self, machine: Machine, kernel: Kernel, policy: Policy | None, pool: PoolConfig | None = None) -> None:
        self._machine = machine
        self.kernel = kernel
        self.policy = policy
        self._watch = Watch(type(policy)) if policy is not None and check_contract(type(policy)) else None
        self.threads: dict[int, Thread] = {}
        self.calls: list[list[HookCall]] = [[] for _ in machine.cpus]
        self.hooks = StackHooks()
        machine.instruments.offer(self.hooks)
        self.decides_step: Slot[[int, HookCall], Interposed | None] = Slot()  # asked before each step
        self.blocked: list[bool] = [False] * len(machine.cpus)
        config = (pool or PoolConfig()).resolved(policy.pool_pages if policy is not None else None)
        self._execute = Executor(machine, kernel, config, self.threads, self.hooks)

    @property
    def counts(self) -> StepCounts:
        """What the policy has done."""
        return self._execute.counts

    @property
    def pools(self) -> Pools | None:
        """The pools of stack pages; None before the guest's BOOT."""
        return self._execute.pools

    @property
    def is_booted(self) -> bool:
        """Whether the guest has given its frames."""
        return self.pools is not None

    @property
    def variables(self) -> tuple[steps.Value, ...]:
        """What the policy's variables hold, in the order in which they were stored."""
        return tuple(self._execute.variables.values())

    @property
    def frames(self) -> list[int]:
        """Physical addresses (bytes) of all frames that the guest gave."""
        return self._execute.frames

    @property
    def online(self) -> list[int]:
        """CPUs that are online."""
        return self._execute.online

    @property
    def executor(self) -> Executor:
        """What carries the policy's steps out."""
        return self._execute

    def is_blocked(self, cpu: int) -> bool:
        """Whether `cpu` stands at a step that waits: it has tried, and takes no interrupt meanwhile."""
        if not self.blocked[cpu] or not self.calls[cpu]:
            return False
        registers = self._machine.cpus[cpu].registers
        return (registers.rip, registers.gpr[Gpr.RSP]) == self.calls[cpu][-1].key

    # --- what a kernel tells

    def in_flight(self, cpu: int, key: tuple[int, int]) -> HookCall | None:
        """The hook for which the guest waits there; it is to be looked at again."""
        self.blocked[cpu] = False
        calls = self.calls[cpu]
        return calls[-1] if calls and calls[-1].key == key else None

    def mark(self, cpu: int, name: str) -> None:
        """The guest marks an event."""
        self.hooks.mark(cpu, name)

    def comes_online(self, cpu: int) -> None:
        """A CPU is up."""
        if cpu not in self.online:
            self._execute.online = sorted([*self.online, cpu])

    def boot(self, frames: list[int]) -> None:
        """The guest gives its frames (bytes)."""
        self._execute.boot(frames)
        self.hooks.boot(self.frames)

    def begin(self, cpu: int, hook: HookKind, arguments: tuple[int, ...], key: tuple[int, int]) -> bool:
        """Begin a hook; whether it has ended already.

        Args:
            cpu: where.
            hook: which.
            arguments: as `HookKind` says; more are ignored.
            key: RIP and RSP of the guest, which comes back there until the hook has ended.

        Raises:
            GuestMisuse: that makes no sense.
            PolicyError: the policy did what no policy may.
        """
        thread = self._thread_of(hook, arguments)
        given = None if thread is None else replace(thread)
        call = HookCall(hook, arguments, key, thread.id if thread else 0, _NOTHING, given=given)
        try:
            self._call(cpu, call, thread)
        except _RAISED as error:
            raise PolicyError(f"{self._name(call)} raised {said(error)}{raised_at(error)}") from error
        if not issubclass(type(call.generator), Generator):
            wrong = f"answered {shown(call.generator)}, which is no generator: `yield` its steps"
            raise PolicyError(f"{self._name(call)} {wrong}, or `yield from ()` for none")
        self.calls[cpu].append(call)
        self.counts.hooks += 1
        self._count_moment(hook)
        self.hooks.call(cpu, call)
        return self._advance(cpu, call, None, first=True)

    def _count_moment(self, hook: HookKind) -> None:
        counts = self.counts
        counts.switches += hook is HookKind.SWITCH_IN
        counts.syscalls += hook is HookKind.ENTER_KERNEL
        counts.stack_faults += hook is HookKind.STACK_FAULT
        counts.requests += hook is HookKind.REQUEST
        counts.shares += hook is HookKind.SHARE

    def go_on(self, cpu: int, call: HookCall) -> bool:
        """Carry out the next micro-step of a hook in flight; whether it has ended.

        Raises:
            GuestMisuse, PolicyError: as `begin`.
        """
        other = None if (decide := self.decides_step.held) is None else decide(cpu, call)
        if other is not None and other.error is not None:
            return self._fail(cpu, call, other.error)
        if other is not None and other.instead:
            answer, previous = other.answer, None
        else:
            answer, previous = self._execute.carry_out(cpu, call, call.step, self._name(call))
        if other is not None and other.behind is not None and answer is not WAITING:
            other.behind(answer)
        if answer is WAITING:
            self.blocked[cpu] = True
            self.counts.waits += 1
            return False
        self.counts.steps += 1
        call.answers.append(_own(answer))
        self.hooks.step(cpu, call, call.step, answer, previous)
        return self._advance(cpu, call, answer)

    def _advance(self, cpu: int, call: HookCall, answer: steps.Answered, first: bool = False) -> bool:
        """Ask the hook for its next step; True when it has ended."""
        return self._go_on(cpu, call, lambda: next(call.generator) if first else call.generator.send(answer))

    def _fail(self, cpu: int, call: HookCall, error: Exception) -> bool:
        """A step fails: the hook sees `error` raised where it yielded."""
        call.made = None
        return self._go_on(cpu, call, lambda: call.generator.throw(error))

    def _go_on(self, cpu: int, call: HookCall, ask: Callable[[], steps.Step]) -> bool:
        try:
            call.step = self._watched(call, ask)
        except StopIteration as end:
            self._look(call, True)
            self._end(cpu, call, end.value)
            return True
        except _RAISED as error:
            raise PolicyError(f"{self._name(call)} raised {said(error)}{raised_at(error)}") from error
        self._look(call, False)
        if not isinstance(call.step, steps.Step):
            raise PolicyError(
                f"{self._name(call)} yielded {shown(call.step)}, which is no micro-step{stands_at(call.generator)}"
            )
        if len(call.answers) >= MAX_STEPS:
            raise PolicyError(f"{self._name(call)} has made {MAX_STEPS} steps and does not end")
        return False

    def _watched(self, call: HookCall, ask: Callable[[], RanT]) -> RanT:
        """Let a hook run."""
        return ask() if self._watch is None or call.made is None else self._watch.resume(call.made, ask)

    def _look(self, call: HookCall, ended: bool) -> None:
        """Refuse a hook that has forgotten a step or a generator."""
        mistake = None if self._watch is None or call.made is None else self._watch.mistake(ended)
        if mistake is not None:
            raise PolicyError(f"{self._name(call)}: {mistake}")

    def _name(self, call: HookCall) -> str:
        policy = self.policy
        return f"policy {policy.id if policy else '-'}, hook {call.hook.value}"

    def _end(self, cpu: int, call: HookCall, result: object) -> None:
        if call.held:
            raise PolicyError(f"{self._name(call)} ended without unlocking {', '.join(call.held)}")
        if issubclass(type(result), Generator | steps.Step):
            how = "yield" if isinstance(result, steps.Step) else "yield from"
            raise PolicyError(f"{self._name(call)} returned {shown(result)} to nobody: write `return ({how} ...)`")
        if call.hook in _DECISIONS and not (result is None or isinstance(result, bool)):
            raise PolicyError(f"{self._name(call)} answered {shown(result)}, which is neither True nor False")
        self.calls[cpu].pop()
        yes = result is not False if call.hook is HookKind.CREATE_THREAD else result is True
        self._machine.cpus[cpu].registers.gpr[Gpr.RAX] = int(yes)
        thread = self.threads.get(call.thread)
        if call.hook is HookKind.EXIT_THREAD and thread is not None:
            del self.threads[thread.id]
            self._execute.forget(thread)
            self.hooks.thread_end(thread)
        elif call.hook is HookKind.STACK_FAULT and thread is not None:
            dry = self._execute.dry.get(thread.id, False)
            self.hooks.fault_end(cpu, thread, call.arguments[0], yes, dry)

    def gone(self, cpu: int) -> None:
        """A CPU has gone offline without a word."""
        self._execute.online = [other for other in self._execute.online if other != cpu]

    def _thread_of(self, hook: HookKind, arguments: tuple[int, ...]) -> Thread | None:
        if self.pools is None:
            raise GuestMisuse(f"{hook.name} before BOOT")
        if hook in _NO_THREAD:
            return None
        if hook is HookKind.CREATE_THREAD:
            return self._create(*arguments)
        identity = arguments[1] if hook is HookKind.STACK_FAULT else arguments[0]
        thread = self.threads.get(identity)
        if thread is None:
            raise GuestMisuse(f"{hook.name} of thread {identity}, which does not exist")
        if hook is HookKind.SWITCH_OUT:
            thread.saved_rsp, thread.since = arguments[1], self._machine.now()
        elif hook is HookKind.SWITCH_IN:
            thread.since = -1
        return thread

    def _create(self, identity: int, bottom: int, size: int, user: int) -> Thread:
        if identity in self.threads:
            raise GuestMisuse(f"thread {identity} is created twice")
        if bottom % PAGE or size % PAGE or not 0 < size <= _MAX_STACK:
            raise GuestMisuse(f"stack of {size:#x} bytes at {bottom:#x}")
        if len(self.threads) >= MAX_THREADS:
            raise GuestMisuse(f"more than {MAX_THREADS} threads at once")
        thread = self.threads[identity] = Thread(identity, bottom, size, bool(user))
        self._execute.areas.add(thread)
        self.hooks.thread(thread)
        return thread

    def _call(self, cpu: int, call: HookCall, thread: Thread | None) -> None:
        """Make a hook's generator, which has not begun."""
        call.generator = self._watched(call, lambda: self._hook(cpu, call.hook, call.arguments, thread))

    def _hook(self, cpu: int, hook: HookKind, arguments: tuple[int, ...], thread: Thread | None) -> HookSteps:
        policy = self.policy
        assert policy is not None
        thread = None if thread is None else replace(thread)  # what a policy does to it is its own affair
        if hook is HookKind.TICK:
            return policy.tick(cpu)
        if thread is None:
            return policy.memory_pressure(cpu, arguments[0])
        if hook is HookKind.STACK_FAULT:
            return policy.stack_fault(cpu, thread, arguments[0], arguments[2])
        if hook is HookKind.REQUEST:
            return policy.request(cpu, thread, arguments[1])
        simple: dict[HookKind, Callable[[int, Thread], HookSteps]] = {
            HookKind.CREATE_THREAD: policy.create_thread,
            HookKind.EXIT_THREAD: policy.exit_thread,
            HookKind.ENTER_KERNEL: policy.enter_kernel,
            HookKind.EXIT_KERNEL: policy.exit_kernel,
            HookKind.SWITCH_IN: policy.switch_in,
            HookKind.SWITCH_OUT: policy.switch_out,
            HookKind.SHARE: policy.share,
        }
        return simple[hook](cpu, thread)

    # --- snapshot

    def boot_again(self, booted: StackRuntime) -> None:
        """Start where `booted` stood right after the guest's BOOT, with pools of this one's own configuration."""
        self._execute.online = list(booted.online)
        self.kernel.restore(booted.kernel.snapshot())
        self._execute.boot(booted.frames)
        self.hooks.boot(self.frames)

    def snapshot(self, known: Sequence[CallSnapshots | None] = ()) -> RuntimeSnapshot:
        """The policy's side of the machine's state, immutable; hooks as the answers they have had.

        Args:
            known: for each CPU its hooks as in an earlier snapshot if they have not changed since, else None.
        """
        calls = tuple(
            tuple(CallSnapshot(c.hook, c.arguments, c.key, c.thread, tuple(c.answers), tuple(c.held)) for c in stack)
            if part is None
            else part
            for stack, part in zip_longest(self.calls, known)
        )
        threads = tuple(map(ThreadState.of, self.threads.values()))
        return RuntimeSnapshot(calls, threads, tuple(self.blocked), self._execute.snapshot())

    @staticmethod
    def key(state: RuntimeSnapshot) -> Hashable:
        """What decides how the policy goes on: a snapshot without counts and times."""
        calls, threads, _, executor = state
        return calls, tuple((*thread[:5], thread[5] >= 0) for thread in threads), executor[1:]

    def restore(self, state: RuntimeSnapshot, known: Sequence[CallSnapshots | None] = ()) -> None:
        """Become what `snapshot` returned: hooks in flight are fed their answers again.

        Args:
            state: what to become.
            known: as for `snapshot`; hooks that stand where they shall are left alone.
        """
        calls, threads, blocked, executor = state
        self.blocked = list(blocked)
        self.threads.clear()
        self.threads.update({thread[0]: Thread(*thread) for thread in threads})
        for thread in self.threads.values():
            self._execute.areas.add(thread)
        self._execute.restore(executor)
        self.calls = [
            self.calls[cpu] if part is stack else [self._remake(cpu, saved) for saved in stack]
            for cpu, (stack, part) in enumerate(zip_longest(calls, known))
        ]

    def _remake(self, cpu: int, saved: CallSnapshot) -> HookCall:
        hook, arguments, key, thread, answers, held = saved
        call = HookCall(hook, arguments, key, thread, _NOTHING, answers=list(answers), held=list(held))
        self._feed(cpu, call, self.threads.get(thread))
        return call

    def _feed(self, cpu: int, call: HookCall, thread: Thread | None) -> None:
        """Bring a hook to where it stood, by the answers that it has had."""
        try:
            self._call(cpu, call, thread)
            call.step = self._watched(call, lambda: next(call.generator))
            for answer in call.answers:
                call.step = self._watched(call, partial(call.generator.send, _own(answer)))
        except _RAISED as error:
            raise self._not_again(call, said(error)) from error

    def _not_again(self, call: HookCall, how: str) -> PolicyError:
        return PolicyError(
            f"{self._name(call)} does not do again what it has done ({how}): "
            "a hook may depend on its arguments and its answers alone"
        )

    # --- the whole

    def save(self) -> RuntimeState | None:
        """The whole state, counts and caches included; None where a hook is in flight that its answers do not tell."""
        if any(call.made is None for calls in self.calls for call in calls):
            return None  # an error was thrown into it
        calls = tuple(
            tuple(
                CallState(c.hook, c.arguments, c.key, c.thread, c.given, tuple(c.answers), tuple(c.held), c.step)
                for c in stack
            )
            for stack in self.calls
        )
        threads = tuple(map(ThreadState.of, self.threads.values()))
        return RuntimeState(calls, threads, tuple(self.blocked), self._execute.save())

    def load(self, state: RuntimeState) -> None:
        """Become what `save` returned: hooks in flight are fed their answers again.

        Raises:
            PolicyError: one comes to another step than before.
        """
        self.blocked = list(state.blocked)
        self.threads.clear()
        self.threads.update({thread[0]: Thread(*thread) for thread in state.threads})
        self._execute.load(state.executor)
        self.calls = [[self._made_again(cpu, saved) for saved in stack] for cpu, stack in enumerate(state.calls)]

    def _made_again(self, cpu: int, saved: CallState) -> HookCall:
        call = HookCall(saved.hook, saved.arguments, saved.key, saved.thread, _NOTHING, given=saved.given)
        call.answers, call.held = list(saved.answers), list(saved.held)
        self._feed(cpu, call, saved.given)
        if shown(call.step) != shown(saved.step):
            raise self._not_again(call, f"{shown(call.step)} instead of {shown(saved.step)}")
        return call


def _own(answer: steps.Answered) -> steps.Answered:
    """An answer that nobody else has: threads in it can be changed, and a policy may do so."""
    if type(answer) is Thread:
        return replace(answer)
    if type(answer) is tuple and answer and type(answer[0]) is Thread:
        return tuple(replace(thread) for thread in answer)
    return answer


def _nothing() -> HookSteps:
    yield from ()
    return None


_NOTHING = _nothing()
