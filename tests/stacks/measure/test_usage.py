"""What a run used, counted exactly: memory over time, depths, pools, faults, operations by hook."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from kstack.hw.cpu.events import Event, EventKind, Outcome
from kstack.hw.cpu.hooks import Delivery
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.spec import boot
from kstack.schedule import RoundRobin
from kstack.stacks import EMPTY, GiveBack, PostFlush, Pte, ReadPte, Thread, WritePte
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall
from kstack.stacks.loading.registry import find_policy
from kstack.stacks.measure.levels import MAX_SAMPLES, Levels
from kstack.stacks.measure.usage import Usage, bucket

TOP = 0xFFFFC90000008000
DIRTY = 1 << 6
ACCESSED = 1 << 5


@dataclass
class FakeMemory:
    """Words by physical address."""

    words: dict[int, int] = field(default_factory=dict)

    def read64(self, address: int) -> int:
        """A word, 0 where nobody wrote."""
        return self.words.get(address, 0)


class Bench:
    """A `Usage` on a machine that does nothing by itself: its clock and its hooks are the test's to move."""

    def __init__(self) -> None:
        self.time = 0
        self.memory = FakeMemory()
        mmu = SimpleNamespace(walks=5, lost=3, leaf_address=lambda address: address)
        counts = SimpleNamespace(invlpg=1, invpcid=0, interrupts=2)
        self.cpu = SimpleNamespace(mmu=mmu, counts=counts, registers=SimpleNamespace(cr=[0] * 9))
        machine: Any = SimpleNamespace(now=lambda: self.time, cpus=[self.cpu], memory=self.memory)
        self.level = 8
        runtime: Any = SimpleNamespace(pools=SimpleNamespace(level=lambda cpu: self.level))
        self.usage = Usage(machine, runtime)
        self.usage.on_boot([])

    def hook(self, function: HookKind, thread: Thread, *arguments: int) -> HookCall:
        """Begin a hook."""
        call = HookCall(function, arguments or (thread.id,), (0, 0), thread.id, iter(()))  # type: ignore[arg-type]
        self.usage.on_call(0, call)
        return call

    def store(self, call: HookCall, page: Any, old: Pte, new: Pte) -> None:
        """One plain store to an entry."""
        self.usage.on_step(0, call, WritePte(page, new), None, old)

    def thread(self, pages: int, number: int = 1) -> Thread:
        """A user thread created with so many pages, at one moment."""
        thread = Thread(number, TOP - 16384, 16384)
        self.usage.on_thread(thread)
        call = self.hook(HookKind.CREATE_THREAD, thread)
        for page in thread.pages[:pages]:
            self.store(call, page, EMPTY, Pte.of(0x1000))
        return thread


def test_memory_is_weighted_by_the_time_for_which_it_was_mapped() -> None:
    bench = Bench()
    thread = bench.thread(1)
    bench.time = 100
    call = bench.hook(HookKind.ENTER_KERNEL, thread)
    for page in thread.lower:
        bench.store(call, page, EMPTY, Pte.of(0x2000))
    bench.time = 300
    found = bench.usage.summary()
    assert found.kib_mean == pytest.approx((100 * 4 + 200 * 16) / 300)
    assert (found.kib_static, found.kib_peak, found.peak_pages) == (4, 16, 4)


def test_only_the_time_between_switch_out_and_switch_in_counts_as_sleep() -> None:
    bench = Bench()
    thread = bench.thread(4)
    bench.hook(HookKind.SWITCH_IN, thread)
    bench.time = 1000
    thread.saved_rsp = TOP - 100
    call = bench.hook(HookKind.SWITCH_OUT, thread)
    for page in thread.lower:
        bench.store(call, page, Pte.of(0x2000), EMPTY)
    bench.time = 1100
    found = bench.usage.summary()
    assert found.kib_asleep == 4
    assert found.kib_mean == pytest.approx((1000 * 16 + 100 * 4) / 1100)


def test_creation_and_exit_do_not_count() -> None:
    bench = Bench()
    thread = Thread(1, TOP - 16384, 16384)
    bench.usage.on_thread(thread)
    call = bench.hook(HookKind.CREATE_THREAD, thread)
    for number, page in enumerate(thread.pages):
        bench.time = 1000 * (number + 1)
        bench.store(call, page, EMPTY, Pte.of(0x1000))
    bench.time += 10
    call = bench.hook(HookKind.EXIT_THREAD, thread)
    for page in thread.pages:
        bench.time += 1000
        bench.store(call, page, Pte.of(0x1000), EMPTY)
    bench.usage.on_thread_end(thread)
    found = bench.usage.summary()
    assert (found.kib_asleep, found.kib_mean) == (16, 16)


def test_a_thread_for_which_there_was_no_page_has_not_lived() -> None:
    bench = Bench()
    bench.thread(4)
    bench.thread(0, number=2)
    bench.time = 500
    found = bench.usage.summary()
    assert (found.threads, found.kib_mean, found.kib_static, sum(found.depth_max)) == (1, 16, 16, 1)


@pytest.mark.parametrize(
    ("depth", "place"), [(0, 0), (1024, 0), (1025, 1), (4096, 2), (4097, 3), (16384, 4), (99999, 4)]
)
def test_buckets_are_those_of_the_kstack_counters(depth: int, place: int) -> None:
    assert bucket(depth) == place


def test_depth_at_a_switch_is_from_the_top_to_the_saved_stack_pointer() -> None:
    bench = Bench()
    thread = bench.thread(4)
    for depth in (100, 1500, 5000):
        thread.saved_rsp = TOP - depth
        bench.hook(HookKind.SWITCH_OUT, thread)
    found = bench.usage.summary()
    assert found.depth_at_switch == (1, 1, 0, 1, 0)
    assert found.depth_max == (0, 0, 0, 1, 0)


def test_a_stack_pointer_outside_of_the_stack_is_no_depth() -> None:
    bench = Bench()
    thread = bench.thread(4)
    thread.saved_rsp = TOP + 4096
    bench.hook(HookKind.SWITCH_OUT, thread)
    assert sum(bench.usage.summary().depth_at_switch) == 0


@pytest.mark.parametrize(("bits", "place"), [(DIRTY, 4), (ACCESSED, 0)])
def test_a_page_found_written_tells_how_deep_a_thread_went_and_one_only_read_does_not(bits: int, place: int) -> None:
    bench = Bench()
    thread = bench.thread(4)
    call = bench.hook(HookKind.SWITCH_OUT, thread)
    bench.store(call, thread.pages[2], Pte(Pte.of(0x3000).value | bits), EMPTY)
    assert bench.usage.summary().depth_max[place] == 1


def test_pages_that_are_mapped_at_the_end_are_looked_at_too() -> None:
    bench = Bench()
    thread = bench.thread(4)
    bench.memory.words[thread.pages[1].address] = Pte.of(0x3000).value | DIRTY
    assert bench.usage.summary().depth_max == (0, 0, 0, 1, 0)


def test_the_address_of_a_fault_is_a_depth() -> None:
    bench = Bench()
    thread = bench.thread(1)
    bench.hook(HookKind.STACK_FAULT, thread, TOP - 9000, thread.id, 2)
    assert bench.usage.summary().depth_max == (0, 0, 0, 0, 1)


def test_memory_by_depth_is_of_sleeping_user_threads() -> None:
    bench = Bench()
    kernel = Thread(9, TOP - 16384, 16384, is_user=False)
    bench.usage.on_thread(kernel)
    bench.thread(2)
    bench.time = 50
    assert bench.usage.summary().kib_by_depth == (8, None, None, None, None)


@pytest.mark.parametrize(
    ("vectors", "fred", "counted"),
    [((14,), False, (1, 0, 0)), ((14, 8), False, (0, 1, 0)), ((14,), True, (0, 0, 1)), ((13,), False, (0, 0, 0))],
)
def test_a_fault_is_counted_once_by_how_it_was_taken(
    vectors: tuple[int, ...], fred: bool, counted: tuple[int, int, int]
) -> None:
    bench = Bench()
    bench.cpu.registers.cr[4] = fred << 32
    bench.usage.on_delivery(Delivery(0, [Event(vector, EventKind.EXCEPTION) for vector in vectors], Outcome.DELIVERED))
    found = bench.usage.summary()
    assert (found.page_faults, found.double_faults, found.fred_faults) == counted
    assert sum(found.faults.values()) == len(vectors)


def test_counters_are_from_the_runs_start_and_not_from_reset() -> None:
    bench = Bench()
    bench.cpu.mmu.walks += 7
    bench.cpu.mmu.lost += 4
    bench.cpu.counts.interrupts += 1
    found = bench.usage.summary()
    assert (found.walks, found.tlb_lost, found.interrupts, found.guest_invlpg) == (7, 4, 1, 0)


def test_operations_are_told_apart_by_hook_and_requests_to_other_cpus_are_their_invlpgs() -> None:
    bench = Bench()
    thread = bench.thread(1)
    call = bench.hook(HookKind.SWITCH_OUT, thread)
    bench.usage.on_step(0, call, ReadPte(thread.top), Pte.of(0x1000), None)
    bench.usage.on_step(0, call, PostFlush(1, TOP - 16384, 3), None, None)
    found = bench.usage.summary()
    assert found.hook_operations == {"create_thread": {"pte_write": 1}, "switch_out": {"invlpg": 3, "pte_read": 1}}
    assert found.hook_calls == {"create_thread": 1, "switch_out": 1}


def test_pool_levels_are_followed_with_their_peak_draw() -> None:
    bench = Bench()
    thread = bench.thread(1)
    call = bench.hook(HookKind.EXIT_THREAD, thread)
    bench.level = 9
    bench.time = 40
    bench.usage.on_step(0, call, GiveBack(0x1000), None, None)
    pools = bench.usage.summary().pools
    assert pools is not None
    assert (pools.start, pools.samples, pools.end) == ((8,), ((40, 0, 9),), (9,))


def test_imbalance_is_how_far_pools_have_moved_apart() -> None:
    levels = Levels(2)
    levels.begin(0, [8, 4])
    levels.changed(1, 0, 5, 1)
    levels.changed(2, 1, 6, -1)
    levels.changed(3, 0, 8, -1)
    found = levels.summary()
    assert found is not None
    assert (found.imbalance, found.peak_draw) == (5, 1)


def test_a_long_series_is_thinned_evenly_and_the_same_way_each_time() -> None:
    levels = Levels(1)
    levels.begin(0, [0])
    for time in range(10_000):
        levels.changed(time, 0, time, 1)
    found = levels.summary()
    assert found is not None
    assert MAX_SAMPLES // 2 <= len(found.samples) <= MAX_SAMPLES
    assert found.peak_draw == 10_000
    times = [time for time, _, _ in found.samples]
    assert {after - before for before, after in pairwise(times)} == {found.every}


@pytest.fixture(scope="module")
def runs() -> dict[str, RunResult]:
    """The scenario `deep` under three policies, undisturbed."""
    booted = boot(find_scenario("deep"))
    options = RunOptions(undisturbed=True)
    return {
        policy: booted.session(find_policy(policy)(), RoundRobin(1000), options).run()
        for policy in ("fixed-16k", "entry-exit", "switch-sp-ipi")
    }


def test_a_fully_backed_thread_holds_16_kib_from_its_creation_on(runs: dict[str, RunResult]) -> None:
    usage = runs["fixed-16k"].usage
    assert usage is not None
    assert usage.kib_static == 16
    assert {kib for kib in usage.kib_by_depth if kib is not None} == {16}


def test_deep_threads_are_seen_to_be_deep_whatever_the_policy(runs: dict[str, RunResult]) -> None:
    found = {policy: run.usage.depth_max for policy, run in runs.items() if run.usage is not None}
    assert set(found.values()) == {found["fixed-16k"]}
    assert found["fixed-16k"][4] + found["fixed-16k"][3] >= 4


def test_a_policy_that_discards_at_a_switch_holds_less_asleep_than_awake(runs: dict[str, RunResult]) -> None:
    usage = runs["switch-sp-ipi"].usage
    assert usage is not None
    assert usage.kib_asleep is not None
    assert usage.kib_mean is not None
    assert usage.kib_asleep < usage.kib_mean < 16


def test_operations_by_hook_add_up_to_the_runs_counts(runs: dict[str, RunResult]) -> None:
    for run in runs.values():
        assert run.usage is not None
        by_hook = run.usage.hook_operations.values()
        assert sum(one.get("pte_write", 0) for one in by_hook) == run.counts.pte_writes
        assert sum(one.get("pte_exchange", 0) for one in by_hook) == run.counts.pte_exchanges
        assert sum(one.get("ipi", 0) for one in by_hook) == run.counts.ipis
        assert sum(one.get("invlpg", 0) for one in by_hook) == run.counts.invlpg + run.usage.guest_invlpg
        assert sum(run.usage.depth_at_switch) == run.usage.hook_calls["switch_out"]


def test_the_same_run_uses_the_same(runs: dict[str, RunResult]) -> None:
    booted = boot(find_scenario("deep"))
    again = booted.session(find_policy("entry-exit")(), RoundRobin(1000), RunOptions(undisturbed=True)).run()
    assert again.usage == runs["entry-exit"].usage
