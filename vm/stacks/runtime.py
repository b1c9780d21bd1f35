"""Runs a policy's hooks on a machine: answers hypercalls, one micro-step a slice.

Each execution of the guest's OUT carries out one micro-step of the hook in flight; the instruction
completes when the hook does. So steps interleave with other CPUs' instructions as the schedule
chooses, and interrupts are taken between them by the ordinary rules.

Not modelled: the stack bytes that a hook written in C would itself use, its instructions and its
cache misses; the guest's own code around the hook is real.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

from vm.errors import PolicyError
from vm.hw.apic import DeliveryMode
from vm.hw.engine import Gpr
from vm.machine import Machine
from vm.stacks import hypercall, steps
from vm.stacks.area import PAGE, Page, Pte, Thread
from vm.stacks.hypercall import Function
from vm.stacks.policy import Policy
from vm.stacks.pool import PoolConfig, Pools

_MAX_STACK = 1 << 20
_MAX_POOL = 1 << 30
_WAITING = object()


class GuestMisuse(Exception):
    """A guest's hypercall that makes no sense: the guest's fault, so the machine stops with a reason."""


@dataclass
class HookCall:
    """A hook in flight on a CPU.

    `key` is the guest's (RIP, RSP) at the OUT; `answers` are what its steps have answered so far,
    from which the generator can be made again (a snapshot cannot copy it).
    """

    function: Function
    arguments: tuple[int, ...]
    key: tuple[int, int]
    thread: int
    generator: Generator[Any, Any, Any]
    step: Any = None
    answers: list[Any] = field(default_factory=list)
    held: list[str] = field(default_factory=list)


@dataclass
class StepCounts:
    """Exact counts of what a policy did."""

    hooks: int = 0
    steps: int = 0
    pte_reads: int = 0
    pte_writes: int = 0
    pte_exchanges: int = 0
    invlpg: int = 0
    ipis: int = 0
    pages_taken: int = 0
    pages_given: int = 0
    pages_zeroed: int = 0
    refusals: int = 0
    waits: int = 0
    switches: int = 0
    syscalls: int = 0
    unmaps: int = 0


class StackObserver(Protocol):
    """Who wants to know what a policy does (the oracle, the trace)."""

    def booted(self, frames: list[int]) -> None:
        """The guest has given the policy these frames."""
        ...

    def thread_created(self, thread: Thread) -> None:
        """A thread's stack area exists, with empty leaf entries."""
        ...

    def thread_gone(self, thread: Thread) -> None:
        """A thread's exit hook has ended."""
        ...

    def stepped(self, cpu: int, call: HookCall, step: Any, answer: Any, previous: Pte | None) -> None:
        """A micro-step was carried out; `previous` is the entry that a store replaced."""
        ...

    def fault_refused(self, cpu: int, thread: Thread, address: int) -> None:
        """The policy does not handle a fault on a stack."""
        ...

    def event(self, cpu: int, name: str) -> None:
        """The guest marked an event."""
        ...


class StackRuntime:
    """One policy on one machine.

    Args:
        machine: whose guest makes the hypercalls.
        policy: None answers events only, and tells the guest that no policy is attached.
        pool: how page pools behave.
    """

    def __init__(self, machine: Machine, policy: Policy | None, pool: PoolConfig | None = None) -> None:
        self._machine = machine
        self.policy = policy
        self._pool_config = pool or PoolConfig()
        self.pools: Pools | None = None
        self.threads: dict[int, Thread] = {}
        self.calls: list[list[HookCall]] = [[] for _ in machine.cpus]
        self.counts = StepCounts()
        self.observers: list[StackObserver] = []
        self.blocked: list[bool] = [False] * len(machine.cpus)
        self.online: list[int] = []
        self._locks: dict[str, int] = {}
        self._leaves: dict[tuple[int, int], int] = {}
        self._mailboxes = (0, 0)
        self.frames: list[int] = []  # all that the guest gave, by physical address
        self._given: frozenset[int] = frozenset()
        machine.claim_port(hypercall.PORT, self)

    def is_blocked(self, cpu: int) -> bool:
        """Whether `cpu` stands at a step that waits: it has tried, and takes no interrupt meanwhile."""
        if not self.blocked[cpu] or not self.calls[cpu]:
            return False
        registers = self._machine.cpus[cpu].registers
        return (registers.rip, registers.gpr[Gpr.RSP]) == self.calls[cpu][-1].key

    # --- PortClaim

    def read(self, cpu: int, size: int) -> int:
        """IN: whether a policy is attached."""
        return hypercall.DETACHED if self.policy is None else hypercall.ATTACHED

    def write(self, cpu: int, size: int, value: int) -> bool:
        """OUT: begin a hypercall, or carry out the next micro-step of the one in flight."""
        self.blocked[cpu] = False
        registers = self._machine.cpus[cpu].registers
        key = (registers.rip, registers.gpr[Gpr.RSP])
        calls = self.calls[cpu]
        try:
            arguments = tuple(registers.gpr[r] for r in (Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.RCX))
            if calls and calls[-1].key == key:
                if (calls[-1].function, calls[-1].arguments) != (value, arguments):
                    raise GuestMisuse(f"made where {calls[-1].function.name} is still in flight")
                return self._continue(cpu, calls[-1])
            return self._begin(cpu, value, arguments, key)
        except GuestMisuse as misuse:
            self._machine.cpus[cpu].not_modelled(f"hypercall {value}: {misuse}")
            return True

    def _begin(self, cpu: int, number: int, arguments: tuple[int, ...], key: tuple[int, int]) -> bool:
        try:
            function = Function(number)
        except ValueError:
            raise GuestMisuse("there is no such function") from None
        if function is Function.EVENT:
            name = self._event_name(cpu, arguments[0])
            self._machine.cpus[cpu].yielded = True
            for observer in self.observers:
                observer.event(cpu, name)
            return True
        if self.policy is None:
            return True
        if function in (Function.BOOT, Function.CPU_UP):
            self._boot(cpu, function, arguments)
            return True
        thread = self._thread_of(function, arguments)
        generator = self._hook(cpu, function, arguments, thread)
        call = HookCall(function, arguments, key, thread.id if thread else 0, generator)
        self.calls[cpu].append(call)
        self.counts.hooks += 1
        self._count_moment(function)
        return self._advance(cpu, call, None, first=True)

    def _count_moment(self, function: Function) -> None:
        self.counts.switches += function is Function.SWITCH_IN
        self.counts.syscalls += function is Function.ENTER_KERNEL

    def _continue(self, cpu: int, call: HookCall) -> bool:
        answer, previous = self._carry_out(cpu, call, call.step)
        if answer is _WAITING:
            self.blocked[cpu] = True
            self.counts.waits += 1
            return False
        self.counts.steps += 1
        call.answers.append(answer)
        for observer in self.observers:
            observer.stepped(cpu, call, call.step, answer, previous)
        return self._advance(cpu, call, answer)

    def _advance(self, cpu: int, call: HookCall, answer: Any, first: bool = False) -> bool:
        """Ask the hook for its next step; True when it has ended."""
        try:
            call.step = next(call.generator) if first else call.generator.send(answer)
        except StopIteration as end:
            self._end(cpu, call, end.value)
            return True
        except Exception as error:
            raise PolicyError(f"{self._name(call)} raised {type(error).__name__}: {error}") from error
        if not isinstance(call.step, steps.Step):
            raise PolicyError(f"{self._name(call)} yielded {call.step!r}, which is no micro-step")
        return False

    def _name(self, call: HookCall) -> str:
        policy = self.policy
        return f"policy {policy.id if policy else '-'}, hook {call.function.name.lower()}"

    def _end(self, cpu: int, call: HookCall, result: Any) -> None:
        if call.held:
            raise PolicyError(f"{self._name(call)} ended without unlocking {', '.join(call.held)}")
        self.calls[cpu].pop()
        self._machine.cpus[cpu].registers.gpr[Gpr.RAX] = int(bool(result))
        thread = self.threads.get(call.thread)
        if call.function is Function.EXIT_THREAD and thread is not None:
            del self.threads[thread.id]
            for page in thread.pages:
                self._leaves.pop((page.thread, page.index), None)
            for observer in self.observers:
                observer.thread_gone(thread)
        elif call.function is Function.STACK_FAULT and not result and thread is not None:
            for observer in self.observers:
                observer.fault_refused(cpu, thread, call.arguments[0])

    # --- what hypercalls say

    def _event_name(self, cpu: int, address: int) -> str:
        raw = self._machine.cpus[cpu].linear.code(address, hypercall.MAX_EVENT_NAME)
        return raw.split(b"\0")[0].decode("ascii", "replace")

    def _boot(self, cpu: int, function: Function, arguments: tuple[int, ...]) -> None:
        if function is Function.CPU_UP:
            if arguments[0] not in self.online:
                self.online = sorted([*self.online, arguments[0]])
            return
        start, size, mailboxes, packed = arguments
        if start % PAGE or size % PAGE or size > _MAX_POOL or start + size > self._machine.memory.size:
            raise GuestMisuse(f"page pool of {size:#x} bytes at {start:#x} is not in RAM")
        self._mailboxes = (mailboxes, packed & 0xFFFFFFFF)
        self.frames = list(range(start, start + size, PAGE))
        self._given = frozenset(self.frames)
        self.pools = Pools(self._pool_config, len(self._machine.cpus), self.frames)
        modes = self._machine.modes
        answer = hypercall.boot_answer(modes.stack_fault_delivery, modes.kernel_pages)
        self._machine.cpus[cpu].registers.gpr[Gpr.RAX] = answer
        self._machine.cpus[cpu].yielded = True
        for observer in self.observers:
            observer.booted(self.frames)

    def _thread_of(self, function: Function, arguments: tuple[int, ...]) -> Thread | None:
        if self.pools is None:
            raise GuestMisuse(f"{function.name} before BOOT")
        if function is Function.MEMORY_PRESSURE:
            return None
        if function is Function.CREATE_THREAD:
            return self._create(*arguments)
        identity = arguments[1] if function is Function.STACK_FAULT else arguments[0]
        thread = self.threads.get(identity)
        if thread is None:
            raise GuestMisuse(f"{function.name} of thread {identity}, which does not exist")
        if function is Function.SWITCH_OUT:
            thread.saved_rsp = arguments[1]
        return thread

    def _create(self, identity: int, bottom: int, size: int, user: int) -> Thread:
        if identity in self.threads:
            raise GuestMisuse(f"thread {identity} is created twice")
        if bottom % PAGE or size % PAGE or not 0 < size <= _MAX_STACK:
            raise GuestMisuse(f"stack of {size:#x} bytes at {bottom:#x}")
        thread = self.threads[identity] = Thread(identity, bottom, size, bool(user))
        for observer in self.observers:
            observer.thread_created(thread)
        return thread

    def _hook(
        self, cpu: int, function: Function, arguments: tuple[int, ...], thread: Thread | None
    ) -> Generator[Any, Any, Any]:
        policy = self.policy
        assert policy is not None
        if thread is None:
            return policy.memory_pressure(cpu, arguments[0])
        if function is Function.STACK_FAULT:
            return policy.stack_fault(cpu, thread, arguments[0], arguments[2])
        if function is Function.REQUEST:
            return policy.request(cpu, thread, arguments[1])
        simple = {
            Function.CREATE_THREAD: policy.create_thread,
            Function.EXIT_THREAD: policy.exit_thread,
            Function.ENTER_KERNEL: policy.enter_kernel,
            Function.EXIT_KERNEL: policy.exit_kernel,
            Function.SWITCH_IN: policy.switch_in,
            Function.SWITCH_OUT: policy.switch_out,
        }
        return simple[function](cpu, thread)

    # --- micro-steps

    def _carry_out(self, cpu: int, call: HookCall, step: steps.Step) -> tuple[Any, Pte | None]:
        """Do one step: what it answers, and the entry that a store replaces."""
        handler = _HANDLERS.get(type(step))
        if handler is None:
            raise PolicyError(f"{self._name(call)} yielded {step}, which this machine does not know")
        try:
            previous = self._leaf_value(cpu, step.page) if isinstance(step, steps.WritePte) else None
            return handler(self, cpu, call, step), previous
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise PolicyError(f"{self._name(call)}: {step!r} has a wrong argument ({error})") from error

    def _own(self, call: HookCall, frame: int) -> int:
        """A frame that the guest gave to the policy.

        Raises:
            PolicyError: it is none.
        """
        if frame not in self._given:
            raise PolicyError(f"{self._name(call)}: {frame:#x} is no frame of the pool (a page address? an entry?)")
        return frame

    def _leaf(self, cpu: int, page: Page) -> int:
        """Physical address of a page's leaf entry."""
        key = (page.thread, page.index)
        found = self._leaves.get(key)
        if found is None:
            found = self._machine.cpus[cpu].mmu.leaf_address(page.address)
            if found is None:
                raise GuestMisuse(f"no page table for the stack page at {page.address:#x}")
            self._leaves[key] = found
        return found

    def _leaf_value(self, cpu: int, page: Page) -> Pte:
        return Pte(self._machine.memory.read64(self._leaf(cpu, page)))

    def _read_pte(self, cpu: int, call: HookCall, step: steps.ReadPte) -> Pte:
        self.counts.pte_reads += 1
        return self._leaf_value(cpu, step.page)

    def _write_pte(self, cpu: int, call: HookCall, step: steps.WritePte) -> None:
        self.counts.pte_writes += 1
        self._count_unmap(call, self._leaf_value(cpu, step.page), step.pte)
        self._machine.memory.write64(self._leaf(cpu, step.page), step.pte.value)

    def _count_unmap(self, call: HookCall, old: Pte, new: Pte) -> None:
        """Count present entries of living threads that become not present, or another frame's."""
        changed = old.present and (not new.present or new.frame != old.frame)
        self.counts.unmaps += changed and call.function is not Function.EXIT_THREAD

    def _exchange_pte(self, cpu: int, call: HookCall, step: steps.ExchangePte) -> Pte:
        self.counts.pte_exchanges += 1
        old = self._machine.memory.compare_exchange64(self._leaf(cpu, step.page), step.expected.value, step.pte.value)
        if old == step.expected.value:
            self._count_unmap(call, Pte(old), step.pte)
        return Pte(old)

    def _invlpg(self, cpu: int, call: HookCall, step: steps.Invlpg) -> None:
        self.counts.invlpg += 1
        self._machine.cpus[cpu].mmu.invlpg(step.page.address)

    def _take(self, cpu: int, call: HookCall, step: steps.TakePage) -> int | None:
        assert self.pools is not None
        frame = self.pools.take(cpu)
        self.counts.pages_taken += frame is not None
        self.counts.refusals += frame is None
        return frame

    def _give(self, cpu: int, call: HookCall, step: steps.GiveBack) -> None:
        assert self.pools is not None
        self.counts.pages_given += 1
        if self._own(call, step.frame) not in self.pools:  # a double free is the oracle's to report, not to act out
            self.pools.give(cpu, step.frame)

    def _zero(self, cpu: int, call: HookCall, step: steps.ZeroPage) -> None:
        self.counts.pages_zeroed += 1
        self._machine.memory.write(self._own(call, step.frame), bytes(PAGE))

    def _others(self, cpu: int, call: HookCall, step: steps.OtherCpus) -> tuple[int, ...]:
        return tuple(other for other in self.online if other != cpu)

    def _mailbox(self, cpu: int, word: int) -> int:
        start, stride = self._mailboxes
        address = self._machine.cpus[cpu].mmu.resolve(start + cpu * stride + word)
        if address is None:
            raise GuestMisuse(f"the shootdown mailbox of CPU {cpu} is not mapped")
        return address

    def _post(self, cpu: int, call: HookCall, step: steps.PostFlush) -> None:
        memory = self._machine.memory
        memory.write64(self._mailbox(step.cpu, hypercall.MAILBOX_START), step.start)
        memory.write64(self._mailbox(step.cpu, hypercall.MAILBOX_PAGES), step.pages)
        request = self._mailbox(step.cpu, hypercall.MAILBOX_REQUEST)
        memory.write64(request, memory.read64(request) + 1)

    def _send(self, cpu: int, call: HookCall, step: steps.SendIpi) -> None:
        if step.cpu not in self.online:
            raise PolicyError(f"{self._name(call)}: CPU {step.cpu} is not online")
        self.counts.ipis += 1
        self._machine.send(cpu, (step.cpu,), DeliveryMode.FIXED, hypercall.SHOOTDOWN_VECTOR)

    def _wait(self, cpu: int, call: HookCall, step: steps.WaitForAck) -> Any:
        memory = self._machine.memory
        request = memory.read64(self._mailbox(step.cpu, hypercall.MAILBOX_REQUEST))
        acknowledged = memory.read64(self._mailbox(step.cpu, hypercall.MAILBOX_ACK))
        return None if acknowledged >= request else _WAITING

    def _lock(self, cpu: int, call: HookCall, step: steps.Lock) -> Any:
        if step.name in self._locks:
            return _WAITING
        self._locks[step.name] = cpu
        call.held.append(step.name)
        return None

    def _unlock(self, cpu: int, call: HookCall, step: steps.Unlock) -> None:
        if step.name not in call.held:
            raise PolicyError(f"{self._name(call)} unlocks {step.name}, which it does not hold")
        call.held.remove(step.name)
        del self._locks[step.name]

    # --- snapshot

    def boot_again(self, booted: StackRuntime) -> None:
        """Start where `booted` stood right after the guest's BOOT, with pools of this one's own configuration."""
        self.online, self._mailboxes, self.frames = list(booted.online), booted._mailboxes, list(booted.frames)
        self._given = booted._given
        self.pools = Pools(self._pool_config, len(self._machine.cpus), self.frames)
        for observer in self.observers:
            observer.booted(self.frames)

    def snapshot(self) -> Any:
        """The policy's side of the machine's state, immutable; hooks as the answers they have had."""
        calls = tuple(
            tuple((c.function, c.arguments, c.key, c.thread, tuple(c.answers), tuple(c.held)) for c in stack)
            for stack in self.calls
        )
        threads = tuple((t.id, t.bottom, t.size, t.is_user, t.saved_rsp) for t in self.threads.values())
        pools = None if self.pools is None else self.pools.snapshot()
        counts = tuple(vars(self.counts).values())
        locks = tuple(sorted(self._locks.items()))
        rest = tuple(self.online), self._mailboxes, tuple(self.frames), tuple(self.blocked)
        return calls, threads, pools, counts, locks, rest

    def restore(self, state: Any) -> None:
        """Become what `snapshot` returned: hooks in flight are fed their answers again."""
        calls, threads, pools, counts, locks, (online, self._mailboxes, frames, blocked) = state
        self.blocked = list(blocked)
        self.frames, self._given = list(frames), frozenset(frames)
        self.threads = {thread[0]: Thread(*thread) for thread in threads}
        if pools is None:
            self.pools = None
        else:
            if self.pools is None:
                self.pools = Pools(self._pool_config, len(self._machine.cpus), [])
            self.pools.restore(pools)
        self.counts = StepCounts(*counts)
        self._locks, self.online = dict(locks), list(online)
        self._leaves.clear()
        self.calls = [[self._remake(cpu, saved) for saved in stack] for cpu, stack in enumerate(calls)]

    def _remake(self, cpu: int, saved: Any) -> HookCall:
        function, arguments, key, thread, answers, held = saved
        generator = self._hook(cpu, function, arguments, self.threads.get(thread))
        call = HookCall(function, arguments, key, thread, generator, answers=list(answers), held=list(held))
        call.step = next(generator)
        for answer in answers:
            call.step = generator.send(answer)
        return call


_HANDLERS: dict[type[steps.Step], Any] = {
    steps.ReadPte: StackRuntime._read_pte,
    steps.WritePte: StackRuntime._write_pte,
    steps.ExchangePte: StackRuntime._exchange_pte,
    steps.Invlpg: StackRuntime._invlpg,
    steps.TakePage: StackRuntime._take,
    steps.GiveBack: StackRuntime._give,
    steps.ZeroPage: StackRuntime._zero,
    steps.OtherCpus: StackRuntime._others,
    steps.PostFlush: StackRuntime._post,
    steps.SendIpi: StackRuntime._send,
    steps.WaitForAck: StackRuntime._wait,
    steps.Lock: StackRuntime._lock,
    steps.Unlock: StackRuntime._unlock,
}
