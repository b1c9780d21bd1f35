"""fault-fred: grow on the page fault of a stack, taken at FRED stack level 1; never shrink.

H. Peter Anvin's suggestion and David Stevens's v2 (April 2026): FRED's stack levels do not rewind, and
its frame says what was interrupted. A fault that is no stack fault is moved back to the thread's stack.
"""

from kstack.policies.fault_df import FaultDf


class FaultFred(FaultDf):
    """As fault-df; only how the fault is delivered differs."""

    id = "fault-fred"
    title = "grow on fault, taken at FRED stack level 1"
    proposer = "H. Peter Anvin, David Stevens"
    source = "[PATCH v2 00/13] Dynamic Kernel Stacks, linux-mm, 2026-04-24"
    delivery = "fred"
