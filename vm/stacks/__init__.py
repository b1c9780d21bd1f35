"""What stack policies are made of: stack areas, micro-steps, page pools, and the runtime that runs them."""

from vm.stacks.area import EMPTY, PAGE, Page, Pte, Thread
from vm.stacks.policy import Decision, Policy, Steps, map_pages, reclaim_with_shootdown, shootdown, unmap_pages
from vm.stacks.steps import (
    ExchangePte,
    GiveBack,
    Invlpg,
    Lock,
    OtherCpus,
    PostFlush,
    ReadPte,
    SendIpi,
    Step,
    TakePage,
    Unlock,
    WaitForAck,
    WritePte,
    ZeroPage,
)

__all__ = [
    "EMPTY",
    "PAGE",
    "Decision",
    "ExchangePte",
    "GiveBack",
    "Invlpg",
    "Lock",
    "OtherCpus",
    "Page",
    "Policy",
    "PostFlush",
    "Pte",
    "ReadPte",
    "SendIpi",
    "Step",
    "Steps",
    "TakePage",
    "Thread",
    "Unlock",
    "WaitForAck",
    "WritePte",
    "ZeroPage",
    "map_pages",
    "reclaim_with_shootdown",
    "shootdown",
    "unmap_pages",
]
