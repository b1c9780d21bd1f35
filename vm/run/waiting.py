"""CPUs that wait in steps of a policy, and whether they wait for each other for ever.

A CPU has waited in vain if its slice has tried its step again and stands there still. Where all that could run have, since
anything else happened, and nothing can interrupt one, they are in a deadlock.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.machine import Machine
from kstack.run.outside import Advances
from kstack.stacks.host.runtime import StackRuntime

_NOBODY: Final[frozenset[int]] = frozenset()


class Progress(NamedTuple):
    """Changes whenever a CPU does more than to try again: it may have taken an interrupt and wait again."""

    steps: int
    interrupts: int
    nmis: int


class Begun(NamedTuple):
    """A slice in flight, as things were before it.

    Attributes:
        cpu: whose.
        runnable: who could run.
        some_go_on: not all of them were blocked.
        progress: its CPU's, if any CPU has waited in vain.
        tries: all attempts in vain of policy steps.
    """

    cpu: int
    runnable: list[int]
    some_go_on: bool
    progress: Progress | None
    tries: int


class WaitingState(NamedTuple):
    """A `Waiting`'s whole state; nobody changes what is in it."""

    in_vain: frozenset[int]
    slice: Begun


class Waiting:
    """Follows the slices of one run.

    Args:
        machine: that runs.
        runtime: knows the steps.

    Attributes:
        in_vain: CPUs that have waited in vain since anything else happened.
    """

    def __init__(self, machine: Machine, runtime: StackRuntime) -> None:
        self.in_vain: set[int] = set()
        self._machine, self._runtime = machine, runtime
        self._slice = Begun(0, [], False, None, 0)

    def blocked(self, runnable: list[int]) -> frozenset[int]:
        """Those that stand at a step that waits."""
        if not any(self._runtime.blocked):
            return _NOBODY
        return frozenset(cpu for cpu in runnable if self._runtime.is_blocked(cpu))

    def begin(self, cpu: int, runnable: list[int], blocked: frozenset[int]) -> None:
        """A slice begins."""
        before = self._progress(cpu) if self.in_vain else None
        self._slice = Begun(cpu, runnable, len(blocked) < len(runnable), before, self._runtime.counts.waits)

    def finish(self, injector: Advances | None) -> list[int]:
        """It has ended: the CPUs that are in a deadlock, none if there is none.

        Args:
            injector: who runs the machine in the session's place, and may do something yet.
        """
        cpu, runnable, some_go_on, before, tries = self._slice
        if self.in_vain and (some_go_on or self._progress(cpu) != before):
            self.in_vain.clear()
        runtime = self._runtime
        if runtime.counts.waits == tries or not runtime.is_blocked(cpu):
            return []
        self.in_vain.add(cpu)
        dead = self.in_vain.issuperset(runnable) and not self._can_be_interrupted(runnable, injector)
        return runnable if dead else []

    def _progress(self, cpu: int) -> Progress:
        counts = self._machine.cpus[cpu].counts
        return Progress(self._runtime.counts.steps, counts.interrupts, counts.nmis)

    def _can_be_interrupted(self, runnable: list[int], injector: Advances | None) -> bool:
        """Whether something is still to come to CPUs that all wait, and have all tried again."""
        machine = self._machine
        if injector is not None and (injector.pending or machine.runnable() != runnable):
            return True  # or has just woken somebody
        timers = machine.next_deadline() is not None or bool(machine.ipis)
        return timers or any(machine.interruptible(cpu) for cpu in runnable)

    def save(self) -> WaitingState:
        """The whole state."""
        return WaitingState(frozenset(self.in_vain), self._slice)

    def load(self, state: WaitingState) -> None:
        """Become what `save` returned."""
        self.in_vain, self._slice = set(state.in_vain), state.slice
