"""The interface between guest kernels and policies: one port, function numbers, a mailbox.

A guest executes `out 0xe5, eax` with a function number in EAX and arguments in RDI, RSI, RDX and
RCX; the answer comes in RAX. While a hook runs, the OUT does not complete: the CPU takes interrupts
if IF is set, with RIP at the OUT. `in eax, 0xe5` gives ATTACHED where a policy answers.

    mailbox of a CPU, in guest memory     0   request number
    (64-bit words)                        8   first linear address
                                          16  pages (0: everything)
                                          24  number acknowledged last
"""

from __future__ import annotations

import enum
from typing import Final

PORT: Final = 0xE5
ATTACHED: Final = 0x4B535441  # "KSTA"
DETACHED: Final = 0xFFFFFFFF
SHOOTDOWN_VECTOR: Final = 0xF0

MAILBOX_REQUEST: Final = 0
MAILBOX_START: Final = 8
MAILBOX_PAGES: Final = 16
MAILBOX_ACK: Final = 24
MAX_EVENT_NAME: Final = 64


_WAYS: Final = {"df": 0, "ist": 1, "fred": 2}
PCID: Final = 1 << 2


def boot_answer(delivery: str, kernel_pages: str) -> int:
    """What BOOT answers: how the guest is to take stack faults (bits 1:0) and to map kernel pages (bit 2).

    Args:
        delivery: one of `kstack.stacks.policy.DELIVERIES`; anything else is the first.
        kernel_pages: `global` or `pcid`.
    """
    return _WAYS.get(delivery, 0) | (PCID if kernel_pages == "pcid" else 0)


class Function(enum.IntEnum):
    """What a guest calls."""

    BOOT = 1  # pool start, pool bytes, mailboxes, stride | CPUs << 32 -> `boot_answer`
    CPU_UP = 2  # CPU
    CREATE_THREAD = 3  # thread, stack bottom, stack bytes, 0 for a kernel thread -> 1, 0 no memory
    ENTER_KERNEL = 4  # thread
    EXIT_KERNEL = 5  # thread
    SWITCH_OUT = 6  # thread, its RSP
    SWITCH_IN = 7  # thread
    STACK_FAULT = 8  # address, thread, error code -> 1 try again, 0 not mine
    REQUEST = 9  # thread, bytes -> 1 there, 0 refused
    MEMORY_PRESSURE = 10  # pages
    EXIT_THREAD = 11  # thread
    EVENT = 12  # name
    SHARE = 13  # thread: it is about to hand out a pointer into its stack
    TICK = 14  # the timer interrupt of the CPU
