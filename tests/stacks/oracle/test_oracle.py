"""Each kind of finding is found: a policy with one seeded bug, and its scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.base.errors import PolicyError
from kstack.guest.asm import assemble
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_image, find_scenario
from kstack.load import Symbols, load
from kstack.machine import Machine, MachineConfig
from kstack.policies.entry_exit import EntryExit
from kstack.policies.fault_df import FaultDf
from kstack.policies.fault_ist import FaultIst
from kstack.policies.fixed_4k import Fixed4K
from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.run.spec import boot, script_of
from kstack.sanitizer.findings import Kind
from kstack.sanitizer.frames import FrameState
from kstack.schedule import RandomSchedule, RoundRobin, ScriptedSchedule
from kstack.stacks import (
    AllocPage,
    ExchangePte,
    GiveBack,
    Lock,
    Page,
    Policy,
    Pte,
    ReadPte,
    SendIpi,
    Step,
    Steps,
    SwapPte,
    TakePage,
    Thread,
    WritePte,
    ZeroPage,
    free,
    map_pages,
    reclaim_with_shootdown,
    shootdown,
    unmap_pages,
)
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall
from kstack.stacks.loading.registry import find_policy
from kstack.stacks.oracle import Oracle
from tests.support.boots import booted, kinds_of
from tests.support.seeded_bugs import Broken, ShootsWithInterruptsOff


def run_scripted(policy: Policy, limit: int = 1_000_000) -> RunResult:
    """Laight's scenario under its script."""
    script = script_of(find_scenario("laight"))
    return booted("laight").session(policy, ScriptedSchedule(script), RunOptions(limit)).run()


class FreesTwice(Broken):
    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        entries = yield from unmap_pages(thread.pages)
        frames = [pte.frame for pte in entries]
        yield from shootdown(thread.pages)
        for frame in (*frames, frames[0]):
            yield GiveBack(frame)


class ForgetsToFree(Broken):
    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from unmap_pages(thread.pages)
        yield from shootdown(thread.pages)


class LeavesMapped(Broken):
    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from ()


class SharesAFrame(Broken):
    frame = 0

    def create_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.pages[:3])
        if not self.frame:
            self.frame = yield TakePage()
        yield WritePte(thread.pages[3], Pte.of(self.frame))


class FreesMapped(Broken):
    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        pte = yield ReadPte(thread.pages[3])
        if pte.present and thread.pages[3].address + 4096 <= thread.saved_rsp:
            yield GiveBack(pte.frame)


class FreesWithoutTelling(Broken):
    """Frees on return to user mode; comes back with other frames, the old ones still in the pool."""

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        entries = yield from unmap_pages(thread.lower)
        yield from free(entries)

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        old: list[int] = []
        for _ in thread.lower:
            old.append((yield TakePage()))
        yield from map_pages(thread.lower, invalidate=True)
        for frame in old:
            yield GiveBack(frame)


class MapsTooLittle(Broken):
    """Three pages only, and no stack_fault hook: the deep call faults."""

    def create_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.pages if not thread.is_user else thread.pages[:1])


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (FreesTwice, Kind.DOUBLE_FREE),
        (ForgetsToFree, Kind.LEAK),
        (LeavesMapped, Kind.LEAK),
        (SharesAFrame, Kind.SHARED_FRAME),
        (FreesMapped, Kind.SHARED_FRAME),
        (FreesWithoutTelling, Kind.USE_AFTER_FREE),
        (FreesWithoutTelling, Kind.WRONG_DATA),
        (MapsTooLittle, Kind.DOUBLE_FAULT),
        (MapsTooLittle, Kind.UNHANDLED_FAULT),
    ],
)
def test_a_seeded_bug_is_found(policy: type[Policy], kind: Kind) -> None:
    assert kind in kinds_of(run_scripted(policy()))


def test_the_unbroken_policy_has_none_of_these() -> None:
    assert kinds_of(run_scripted(Broken())) == set()


def test_a_policy_that_raises_is_named_with_its_hook() -> None:
    class Raises(Broken):
        def switch_in(self, cpu: int, thread: Thread) -> Steps:
            yield from ()
            raise ValueError("no")

    with pytest.raises(PolicyError, match=r"policy broken, hook switch_in raised ValueError: no"):
        run_scripted(Raises())


def test_a_policy_that_yields_nonsense_is_told_so() -> None:
    class Nonsense(Broken):
        def switch_in(self, cpu: int, thread: Thread) -> Steps:
            yield 42  # type: ignore[misc] # that is the point

    with pytest.raises(PolicyError, match="yielded 42, which is no micro-step"):
        run_scripted(Nonsense())


def test_a_hook_that_keeps_a_lock_is_told_so() -> None:
    class KeepsLock(Broken):
        def switch_in(self, cpu: int, thread: Thread) -> Steps:
            yield Lock("mine")

    with pytest.raises(PolicyError, match="without unlocking mine"):
        run_scripted(KeepsLock())


def test_an_overflow_and_its_double_fault_are_found_in_the_selftest() -> None:
    machine = Machine(MachineConfig(cpus=1))
    symbols = load(machine, find_image("selftest"), "selftest")
    result = Session(machine, symbols, RoundRobin(1000), Broken(), RunOptions(20_000_000)).run()
    assert result.ended == "exit"
    assert "0 failed" in result.serial
    assert kinds_of(result) == {Kind.OVERFLOW, Kind.DOUBLE_FAULT}
    overflow = next(finding for finding in result.findings if finding.kind is Kind.OVERFLOW)
    assert "thread 1" in overflow.text


def test_a_triple_fault_is_a_finding() -> None:
    machine = Machine(MachineConfig(cpus=1))
    code = assemble("lidt [nothing]\nint 3\nnothing: .word 0\n.long 0", address=0x7C00, bits=16)
    symbols = load(machine, code, "triple", "flat")
    result = Session(machine, symbols, RoundRobin(1000), Broken(), RunOptions(1000)).run()
    assert result.ended == "shutdown"
    assert kinds_of(result) == {Kind.DOUBLE_FAULT, Kind.SHUTDOWN}
    assert result.code == 3


class ReusesTheAddress(Broken):
    """Holds old frames back until exit, but maps others at the same address with a local INVLPG only."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        entries = yield from unmap_pages(thread.lower)
        self.held.extend(pte.frame for pte in entries)

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.lower, invalidate=True)

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from reclaim_with_shootdown(thread.pages)


def test_an_address_reused_before_every_cpu_has_invalidated_is_found_though_no_frame_was_freed() -> None:
    result = run_scripted(ReusesTheAddress())
    assert {Kind.STALE_TRANSLATION, Kind.WRONG_DATA} <= kinds_of(result)


def test_cpus_that_wait_for_each_other_with_interrupts_off_are_a_deadlock() -> None:
    ended = set()
    for seed in range(5):
        result = booted("laight").session(ShootsWithInterruptsOff(), RandomSchedule(seed), RunOptions(1_000_000)).run()
        ended.add(result.ended)
        assert (Kind.DEADLOCK in kinds_of(result)) == (result.ended == "deadlock")
    assert "deadlock" in ended


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (GiveBack(12345), "no frame of the pool"),
        (ZeroPage(-4096), "no frame of the pool"),
        (SendIpi(99), "not online"),
        (WritePte(None, Pte(0)), "wrong argument"),  # type: ignore[arg-type] # that is the point
    ],
)
def test_a_step_with_a_wrong_argument_is_named(step: Step, says: str) -> None:
    class Wrong(Broken):
        def switch_in(self, cpu: int, thread: Thread) -> Steps:
            yield step

    with pytest.raises(PolicyError, match=f"hook switch_in.*{says}"):
        run_scripted(Wrong())


# --- what policies do to memory and to each other


class FreesDirty(SwitchSpIpi):
    """Gives frames back as they are."""

    id = "frees-dirty"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Everybody is told, and nothing is cleared."""
        entries = yield from unmap_pages(thread.pages_below(thread.saved_rsp))
        if entries:
            yield from shootdown(thread.pages_below(thread.saved_rsp))
        for pte in entries:
            yield GiveBack(pte.frame)


class SleepsInTheSwitch(FaultIst):
    """Fills its pool up with allocations that may sleep, where nobody can."""

    id = "sleeps-in-the-switch"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """One more page, whatever it takes."""
        frame = yield AllocPage(sleep=True)
        if frame is not None:
            yield GiveBack(frame)


def found_in(scenario: str, policy: type[Policy], **modes: str) -> set[Kind]:
    found = find_scenario(scenario)
    made = boot(found, modes=Modes(**modes).resolved(policy.delivery))
    return kinds_of(made.session(policy(), RoundRobin(100), RunOptions(found.max_instructions)).run())


def test_another_threads_words_in_a_frame_are_a_leak_of_data() -> None:
    assert Kind.DATA_LEAK in found_in("laight", FreesDirty)
    assert Kind.DATA_LEAK not in found_in("laight", SwitchSpIpi)


def test_growth_with_no_page_is_told_from_a_fault_that_nobody_handles() -> None:
    assert Kind.OUT_OF_PAGES in found_in("pool-dry", FaultIst)
    assert Kind.UNHANDLED_FAULT in found_in("probe-cost", Fixed4K)


def test_sleeping_for_memory_in_the_switch_is_a_deadlock() -> None:
    assert Kind.DEADLOCK in found_in("pool-dry", SleepsInTheSwitch)
    assert Kind.DEADLOCK not in found_in("pool-dry", FaultIst)


def test_pools_that_drift_apart_are_an_imbalance() -> None:
    assert Kind.IMBALANCE in found_in("pump", SwitchSpIpi)
    assert Kind.IMBALANCE not in found_in("pump", EntryExit)


def test_a_double_fault_that_the_policy_serves_is_no_finding() -> None:
    served = found_in("skip-page", FaultDf, df_restart="exact")
    assert not served
    assert Kind.DOUBLE_FAULT in found_in("skip-page", FaultDf), "undefined state: the guest cannot go on from it"


def test_a_shootdown_is_part_of_the_history_of_what_it_is_about() -> None:
    class Early(SwitchSpIpi):
        """Frees before it tells."""

        id = "early"

        def switch_out(self, cpu: int, thread: Thread) -> Steps:
            pages = thread.pages_below(thread.saved_rsp)
            entries = yield from unmap_pages(pages)
            yield from free(entries)
            yield from shootdown(pages)

    found = find_scenario("unwinder")
    result = boot(found).session(Early(), RoundRobin(10), RunOptions(found.max_instructions)).run()
    words = [one.text for one in result.findings[0].history]
    assert any(word.startswith("IPI to CPU") for word in words)


@pytest.mark.parametrize(
    ("scenario", "seed", "adversary"),
    [
        ("litmus-cross", 90, 94),  # CPU 1 waits, takes CPU 0's shootdown and waits again in one slice
        ("quiet-then-deep", 0, 3),  # a slice ends when a handler has returned to the step, not tried again yet
    ],
)
def test_who_has_only_to_look_once_more_is_in_no_deadlock(scenario: str, seed: int, adversary: int) -> None:
    made = boot(find_scenario(scenario), modes=Modes(tlb="adversarial"))
    session = made.session(find_policy("switch-sp-ipi")(), RandomSchedule(seed), RunOptions(adversary=adversary))
    result = session.run()
    assert (result.ended, result.findings) == ("exit", ())


# --- a store that keeps its frame is no new mapping

HERE = Page(2, 0, 0x8000)
FRAMES = (0x200000, 0x201000)
KEEPING = [bit for bit in range(64) if not 12 <= bit < 52]  # all but those of the frame


CASES = Path(__file__).parents[2] / "support"


class Follower:
    """An oracle that has seen two frames go from thread 1 to thread 2, which has written to the first, and one is free."""

    def __init__(self) -> None:
        self.machine = Machine(MachineConfig(1))
        self.oracle = Oracle(self.machine, Symbols([]), 0xF0)
        self.oracle.on_boot(list(FRAMES))
        for thread in (1, 2):
            self.oracle.on_thread(Thread(thread, 0x5000 + 0x1000 * thread, 0x1000))
        before = Page(1, 0, 0x6000)
        for frame in FRAMES:
            self.step(TakePage(), frame)
            self.step(WritePte(before, Pte.of(frame)), None, Pte(0))
            self.step(SwapPte(before, Pte(0)), Pte.of(frame), Pte.of(frame))
            self.step(GiveBack(frame))
            self.step(TakePage(), frame)
        self.step(WritePte(HERE, Pte.of(FRAMES[0])), None, Pte(0))
        for frame in FRAMES:
            self.machine.memory.write64(frame, 7)

    def step(self, step: Step, answer: object = None, previous: Pte | None = None) -> None:
        call = HookCall(HookKind.SWITCH_OUT, (), (0, 0), 1, iter(()))  # type: ignore[arg-type]
        self.oracle.on_step(0, call, step, answer, previous)

    def store(self, kind: type[Step], new: Pte, old: Pte) -> None:
        step = ExchangePte(HERE, new, old) if kind is ExchangePte else kind(HERE, new)  # type: ignore[call-arg]
        self.step(step, None if kind is WritePte else old, old)


@pytest.mark.parametrize("kind", [WritePte, ExchangePte, SwapPte])
def test_a_store_that_keeps_its_frame_alarms_nobody(kind: type[Step]) -> None:
    mapped = Pte.of(FRAMES[0])
    for bit in KEEPING:
        follower, other = Follower(), Pte(mapped.value ^ 1 << bit)
        follower.store(kind, other, mapped)
        follower.store(kind, mapped, other)
        assert follower.oracle.findings == [], bit


@pytest.mark.parametrize("kind", [WritePte, ExchangePte, SwapPte])
def test_a_store_that_maps_another_frame_is_looked_at(kind: type[Step]) -> None:
    follower = Follower()
    follower.store(kind, Pte.of(FRAMES[1]), Pte.of(FRAMES[0]))
    assert [found.kind for found in follower.oracle.findings] == [Kind.DATA_LEAK]


def test_a_policy_that_clears_accessed_is_as_safe_as_without() -> None:
    """The case of a reviewer: it was called a leak of data in eight runs of nine."""
    clears = find_policy(str(CASES / "clear_a.py"))
    found = boot(find_scenario("wilcox"))
    for policy in (clears, SwitchSpIpi):
        assert not kinds_of(found.session(policy(), RoundRobin(10), RunOptions(2_000_000)).run())


class SetsAside(SwitchSpIpi):
    """switch-sp-ipi; frames that stay below the top are kept in entries that are not present, for ever."""

    id, title, proposer, source = "sets-aside", "entries that are not present", "a test", "-"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        for page in thread.pages_below(thread.saved_rsp):
            pte = yield ReadPte(page)
            if pte.present:
                yield WritePte(page, Pte(pte.value & ~1))
        yield from shootdown(thread.pages)

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        for page in thread.pages:
            pte = yield ReadPte(page)
            if not pte.present and pte.frame:
                yield WritePte(page, Pte(pte.value | 1))
        yield from super().switch_in(cpu, thread)

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from self.switch_in(cpu, thread)
        yield from super().exit_thread(cpu, thread)


def test_a_frame_in_an_entry_that_is_not_present_is_not_lost() -> None:
    session = boot(find_scenario("deep")).session(SetsAside(), RoundRobin(100), RunOptions(60_000))
    assert not kinds_of(session.run())
    assert session.oracle is not None
    assert FrameState.UNMAPPED in {life.state for life in session.oracle.frames.values()}
    session.oracle.finish([call for calls in session.runtime.calls for call in calls], session.runtime.variables)
    assert session.oracle.findings == []
