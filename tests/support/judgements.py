"""Judgements made up for tests of what is computed from them."""

from __future__ import annotations

from kstack.hw.modes import Modes
from kstack.judge.verdict import Judgement, Portfolio
from kstack.report.comparison import Comparison
from kstack.run.result import RunResult
from kstack.sanitizer.findings import Finding, Kind
from kstack.sanitizer.history import Cleared, Filled, Freed, Invalidated, IpiSent, IpiTaken, Mapped, Marked, Used
from kstack.stacks.host.call import StepCounts
from kstack.stacks.measure.costs import CostModel, cost_model
from kstack.stacks.measure.levels import LevelSample, PoolUse
from kstack.stacks.measure.usage import UsageSummary

PASSED = 0x10
PAGE = (0x5000, "thread 3 page 1", 0x1000)


def used(
    calls: dict[str, int] | None = None,
    operations: dict[str, dict[str, int]] | None = None,
    threads: int = 1,
    walks: int = 0,
    page_faults: int = 0,
    kib_by_depth: tuple[float | None, ...] = (4.0, None, None, None, 8.0),
) -> UsageSummary:
    """What a run used; nothing but what is given."""
    return UsageSummary(
        threads=threads,
        kib_mean=8.0,
        kib_peak=16.0,
        kib_static=4.0,
        kib_asleep=6.0,
        peak_pages=4,
        depth_at_switch=(1, 0, 2, 0, 0),
        depth_max=(0, 0, 1, 0, 1),
        kib_by_depth=kib_by_depth,
        pools=PoolUse((8, 8), (LevelSample(5, 0, 7), LevelSample(9, 1, 9)), 1, 1, 2, (7, 9)),
        faults={"#PF": page_faults} if page_faults else {},
        page_faults=page_faults,
        double_faults=0,
        fred_faults=0,
        walks=walks,
        tlb_lost=0,
        guest_invlpg=0,
        guest_invpcid=0,
        interrupts=0,
        hook_calls=calls or {},
        hook_operations=operations or {},
    )


def judged(
    policy: str,
    scenario: str,
    usage: UsageSummary,
    *,
    safe: bool | None = True,
    reason: str = "none found in 7",
    finding: Finding | None = None,
    counts: dict[str, int] | None = None,
    switches: int = 0,
    unmaps: int = 0,
    exit_value: int = PASSED,
    serial: str = "",
) -> Judgement:
    """A judgement with a measured run."""
    run = RunResult(
        ended="exit",
        exit_value=exit_value,
        time=1000,
        serial=serial,
        findings=(),
        exercised=0,
        unmaps=unmaps,
        stack_walks=0,
        state_hash="",
        counts=StepCounts(switches=switches, **(counts or {})),
        kib_per_thread=usage.kib_mean,
        stuck=None,
        cpus=({"page_faults": usage.page_faults},),
        usage=usage,
    )
    return Judgement(
        policy=policy,
        scenario=scenario,
        safe=safe,
        basis="sampled",
        reason=reason,
        exercised=1,
        finding=finding,
        found_by="round-robin:1" if finding else None,
        runs=7,
        hits=int(finding is not None),
        reference=run,
        modes=Modes(),
        portfolio=Portfolio(),
        findings=(finding,) if finding else (),
    )


def comparison(*judgements: Judgement, model: CostModel | None = None) -> Comparison:
    """A comparison of these."""
    return Comparison(judgements, Modes(tlb="adversarial"), model or cost_model())


def stale_use(text: str = "CPU 1 read what is gone") -> Finding:
    """A stale use with an IPI in its history."""
    history = (
        Mapped(1, 0, *PAGE),
        Filled(2, 1, *PAGE),
        Cleared(3, 0, *PAGE),
        Invalidated(4, 0, *PAGE[:2]),
        IpiSent(5, 0, 1),
        IpiTaken(6, 1, 0xF0),
        Freed(7, 0, 0x1000),
        Marked(8, 1, text),
        Used(9, 1, *PAGE, store=False),
    )
    return Finding(Kind.STALE_TRANSLATION, 1, "watch+0x4", 0x1B30, 9, text, 0x1000, "a", "b", "c", history)
