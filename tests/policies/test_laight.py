"""Laight's scenario: what the machine itself finds, under every kind of schedule."""

from __future__ import annotations

import pytest

from kstack.hw.modes import Modes
from kstack.judge.verdict import Portfolio, judge
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.policies.entry_exit import EntryExit
from kstack.policies.fixed_16k import Fixed16K
from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.spec import boot, script_of
from kstack.sanitizer.findings import Kind
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler, ScriptedSchedule
from kstack.stacks import Policy, Steps, Thread, free, map_pages, unmap_pages
from kstack.stacks.host.pool import PoolConfig
from tests.support.boots import booted

LAIGHT = find_scenario("laight")
LIMIT = 5_000_000


class EntryExitToldHere(EntryExit):
    """entry-exit with a local INVLPG before the free: still nobody else is told."""

    id = "entry-exit-told-here"

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        """Unmap, invalidate here, free."""
        from kstack.stacks import Invlpg

        entries = yield from unmap_pages(thread.lower)
        for page in thread.lower:
            yield Invlpg(page)
        yield from free(entries)


def run_laight(policy: type[Policy], scheduler: Scheduler, pool: PoolConfig | None = None) -> RunResult:
    return booted("laight").session(policy(), scheduler, RunOptions(LIMIT, pool=pool or PoolConfig())).run()


def schedulers() -> list[Scheduler]:
    return [ScriptedSchedule(script_of(LAIGHT)), RoundRobin(1), RoundRobin(100), RandomSchedule(3)]


@pytest.mark.parametrize("index", range(4))
def test_entry_exit_reads_through_a_stale_translation_under_each_schedule(index: int) -> None:
    result = run_laight(EntryExit, schedulers()[index])
    finding = result.findings[0]
    assert finding.kind is Kind.STALE_TRANSLATION
    assert finding.cpu == 1
    assert finding.symbol.startswith("laight_watch+")
    assert finding.old_owner is not None and finding.new_owner is not None
    assert finding.old_owner != finding.new_owner
    assert finding.freed_by is not None and finding.freed_by.startswith("exit_kernel")
    assert "GiveBack" in finding.freed_by
    assert "wrong 1" in result.serial, "the guest's own check sees what the oracle sees"


@pytest.mark.parametrize("policy", [Fixed16K, SwitchSpIpi])
@pytest.mark.parametrize("index", range(4))
def test_the_guest_and_the_oracle_agree_that_nothing_is_wrong(policy: type[Policy], index: int) -> None:
    result = run_laight(policy, schedulers()[index])
    assert result.ended == "exit"
    assert result.findings == ()
    assert "laight: rounds 2 wrong 0" in result.serial


def test_a_shootdown_is_exercised_where_full_stacks_have_nothing_to_exercise() -> None:
    full = run_laight(Fixed16K, ScriptedSchedule(script_of(LAIGHT)))
    shot = run_laight(SwitchSpIpi, ScriptedSchedule(script_of(LAIGHT)))
    assert (full.exercised, full.unmaps) == (0, 0)
    assert shot.exercised > 0
    assert shot.unmaps > 0


@pytest.mark.parametrize("order", ["lifo", "fifo", "seeded"])
def test_the_pools_order_decides_which_frames_come_back_but_not_the_verdict(order: str) -> None:
    result = run_laight(EntryExit, ScriptedSchedule(script_of(LAIGHT)), PoolConfig(order, seed=1))
    assert any(finding.kind in (Kind.STALE_TRANSLATION, Kind.USE_AFTER_FREE) for finding in result.findings)


def test_a_local_invalidation_does_not_help_the_other_cpu() -> None:
    result = run_laight(EntryExitToldHere, ScriptedSchedule(script_of(LAIGHT)))
    assert result.findings[0].kind is Kind.STALE_TRANSLATION
    assert result.findings[0].cpu == 1


def test_the_same_frames_mapped_again_are_no_finding() -> None:
    class SameAgain(EntryExit):
        """Maps the pages in the order in which a LIFO pool gives the same frames back to them."""

        id = "same-again"

        def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
            entries = yield from unmap_pages(thread.lower)
            yield from free(tuple(reversed(entries)))

        def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
            yield from map_pages(thread.lower, invalidate=True)

    result = run_laight(SameAgain, ScriptedSchedule(script_of(LAIGHT)))
    assert result.unmaps > 0, "entries were cleared and filled again, unseen by CPU 1"
    assert result.findings == (), "staleness is by value"
    assert "wrong 0" in result.serial


def test_the_judge_needs_no_script_to_find_it() -> None:
    judgement = judge(EntryExit, LAIGHT, booted("laight"), Portfolio(schedules=5, enough=100), Modes())
    assert judgement.safe is False
    assert judgement.hits >= 9
    sampled = judge(
        EntryExit, find_scenario("laight-sleep"), boot(find_scenario("laight-sleep")), Portfolio(2), Modes()
    )
    assert sampled.safe is False
    assert sampled.basis == "sampled"


def test_a_policy_that_is_never_exercised_is_not_called_safe() -> None:
    class ClearsUnseen(Fixed16K):
        """Unmaps and remaps the same frame of a page nobody shares."""

        id = "clears-unseen"

        def switch_out(self, cpu: int, thread: Thread) -> Steps:
            from kstack.stacks import EMPTY, ReadPte, WritePte

            deepest = thread.pages[-1]
            if deepest.address + 4096 <= thread.saved_rsp:
                pte = yield ReadPte(deepest)
                yield WritePte(deepest, EMPTY)
                yield WritePte(deepest, pte)

    judgement = judge(ClearsUnseen, LAIGHT, booted("laight"), Portfolio(schedules=0), Modes())
    assert judgement.safe is None
    assert "not exercised" in judgement.reason
