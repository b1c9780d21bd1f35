"""What one run used: memory of stacks, their depth, pools over time, faults, and operations by hook.

Everything is exact and depends on nothing but the run. What is measured:

- A thread holds the pages whose leaf entries are present. It lives from its creation's last step to
  the begin of its exit, and is *asleep* while it is not between the begins of SWITCH_IN and SWITCH_OUT.
- The depth at a context switch is the distance from the top of the stack area to the RSP with which
  the thread was switched out (bytes).
- The maximum depth of a thread is the largest of: its depths at context switches; the distance from
  the top to an address in its area that faulted and was given to the policy; and, of the deepest page
  below the top one that was found *Dirty* when its entry was cleared, or at the end, one byte more
  than what lies above that page, which is a lower bound. Dirty and not Accessed, because only a store
  that was executed sets it, while a speculative fill may set Accessed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final, NamedTuple

from kstack.hw.cpu.events import Event, EventKind, Outcome
from kstack.hw.cpu.hooks import Delivery
from kstack.machine import Machine
from kstack.stacks.area import Page, Pte, Thread
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall
from kstack.stacks.host.runtime import StackRuntime
from kstack.stacks.measure.costs import STEP_OPERATIONS
from kstack.stacks.measure.levels import Levels, LevelsState, PoolUse
from kstack.stacks.steps import AllocPage, Answered, GiveBack, PostFlush, PteStore, Step, TakePage
from kstack.x86.addresses import PAGE
from kstack.x86.control import Cr4
from kstack.x86.vectors import BP, DB, DE, DF, GP, MNEMONICS, NMI, PF, SS, UD

BUCKETS: Final = (1024, 2048, 4096, 8192, 16384)
"""Upper bounds in bytes of the buckets of Linux's kstack_* counters; the last takes what is deeper too."""
_NAMES: Final = {vector: MNEMONICS[vector] for vector in (DE, DB, NMI, BP, UD, DF, SS, GP, PF)}
"""By which exceptions are counted; the others go by their numbers."""
_FRED: Final = int(Cr4.FRED)  # asked at each event


@dataclass(frozen=True)
class UsageSummary:
    """What one run used.

    Attributes:
        threads: how many have lived; those for which creation found no page have not.
        kib_mean: KiB mapped a living thread, averaged over time; None where no thread has lived.
        kib_peak: the most that living threads held on average at one moment (KiB).
        kib_static: KiB mapped when a thread's creation has ended, averaged over threads.
        kib_asleep: as `kib_mean`, while threads were asleep.
        peak_pages: most pages mapped at once in all stacks together.
        depth_at_switch: context switches by depth, in the buckets of `BUCKETS`.
        depth_max: threads by maximum depth, in the same buckets.
        kib_by_depth: KiB mapped a sleeping user thread, averaged over time, by the bucket of its maximum depth.
        pools: levels of the pools of stack pages.
        faults: exceptions by name whose delivery was begun, the first of a #DF included.
        page_faults, double_faults, fred_faults: faults taken as #PF, as #DF, and by FRED, each once.
        walks: page walks that accesses made, by all CPUs.
        tlb_lost: TLB entries that were invalidated, by whatever instruction or fault, on all CPUs.
        guest_invlpg, guest_invpcid: such instructions that the guest executed.
        interrupts: external interrupts that CPUs took, IPIs and timers.
        hook_calls: calls by hook.
        hook_operations: operations of the cost model by hook, INVLPGs it asked other CPUs for included.
    """

    threads: int
    kib_mean: float | None
    kib_peak: float
    kib_static: float | None
    kib_asleep: float | None
    peak_pages: int
    depth_at_switch: tuple[int, ...]
    depth_max: tuple[int, ...]
    kib_by_depth: tuple[float | None, ...]
    pools: PoolUse | None
    faults: dict[str, int]
    page_faults: int
    double_faults: int
    fred_faults: int
    walks: int
    tlb_lost: int
    guest_invlpg: int
    guest_invpcid: int
    interrupts: int
    hook_calls: dict[str, int]
    hook_operations: dict[str, dict[str, int]]


@dataclass
class _Life:
    """One thread: pages mapped now, since when, and page-time so far (all, and asleep)."""

    thread: Thread
    since: int
    pages: int = 0
    static: int = 0
    awake: bool = False
    lived: bool = False
    living: bool = False
    time: int = 0
    page_time: int = 0
    sleep_time: int = 0
    sleep_page_time: int = 0
    deepest: int = 0

    def settle(self, now: int) -> None:
        elapsed, self.since = now - self.since, now
        if not self.living:
            return
        self.time += elapsed
        self.page_time += elapsed * self.pages
        if not self.awake:
            self.sleep_time += elapsed
            self.sleep_page_time += elapsed * self.pages


class _LifeState(NamedTuple):
    """A `_Life`, its thread by its id."""

    thread: int
    since: int
    pages: int
    static: int
    awake: bool
    lived: bool
    living: bool
    time: int
    page_time: int
    sleep_time: int
    sleep_page_time: int
    deepest: int


_get_life = attrgetter(*(name for name in _LifeState._fields if name != "thread"))


def bucket(depth: int) -> int:
    """The bucket of a depth in bytes."""
    return min(bisect_left(BUCKETS, depth), len(BUCKETS) - 1)


def _kib(page_time: int, time: int) -> float | None:
    return page_time * PAGE / 1024 / time if time else None


@dataclass
class _Faults:
    """Deliveries of exceptions."""

    begun: dict[str, int] = field(default_factory=dict)
    page: int = 0
    double: int = 0
    fred: int = 0

    def count(self, events: list[Event], outcome: Outcome, fred: bool) -> None:
        raised = [event for event in events if event.kind is EventKind.EXCEPTION]
        for event in raised:
            name = _NAMES.get(event.vector, f"#{event.vector}")
            self.begun[name] = self.begun.get(name, 0) + 1
        if not raised or outcome is Outcome.SHUTDOWN or raised[-1].vector not in (DF, PF):
            return
        if fred:
            self.fred += 1
        elif raised[-1].vector == DF:
            self.double += 1
        else:
            self.page += 1


class UsageState(NamedTuple):
    """What `Usage.save` gives; nobody changes what is in it."""

    lives: tuple[_LifeState, ...]
    gone: tuple[_Life, ...]
    pages: int
    kib_peak: float
    peak_pages: int
    at_switch: tuple[int, ...]
    faults: _Faults
    calls: dict[str, int]
    operations: dict[str, dict[str, int]]
    levels: LevelsState


class Usage:
    """Watches one run, from its making on.

    Args:
        machine: whose clock, faults and counters are read.
        runtime: whose hooks and pools are watched.
    """

    def __init__(self, machine: Machine, runtime: StackRuntime) -> None:
        self._machine = machine
        self._runtime = runtime
        self._lives: dict[int, _Life] = {}
        self._gone: list[_Life] = []
        self._pages = 0
        self._kib_peak = 0.0
        self._peak_pages = 0
        self._at_switch = [0] * len(BUCKETS)
        self._faults = _Faults()
        self._calls: dict[str, int] = {}
        self._operations: dict[str, dict[str, int]] = {}
        self._levels = Levels(len(machine.cpus))
        self._start = self._counters()

    def _counters(self) -> tuple[int, int, int, int, int]:
        """Walks, TLB entries lost, INVLPGs, INVPCIDs and interrupts of all CPUs since reset."""
        cpus = self._machine.cpus
        return (
            sum(cpu.mmu.walks for cpu in cpus),
            sum(cpu.mmu.lost for cpu in cpus),
            sum(cpu.counts.invlpg for cpu in cpus),
            sum(cpu.counts.invpcid for cpu in cpus),
            sum(cpu.counts.interrupts for cpu in cpus),
        )

    # --- what the policy does

    def on_boot(self, frames: list[int]) -> None:
        """The pools are full."""
        pools = self._runtime.pools
        if pools is not None:
            self._levels.begin(self._machine.now(), [pools.level(cpu) for cpu in range(len(self._machine.cpus))])

    def on_thread(self, thread: Thread) -> None:
        """A thread begins to live."""
        self._lives[thread.id] = _Life(thread, self._machine.now())

    def on_thread_end(self, thread: Thread) -> None:
        """A thread has exited."""
        life = self._lives.pop(thread.id, None)
        if life is not None:
            life.settle(self._machine.now())
            self._pages -= life.pages
            self._gone.append(life)

    def on_call(self, cpu: int, call: HookCall) -> None:
        """Depth at a context switch, and of a fault; who is awake."""
        name = call.hook.value
        self._calls[name] = self._calls.get(name, 0) + 1
        life = self._lives.get(call.thread)
        if life is None:
            return
        if call.hook is HookKind.SWITCH_OUT:
            self._slept(life, True)
            depth = self._depth(life, life.thread.saved_rsp)
            if depth is not None:
                self._at_switch[bucket(depth)] += 1
        elif call.hook is HookKind.SWITCH_IN:
            self._slept(life, False)
        elif call.hook is HookKind.EXIT_THREAD:
            life.settle(self._machine.now())
            life.living = False
        elif call.hook is HookKind.STACK_FAULT:
            self._depth(life, call.arguments[0])

    def _slept(self, life: _Life, asleep: bool) -> None:
        life.settle(self._machine.now())
        life.awake = not asleep

    def _depth(self, life: _Life, address: int) -> int | None:
        """Depth of an address in a thread's stack (bytes), which is remembered; None outside of it."""
        depth = life.thread.bottom + life.thread.size - address
        if not 0 <= depth <= life.thread.size:
            return None
        life.deepest = max(life.deepest, depth)
        return depth

    def on_step(self, cpu: int, call: HookCall, step: Step, answer: Answered, previous: Pte | None) -> None:
        """Count pages as their entries appear and vanish, frames as they leave pools, operations by hook."""
        self._count(call, step, answer)
        if isinstance(step, PteStore):
            if previous is not None:
                self._stored(call, step.page, previous, step.pte)
        elif isinstance(step, (TakePage, AllocPage)):
            self._pool_changed(cpu, 1 if answer is not None else 0)
        elif isinstance(step, GiveBack):
            self._pool_changed(cpu if step.cpu is None else step.cpu, -1)

    def _count(self, call: HookCall, step: Step, answer: Answered) -> None:
        operation, amount = STEP_OPERATIONS.get(type(step)), 1
        if isinstance(step, PostFlush):
            operation, amount = "invlpg", step.pages  # what the other CPU's handler will execute
        elif isinstance(step, (TakePage, AllocPage)) and answer is None:
            return
        if operation is not None:
            counts = self._operations.setdefault(call.hook.value, {})
            counts[operation] = counts.get(operation, 0) + amount

    def _stored(self, call: HookCall, page: Page, old: Pte, new: Pte) -> None:
        life = self._lives.get(page.thread)
        if life is None:
            return
        if call.hook is HookKind.CREATE_THREAD and call.thread == page.thread:
            life.since, life.living, life.lived = self._machine.now(), True, True  # the last of these begins its life
        if old.present and old.dirty and (not new.present or new.frame != old.frame):
            self._written(life, page)
        change = int(new.present) - int(old.present)
        if not change:
            return
        life.settle(self._machine.now())
        life.pages += change
        self._pages += change
        if call.hook is HookKind.CREATE_THREAD:
            life.static += change
        self._peak_pages = max(self._peak_pages, self._pages)
        self._kib_peak = max(self._kib_peak, self._pages * PAGE / 1024 / len(self._lives))

    @staticmethod
    def _written(life: _Life, page: Page) -> None:
        if page.index:
            life.deepest = max(life.deepest, page.index * PAGE + 1)

    def _pool_changed(self, cpu: int, drawn: int) -> None:
        pools = self._runtime.pools
        assert pools is not None
        self._levels.changed(self._machine.now(), cpu, pools.level(cpu), drawn)

    # --- what CPUs do

    def on_delivery(self, delivery: Delivery) -> None:
        """Count faults by how they were taken."""
        cpu, events, outcome = delivery
        fred = bool(self._machine.cpus[cpu].registers.cr[4] & _FRED)
        self._faults.count(events, outcome, fred)

    # --- the whole

    def save(self) -> UsageState:
        """All that has been seen."""
        return UsageState(
            tuple(_LifeState(thread, *_get_life(life)) for thread, life in self._lives.items()),
            tuple(self._gone),
            self._pages,
            self._kib_peak,
            self._peak_pages,
            tuple(self._at_switch),
            replace(self._faults, begun=dict(self._faults.begun)),
            dict(self._calls),
            {hook: dict(counts) for hook, counts in self._operations.items()},
            self._levels.save(),
        )

    def load(self, state: UsageState, threads: Mapping[int, Thread]) -> None:
        """Become what `save` returned.

        Args:
            state: what it returned.
            threads: those that there are, by id.
        """
        self._lives = {life.thread: _Life(threads[life.thread], *life[1:]) for life in state.lives}
        self._gone = list(state.gone)
        self._pages, self._kib_peak, self._peak_pages = state.pages, state.kib_peak, state.peak_pages
        self._at_switch = list(state.at_switch)
        self._faults = replace(state.faults, begun=dict(state.faults.begun))
        self._calls = dict(state.calls)
        self._operations = {hook: dict(counts) for hook, counts in state.operations.items()}
        self._levels.load(state.levels)

    # --- the end

    def summary(self) -> UsageSummary:
        """All of it, up to now."""
        now = self._machine.now()
        for life in self._lives.values():
            life.settle(now)
            self._look_at_pages(life)
        lives = [life for life in (*self._gone, *self._lives.values()) if life.lived]
        walks, lost, invlpg, invpcid, interrupts = (
            after - before for before, after in zip(self._start, self._counters(), strict=True)
        )
        return UsageSummary(
            threads=len(lives),
            kib_mean=_kib(sum(life.page_time for life in lives), sum(life.time for life in lives)),
            kib_peak=self._kib_peak,
            kib_static=_kib(sum(life.static for life in lives), len(lives)),
            kib_asleep=_kib(sum(life.sleep_page_time for life in lives), sum(life.sleep_time for life in lives)),
            peak_pages=self._peak_pages,
            depth_at_switch=tuple(self._at_switch),
            depth_max=tuple(sum(bucket(life.deepest) == n for life in lives) for n in range(len(BUCKETS))),
            kib_by_depth=tuple(_asleep(lives, n) for n in range(len(BUCKETS))),
            pools=self._levels.summary(),
            faults=dict(sorted(self._faults.begun.items())),
            page_faults=self._faults.page,
            double_faults=self._faults.double,
            fred_faults=self._faults.fred,
            walks=walks,
            tlb_lost=lost,
            guest_invlpg=invlpg,
            guest_invpcid=invpcid,
            interrupts=interrupts,
            hook_calls=dict(sorted(self._calls.items())),
            hook_operations={name: dict(sorted(counts.items())) for name, counts in sorted(self._operations.items())},
        )

    def _look_at_pages(self, life: _Life) -> None:
        """Which pages of a living thread have been written."""
        machine = self._machine
        for page in life.thread.lower:
            leaf = next(
                (found for cpu in machine.cpus if (found := cpu.mmu.leaf_address(page.address)) is not None), None
            )
            pte = Pte(0 if leaf is None else machine.memory.read64(leaf))
            if pte.present and pte.dirty:
                self._written(life, page)


def _asleep(lives: list[_Life], place: int) -> float | None:
    """KiB of sleeping user threads whose maximum depth is in one bucket."""
    chosen = [life for life in lives if life.thread.is_user and bucket(life.deepest) == place]
    return _kib(sum(life.sleep_page_time for life in chosen), sum(life.sleep_time for life in chosen))
