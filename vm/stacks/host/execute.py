"""Carries out micro-steps on a machine: page-table entries, invalidations, IPIs, pools, locks, variables.

Each step acts at once and as a whole; what is between two of them is for the schedule to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

from kstack.base.encoding import encoded
from kstack.base.errors import PolicyError, ScenarioError
from kstack.hw.apic.apic import DeliveryMode
from kstack.hw.instruments import Slot
from kstack.kernels.kernel import Kernel
from kstack.machine import Machine
from kstack.stacks import steps
from kstack.stacks.area import Areas, Page, Pte, Thread
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import MAY_SLEEP, WAITING, GuestMisuse, HookCall, StackHooks, StepCounts, Unanswered
from kstack.stacks.host.checks import StepChecks, said, shown
from kstack.stacks.host.entries import LazyEntries
from kstack.stacks.host.pool import PoolConfig, Pools, PoolsState
from kstack.stacks.host.state import ExecutorSnapshot, ExecutorState, GivenState, Variable
from kstack.x86.addresses import PAGE
from kstack.x86.entries import A, G
from kstack.x86.flags import Flags
from kstack.x86.invalidation import InvlpgbRax

_IF: Final = int(Flags.IF)
_STORES: Final = (steps.WritePte, steps.Store, steps.Unlock)
_MAX_VARIABLES: Final = 1 << 20
_MASK64: Final = (1 << 64) - 1

Carried = steps.Answered | Unanswered
"""What a step that was carried out answers, if it was."""


StoreKind = Literal["memory", "pte", "variable", "unlock"]


class Pending(NamedTuple):
    """A store that its CPU has made and nobody else sees yet.

    Attributes:
        kind: `memory`, `pte`, `variable` or `unlock`.
        where: physical address (bytes); linear page number and physical address of the entry; name and key;
            the lock's name.
        value: bytes; the entry; the variable's value; None.
    """

    kind: StoreKind
    where: Any
    value: Any


class Executor:
    """What policies act on.

    Args:
        machine: the machine.
        kernel: of its guest.
        pool: how page pools behave.
        threads: the runtime's, by id.
        hooks: the runtime's.
    """

    def __init__(
        self, machine: Machine, kernel: Kernel, pool: PoolConfig, threads: dict[int, Thread], hooks: StackHooks
    ) -> None:
        self._machine = machine
        self._kernel = kernel
        self._pool_config = pool
        self._threads = threads
        self.areas = Areas()
        self.checks = StepChecks(self.areas, len(machine.cpus))
        self._hooks = hooks
        self.counts = StepCounts()
        self.pools: Pools | None = None
        self.online: list[int] = []
        self.variables: dict[Variable, steps.Value] = {}
        self.dry: dict[int, bool] = {}  # threads for which there was no page when one was wanted last
        self._give_frames([])
        self.locks: dict[str, int] = {}  # name -> the CPU that holds it
        self._leaves: dict[Page, int] = {}
        self.lazy: LazyEntries | None = None  # told of stores to entries, while exploring
        self.put: Callable[[int, Pending], None] | None = None  # takes plain stores, while exploring x86-TSO
        self.hears_touch: Slot[[int, int], None] = Slot()  # where in RAM a step reaches: CPU, address
        self._keep = ~G if machine.modes.kernel_pages == "pcid" else -1

    def boot(self, frames: list[int]) -> None:
        """The guest gives its frames."""
        self._give_frames(frames)
        self.pools = Pools(self._pool_config, len(self._machine.cpus), self.frames)

    def _give_frames(self, frames: Sequence[int]) -> None:
        self.frames = list(frames)  # all that the guest gave, by physical address
        self._given = self.checks.given = frozenset(frames)

    def forget(self, thread: Thread) -> None:
        """A thread is gone."""
        for page in thread.pages:
            self._leaves.pop(page, None)
        self.dry.pop(thread.id, None)

    def carry_out(self, cpu: int, call: HookCall, step: steps.Step, name: str) -> tuple[Carried, Pte | None]:
        """Do one step: what it answers (WAITING to try again), and the entry that a store replaced.

        Args:
            cpu: the CPU that runs the hook.
            call: the hook.
            step: what it yielded.
            name: what to call the hook in errors.

        Raises:
            PolicyError: no such step, or arguments that make no sense.
            GuestMisuse: the guest's tables or mailboxes are not there.
        """
        handler = _HANDLERS.get(type(step))
        if handler is None:
            raise PolicyError(f"{name} yielded {shown(step)}, which this machine does not know")
        try:
            self.checks.check(step)
            if self.put is not None and isinstance(step, _STORES):
                return None, self._buffer(cpu, call, step)
            answer = handler(self, cpu, call, step)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise PolicyError(f"{name}: {shown(step)} has a wrong argument ({said(error)})") from error
        if not isinstance(step, steps.PteStore):
            return answer, None
        assert isinstance(answer, Pte)
        previous = answer
        if isinstance(step, steps.WritePte):
            answer = None
        stored = not isinstance(step, steps.ExchangePte) or previous == step.expected
        if stored:
            self._entry_stored(
                step.page.address >> 12, previous.value, step.pte.value & self._keep, isinstance(step, steps.WritePte)
            )
            self._count_unmap(call, previous, step.pte)
        return answer, previous if stored else None

    def _entry_stored(self, page: int, old: int, new: int, plain: bool) -> None:
        """The entry of a page (linear number) has just been replaced in memory."""
        if self.lazy is not None:
            if not self.lazy.manages(page << 12):
                raise ScenarioError(
                    f"a policy's store to the entry of {page << 12:#x}, whose page is not managed: the stacks of a litmus "
                    "scenario must exist when its programs begin"
                )
            self.lazy.entry_was(page, old, plain)
            self.lazy.entry_is(page, new)

    def _count_unmap(self, call: HookCall, old: Pte, new: Pte) -> None:
        changed = old.present and (not new.present or new.frame != old.frame)
        self.counts.unmaps += changed and call.hook is not HookKind.EXIT_THREAD

    # --- store buffers (kstack.explore.model.store_buffers)

    def _buffer(self, cpu: int, call: HookCall, step: steps.WritePte | steps.Store | steps.Unlock) -> Pte | None:
        """Make a plain store that nobody sees yet; the entry that it will replace."""
        assert self.put is not None
        if isinstance(step, steps.WritePte):
            self.counts.pte_writes += 1
            leaf = self._leaf(cpu, step.page)
            old = Pte(self._machine.memory.read64(leaf))
            self.put(cpu, Pending("pte", (step.page.address >> 12, leaf), step.pte.value & self._keep))
            self._count_unmap(call, old, step.pte)
            return old
        if isinstance(step, steps.Store):
            self.counts.variables += 1
            self.put(cpu, Pending("variable", (step.name, step.key), step.value))
        else:
            self._release(call, step)
            self.put(cpu, Pending("unlock", step.name, None))
        return None

    def commit(self, pending: Pending) -> None:
        """A plain store becomes visible."""
        if pending.kind == "pte":
            page, leaf = pending.where
            old = self._machine.memory.read64(leaf)
            self._machine.memory.write64(leaf, pending.value)
            self._entry_stored(page, old, pending.value, True)
        elif pending.kind == "unlock":
            del self.locks[pending.where]
        else:
            self._set(pending.where, pending.value)

    # --- what an explorer asks

    def waits(self, cpu: int, call: HookCall, step: steps.Step) -> bool:
        """Whether a step would have to wait now."""
        if isinstance(step, steps.Lock):
            return step.name in self.locks
        return isinstance(step, steps.WaitForAck) and self._wait(cpu, call, step) is WAITING

    def pending(self, cpu: int, step: steps.Step) -> bool:
        """Whether a step looks at an entry of which it shows only now if a CPU has set Accessed in it."""
        if self.lazy is None or not isinstance(step, steps.ReadPte | steps.ExchangePte | steps.SwapPte):
            return False
        return self.lazy.is_pending(self._machine.memory.read64(self._leaf(cpu, step.page)))

    def set_accessed(self, cpu: int, page: Page) -> None:
        """Some CPU's walker has set Accessed in a page's entry, speculatively."""
        assert self.lazy is not None
        leaf, memory = self._leaf(cpu, page), self._machine.memory
        entry = memory.read64(leaf)
        memory.exchange_quietly(leaf, entry, entry | A)
        self.lazy.entry_is(page.address >> 12, entry | A)

    # --- page-table entries

    def _leaf(self, cpu: int, page: Page) -> int:
        """Physical address of a page's leaf entry."""
        found = self._leaves.get(page)
        if found is None:
            found = self._machine.cpus[cpu].mmu.leaf_address(page.address)
            if found is None:
                raise GuestMisuse(f"no page table for the stack page at {page.address:#x}")
            self._leaves[page] = found
        return found

    def _read_pte(self, cpu: int, call: HookCall, step: steps.ReadPte) -> Pte:
        self.counts.pte_reads += 1
        return Pte(self._machine.memory.read64(self._leaf(cpu, step.page)))

    def _write_pte(self, cpu: int, call: HookCall, step: steps.WritePte) -> Pte:
        self.counts.pte_writes += 1
        leaf, memory = self._leaf(cpu, step.page), self._machine.memory
        old = Pte(memory.read64(leaf))
        memory.write64(leaf, step.pte.value & self._keep)
        return old

    def _exchange_pte(self, cpu: int, call: HookCall, step: steps.ExchangePte) -> Pte:
        self.counts.pte_exchanges += 1
        leaf = self._leaf(cpu, step.page)
        return Pte(self._machine.memory.compare_exchange64(leaf, step.expected.value, step.pte.value & self._keep))

    def _swap_pte(self, cpu: int, call: HookCall, step: steps.SwapPte) -> Pte:
        self.counts.pte_exchanges += 1
        leaf, memory = self._leaf(cpu, step.page), self._machine.memory
        old = memory.read64(leaf)
        memory.compare_exchange64(leaf, old, step.pte.value & self._keep)
        return Pte(old)

    # --- invalidation

    def _invlpg(self, cpu: int, call: HookCall, step: steps.Invlpg) -> None:
        """Linux's flush_tlb_one_kernel: where kernel pages are not global, every PCID's entry goes."""
        self.counts.invlpg += 1
        mmu = self._machine.cpus[cpu].mmu
        mmu.invlpg(step.page.address)
        if self._keep != -1:
            mmu.drop_address(step.page.address, None, True)

    def _invlpgb(self, cpu: int, call: HookCall, step: steps.Invlpgb) -> None:
        self.counts.invlpgb += 1
        rax = step.page.address | InvlpgbRax.VA_VALID | InvlpgbRax.INCLUDE_GLOBAL
        self._machine.broadcast.invlpgb(cpu, int(rax), step.pages - 1, 0)

    def _tlbsync(self, cpu: int, call: HookCall, step: steps.Tlbsync) -> None:
        self.counts.tlbsync += 1
        self._machine.broadcast.tlbsync(cpu)

    # --- frames

    def _own(self, frame: int) -> int:
        """A frame that the guest gave to the policy."""
        if not isinstance(frame, int):
            raise TypeError(f"a frame is a physical address, not {frame!r}")
        if frame not in self._given:
            raise ValueError(f"{frame:#x} is no frame of the pool (a page address? an entry?)")
        return frame

    def _got(self, call: HookCall, frame: int | None) -> int | None:
        if call.thread:
            self.dry[call.thread] = frame is None
        self.counts.refusals += frame is None
        return frame

    def _take(self, cpu: int, call: HookCall, step: steps.TakePage) -> int | None:
        assert self.pools is not None
        frame = self._got(call, self.pools.take(cpu, step.fallback))
        self.counts.pages_taken += frame is not None
        return frame

    def _allocate(self, cpu: int, call: HookCall, step: steps.AllocPage) -> int | None:
        assert self.pools is not None
        frame = self._got(call, self.pools.allocate())
        self.counts.pages_allocated += frame is not None
        atomic = call.hook not in MAY_SLEEP or not self._machine.cpus[cpu].registers.rflags & _IF
        if frame is None and step.sleep and atomic:
            self._hooks.cannot_sleep(cpu, call)
        return frame

    def _level(self, cpu: int, call: HookCall, step: steps.PoolLevel) -> int:
        assert self.pools is not None
        return self.pools.level(cpu)

    def _give(self, cpu: int, call: HookCall, step: steps.GiveBack) -> None:
        assert self.pools is not None
        self.counts.pages_given += 1
        to = cpu if step.cpu is None else step.cpu
        if not 0 <= to < len(self._machine.cpus):
            raise ValueError(f"CPU {to}")
        if self._own(step.frame) not in self.pools:  # a double free is the oracle's to report, not to act out
            self.pools.give(to, step.frame)

    def _zero(self, cpu: int, call: HookCall, step: steps.ZeroPage) -> None:
        self.counts.pages_zeroed += 1
        if (hear := self.hears_touch.held) is not None:
            hear(cpu, self._own(step.frame))
        self._machine.memory.write(self._own(step.frame), bytes(PAGE))

    # --- variables

    def _load(self, cpu: int, call: HookCall, step: steps.Load) -> steps.Value:
        self.counts.variables += 1
        return self.variables.get((step.name, step.key))

    def _store(self, cpu: int, call: HookCall, step: steps.Store | steps.Swap) -> steps.Value:
        self.counts.variables += 1
        old = self._set((step.name, step.key), step.value)
        return old if isinstance(step, steps.Swap) else None

    def _set(self, key: Variable, value: steps.Value) -> steps.Value:
        """Store a variable; what it held."""
        old = self.variables.pop(key, None)
        if value is not None:
            self.variables[key] = value
            if len(self.variables) > _MAX_VARIABLES:
                raise ValueError(f"more than {_MAX_VARIABLES} variables")
        return old

    # --- threads and CPUs

    def _sleepers(self, cpu: int, call: HookCall, step: steps.Sleepers) -> tuple[Thread, ...]:
        before = self._machine.now() - step.units
        found = [thread for thread in self._threads.values() if 0 <= thread.since <= before and thread.id > step.after]
        found.sort(key=lambda thread: thread.id)
        return tuple(replace(thread) for thread in found[: step.most or None])

    def _thread_at(self, cpu: int, call: HookCall, step: steps.ThreadAt) -> Thread | None:
        thread = self.areas.find(self._threads, step.address)
        return None if thread is None else replace(thread)

    def _others(self, cpu: int, call: HookCall, step: steps.OtherCpus) -> tuple[int, ...]:
        return tuple(other for other in self.online if other != cpu)

    # --- shootdown

    def _touching(self, cpu: int) -> Callable[[int], None]:
        """Tells who listens where in RAM a step of this CPU reaches."""

        def touch(address: int) -> None:
            if (hear := self.hears_touch.held) is not None:
                hear(cpu, address)

        return touch

    def _post(self, cpu: int, call: HookCall, step: steps.PostFlush) -> None:
        self._kernel.post_flush(cpu, step.cpu, step.start, step.pages, self._touching(cpu))

    def _send(self, cpu: int, call: HookCall, step: steps.SendIpi) -> None:
        if step.cpu not in self.online:
            raise ValueError(f"CPU {step.cpu} is not online")
        self.counts.ipis += 1
        self._machine.send(cpu, (step.cpu,), DeliveryMode.FIXED, self._kernel.facts.shootdown_vector)

    def _wait(self, cpu: int, call: HookCall, step: steps.WaitForAck) -> Unanswered | None:
        return None if self._kernel.has_flushed(cpu, step.cpu, self._touching(cpu)) else WAITING

    def _lock(self, cpu: int, call: HookCall, step: steps.Lock) -> Unanswered | None:
        if step.name in self.locks:
            self.counts.lock_waits += 1
            return WAITING
        self.counts.locks += 1
        self.locks[step.name] = cpu
        call.held.append(step.name)
        return None

    def _unlock(self, cpu: int, call: HookCall, step: steps.Unlock) -> None:
        self._release(call, step)
        del self.locks[step.name]

    def _release(self, call: HookCall, step: steps.Unlock) -> None:
        if step.name not in call.held:
            raise ValueError(f"it does not hold {step.name}")
        call.held.remove(step.name)

    # --- snapshot

    def snapshot(self) -> ExecutorSnapshot:
        """What decides how the policy goes on, and its counts."""
        return ExecutorSnapshot(
            tuple(vars(self.counts).values()),
            None if self.pools is None else self.pools.snapshot(),
            GivenState(tuple(self.online), self._kernel.snapshot(), tuple(self.frames)),
            tuple(sorted(self.variables.items(), key=encoded)),
            tuple(sorted(self.locks.items())),
            tuple(sorted(self.dry.items())),
        )

    def restore(self, state: ExecutorSnapshot) -> None:
        """Become what `snapshot` returned."""
        counts, pools, (online, kernel, frames), variables, locks, dry = state
        self.counts = StepCounts(*counts)
        self.online = list(online)
        self._kernel.restore(kernel)
        self._give_frames(frames)
        self._restore_pools(pools)
        self.variables, self.locks, self.dry = dict(variables), dict(locks), dict(dry)
        self._leaves.clear()

    def save(self) -> ExecutorState:
        """What `snapshot` has, and what decides beside it: the order of variables, entries found, areas that there were."""
        return ExecutorState(
            replace(self.counts),
            None if self.pools is None else self.pools.snapshot(),
            tuple(self.online),
            self._kernel.snapshot(),
            self.frames,  # replaced where the guest gives frames, and never changed
            dict(self.variables),
            dict(self.dry),
            dict(self.locks),
            dict(self._leaves),
            self.areas.save(),
        )

    def load(self, state: ExecutorState) -> None:
        """Become what `save` returned."""
        self.counts = replace(state.counts)
        self.online = list(state.online)
        self._kernel.restore(state.kernel)
        if self.frames is not state.frames:
            self.frames = state.frames
            self._given = self.checks.given = frozenset(state.frames)
        self._restore_pools(state.pools)
        self.variables, self.dry, self.locks = dict(state.variables), dict(state.dry), dict(state.locks)
        self._leaves = dict(state.leaves)
        self.areas.load(state.areas)

    def _restore_pools(self, state: PoolsState | None) -> None:
        if state is None:
            self.pools = None
        else:
            self.pools = self.pools or Pools(self._pool_config, len(self._machine.cpus), [])
            self.pools.restore(state)


_HANDLERS: Final[dict[type[steps.Step], Callable[[Executor, int, HookCall, Any], Carried]]] = {
    steps.ReadPte: Executor._read_pte,
    steps.WritePte: Executor._write_pte,
    steps.ExchangePte: Executor._exchange_pte,
    steps.SwapPte: Executor._swap_pte,
    steps.Invlpg: Executor._invlpg,
    steps.Invlpgb: Executor._invlpgb,
    steps.Tlbsync: Executor._tlbsync,
    steps.TakePage: Executor._take,
    steps.AllocPage: Executor._allocate,
    steps.PoolLevel: Executor._level,
    steps.GiveBack: Executor._give,
    steps.ZeroPage: Executor._zero,
    steps.Load: Executor._load,
    steps.Store: Executor._store,
    steps.Swap: Executor._store,
    steps.Sleepers: Executor._sleepers,
    steps.ThreadAt: Executor._thread_at,
    steps.OtherCpus: Executor._others,
    steps.PostFlush: Executor._post,
    steps.SendIpi: Executor._send,
    steps.WaitForAck: Executor._wait,
    steps.Lock: Executor._lock,
    steps.Unlock: Executor._unlock,
}
