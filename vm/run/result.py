"""What a run came to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from kstack.kernels.kernel import Exits
from kstack.sanitizer.findings import Finding
from kstack.stacks.host.call import StepCounts
from kstack.stacks.measure.usage import UsageSummary

BOUND: Final = "bound"  # of virtual time
WORK: Final = "bound of host work"
CpuReport = dict[str, int | str]
"""Of a CPU: its number (`cpu`), its `state` in a word, `walks` of its tables, and all that is counted of it, by name."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        ended: `exit`, `shutdown`, `asleep`, `deadlock`, `bound`, `bound of host work`, `finding`, or `unfinished` where a recording was cut off.
        exit_value: what the guest wrote to the debug-exit port, or None.
        time: units of virtual time since reset.
        serial: everything the guest printed.
        findings: what the oracle found, in order.
        exercised: accesses that could have gone two ways had nothing ever been invalidated.
        stack_walks: page walks that cached a translation of a stack page.
        unmaps: present entries of living threads that the policy cleared or changed.
        state_hash: of the machine at the end; empty where the options want none.
        counts: what the policy did.
        kib_per_thread: averaged over time, None without a policy.
        stuck: why a script was not followed to its end, or None.
        cpus: exact counts per CPU, since reset.
        usage: memory, depths, pools and faults, from the run's start on; None without a policy.
        reason: why it has ended, in a sentence.
        told: what the guest has set up and is not modelled, in sentences.
        exits: what `exit_value` says.
    """

    ended: str
    exit_value: int | None
    time: int
    serial: str
    findings: tuple[Finding, ...]
    exercised: int
    stack_walks: int
    unmaps: int
    state_hash: str
    counts: StepCounts
    kib_per_thread: float | None
    stuck: str | None
    cpus: tuple[CpuReport, ...]
    usage: UsageSummary | None = None
    reason: str = ""
    told: tuple[str, ...] = ()
    exits: Exits = Exits()

    @property
    def passed(self) -> bool:
        """The guest has said that it has come to a good end."""
        return self.exit_value in self.exits.passed

    @property
    def failed(self) -> bool:
        """It has said that a check of its own has failed."""
        return self.exit_value == self.exits.failed

    @property
    def panicked(self) -> bool:
        """It has said that it cannot go on."""
        return self.exit_value == self.exits.panicked

    @property
    def last_words(self) -> str:
        """The line by which it has said why it panicked, or the last one that it printed."""
        return self.exits.last_words(self.serial)

    @property
    def code(self) -> int:
        """The process exit code that `kstack run` gives for this.

        Of a guest that has written to the debug-exit port: 0 for the values 0 and 0x10, 3 for 0x12, 1 for any other.
        """
        if self.ended == "shutdown" or self.panicked:
            return 3
        if self.findings:
            return 1
        if self.ended == "exit":
            return 0 if self.passed else 1
        return 4 if self.ended in (BOUND, WORK, "unfinished") else 3

    def without(self, expected: Collection[str]) -> RunResult:
        """This result less the kinds of findings that its scenario expects."""
        return replace(self, findings=tuple(found for found in self.findings if found.kind.value not in expected))
