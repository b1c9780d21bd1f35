"""The hooks of a policy by name: the moments at which a stack could grow or shrink."""

from __future__ import annotations

import enum


class HookKind(enum.Enum):
    """The hooks of a policy, with the arguments that each is begun with."""

    CREATE_THREAD = "create_thread"  # thread, stack bottom (linear), stack bytes, 0 for a kernel thread
    ENTER_KERNEL = "enter_kernel"  # thread
    EXIT_KERNEL = "exit_kernel"  # thread
    SWITCH_OUT = "switch_out"  # thread, its RSP
    SWITCH_IN = "switch_in"  # thread
    STACK_FAULT = "stack_fault"  # address (linear), thread, error code
    REQUEST = "request"  # thread, bytes
    MEMORY_PRESSURE = "memory_pressure"  # pages
    EXIT_THREAD = "exit_thread"  # thread
    SHARE = "share"  # thread: it is about to hand out a pointer into its stack
    TICK = "tick"  # none: the timer interrupt of the CPU
