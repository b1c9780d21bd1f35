"""What one run counted, as `kstack compare` reports it: totals, details, and operations with a cost."""

from __future__ import annotations

from typing import Final

from kstack.base.documents import Document
from kstack.run.result import RunResult
from kstack.stacks.measure.costs import operations

_RATIOS: Final = ("faults", "pte_writes", "invlpg", "ipis", "walks")


def operations_of(run: RunResult) -> dict[str, int]:
    """How often a run did each operation of the cost model."""
    usage = run.usage
    if usage is None:
        return operations(run.counts)
    return operations(
        run.counts, usage.page_faults, usage.guest_invlpg, usage.double_faults, usage.fred_faults, usage.walks
    )


def totals_of(run: RunResult) -> dict[str, int]:
    """The counts that every result has: by all CPUs, from the run's start to its end."""
    counts, usage = run.counts, run.usage
    return {
        "faults": sum(int(cpu["page_faults"]) for cpu in run.cpus),
        "pte_writes": counts.pte_writes + counts.pte_exchanges,
        "invlpg": counts.invlpg + (usage.guest_invlpg if usage else 0),
        "ipis": counts.ipis,
        "walks": usage.walks if usage else 0,
        "switches": counts.switches,
        "syscalls": counts.syscalls,
    }


def detail_of(run: RunResult) -> Document:
    """What is counted beyond the totals, and nothing that is not."""
    counts, usage = run.counts, run.usage
    detail: Document = {
        "pte_reads": counts.pte_reads,
        "pte_exchanges": counts.pte_exchanges,
        "invlpgb": counts.invlpgb,
        "tlbsync": counts.tlbsync,
        "pages_taken": counts.pages_taken,
        "pages_allocated": counts.pages_allocated,
        "pages_given": counts.pages_given,
        "pages_zeroed": counts.pages_zeroed,
        "refusals": counts.refusals,
        "locks": counts.locks,
        "lock_waits": counts.lock_waits,
        "waits": counts.waits,
        "stack_walks": run.stack_walks,
    }
    if usage is not None:
        detail |= {
            "faults_by_vector": usage.faults,
            "invpcid": usage.guest_invpcid,
            "tlb_lost": usage.tlb_lost,
            "interrupts": usage.interrupts,
            "hook_calls": usage.hook_calls,
            "hook_operations": usage.hook_operations,
        }
    totals = totals_of(run)
    for name, number in (("per_switch", counts.switches), ("per_syscall", counts.syscalls)):
        if number:
            detail[name] = {key: round(totals[key] / number, 4) for key in _RATIOS}
    return detail


def usage_of(run: RunResult) -> Document | None:
    """Memory and depths of a run, for JSON; None without a policy."""
    usage = run.usage
    if usage is None:
        return None
    found: Document = {
        "threads": usage.threads,
        "kib_mean": usage.kib_mean,
        "kib_peak": usage.kib_peak,
        "kib_static": usage.kib_static,
        "kib_asleep": usage.kib_asleep,
        "peak_pages": usage.peak_pages,
        "depth_at_switch": list(usage.depth_at_switch),
        "depth_max": list(usage.depth_max),
    }
    if usage.pools is not None:
        found |= {"peak_draw": usage.pools.peak_draw, "imbalance": usage.pools.imbalance}
    return found
