"""fault-ist: grow on the page fault of a stack, taken on an IST stack; never shrink.

Pasha Tatashin's fallback and David Stevens's v2 (April 2026) without FRED: every kernel #PF switches
to a stack of its own; one that is no stack fault is moved back to the thread's stack. An IST stack
rewinds when it is entered again.
"""

from kstack.policies.fault_df import FaultDf


class FaultIst(FaultDf):
    """As fault-df; only how the fault is delivered differs."""

    id = "fault-ist"
    title = "grow on fault, taken on an IST stack"
    proposer = "Pasha Tatashin, David Stevens"
    source = "[PATCH v2 00/13] Dynamic Kernel Stacks, linux-mm, 2026-04-24"
    delivery = "ist"
