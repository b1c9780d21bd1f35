"""Mutants that no run can tell from the policy: what a step is there for does not come about, and why.

A survivor of the mutation run that is not named here is a hole in the scenarios.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.testing.mutants import Site


class Equivalent(NamedTuple):
    """Steps that can be left out or taken apart unseen: of which policies (none: all), where, and why."""

    policies: tuple[str, ...]
    hook: str
    function: str
    step: str
    why: str


_DIRTY: Final = "atomic for the sake of Dirty: below the saved SP nobody may write until the thread runs again"

EQUIVALENT: Final = (
    Equivalent(
        (),
        "exit_thread",
        "unmap_pages",
        "SwapPte",
        "atomic for the sake of Dirty: nobody may write to the stack of a thread that has exited",
    ),
    Equivalent((), "switch_out", "unmap_pages", "SwapPte", _DIRTY),
    Equivalent(("request-hybrid",), "exit_kernel", "unmap_pages", "SwapPte", _DIRTY),
    Equivalent(("entry-exit-home",), "exit_kernel", "exit_kernel", "SwapPte", _DIRTY),
    Equivalent(
        ("entry-exit-home",), "exit_kernel", "exit_kernel", "Lock", "giving a page back is one step by itself here"
    ),
    Equivalent((), "memory_pressure", "reclaim_sleepers", "ExchangePte", f"{_DIRTY}; the shootdown covers Accessed"),
    Equivalent((), "switch_out", "reclaim_sleepers", "ExchangePte", f"{_DIRTY}; the shootdown covers Accessed"),
    Equivalent(
        ("accessed-latch",), "exit_thread", "exit_thread", "Store", "a mark of a thread whose id nobody gets again"
    ),
    Equivalent(
        ("v1-as-posted",), "exit_thread", "exit_thread", "Store", "a count of a thread whose id nobody gets again"
    ),
    Equivalent(
        ("v1-as-posted",), "switch_in", "switch_in", "Store", "the flag, kept too long, only looks at the slots again"
    ),
    Equivalent(("v1-as-posted",), "exit_thread", "free", "ZeroPage", "what it gives to a pool it takes from none"),
    Equivalent(
        ("accessed-latch",), "switch_out", "switch_out", "Store", "the mark only saves looking at the entry again"
    ),
    Equivalent(("request",), "exit_kernel", "exit_kernel", "Store", "the mark, kept too long, only keeps pages"),
    Equivalent(("sleeper-gc",), "switch_out", "switch_out", "Store", "the count only decides when to collect"),
    Equivalent(("sleeper-gc",), "switch_out", "reclaim_sleepers", "Store", "the place only decides whose turn it is"),
    *(
        Equivalent(
            ("switch-sp-deferred",),
            hook,
            function,
            "Store",
            "the mark is for ticks, and interrupts are off in this hook",
        )
        for hook in ("switch_in", "tick")
        for function in ("_lock", "_unlock")
    ),
    Equivalent(
        ("switch-sp-deferred",),
        "switch_out",
        "_unlock",
        "Store",
        "the mark, kept too long, only leaves sweeps to switches",
    ),
    Equivalent(("switch-sp-shared",), "switch_out", "switch_out", "Store", "the mark, kept too long, only sends IPIs"),
)


def why_equivalent(policy: str, site: Site) -> str | None:
    """Why a mutant at a site cannot be told from the policy, or None."""
    for one in EQUIVALENT:
        place = (one.hook, one.function, one.step) == (site.hook, site.function, site.step)
        if place and (not one.policies or policy in one.policies):
            return one.why
    return None
