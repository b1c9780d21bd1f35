"""What a probe comes to: counts, controls and verdicts, out of what was observed."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime

from kstack.probe.controls import ProbeControl, common_controls, dirty_controls
from kstack.probe.cpu import CpuModel, host_cpu
from kstack.probe.evidence import rewalk_evidence, speculation_evidence
from kstack.probe.measure import Measured, Progress, job, measure
from kstack.probe.questions import Arm, Question
from kstack.probe.tally import Tallies, Tally, tallied, threshold
from kstack.probe.verdict import ModeVerdict, inconclusive, verdict

SPECULATION, DIRTY_REWALK = "speculation", "dirty-rewalk"
MODES = (SPECULATION, DIRTY_REWALK)
"""Modes that can be asked about from user space. The others need a kernel's own probe."""


@dataclass(frozen=True)
class ProbeResult:
    """What a probe has come to.

    Attributes:
        cpu: what was measured; None if the system does not say.
        number: of the CPU, or None if nothing was measured.
        hypervisor: what it calls itself; None without one.
        kernel: its release.
        date: of the measurement (UTC).
        trials: of each arm that were asked for.
        seed: of their order.
        made: trials that were made.
        complete: whether those are all.
        failure: why not; "" if they are, or if it was interrupted.
        ticks: of a reload that found its line in a cache, at the most.
        tallies: the counts.
        controls: that every question has.
        verdicts: one a mode.
    """

    cpu: CpuModel | None
    number: int | None
    hypervisor: str | None
    kernel: str
    date: str
    trials: int
    seed: int
    made: int
    complete: bool
    failure: str
    ticks: float
    tallies: Tallies
    controls: tuple[ProbeControl, ...]
    verdicts: tuple[ModeVerdict, ...]

    def tally(self, question: Question, arm: str) -> Tally:
        """The counts of one arm."""
        return self.tallies[Arm(question.name, arm)]


def probe(trials: int, seed: int, cpu: int | None, progress: Progress) -> ProbeResult:
    """Measure the processor that this runs on.

    Args:
        trials: of each arm.
        seed: of their order.
        cpu: to run on; None for the last that may be used.
        progress: told trials made, and all.
    """
    return judged(measure(job(trials, seed, cpu), progress), trials, seed)


def judged(found: Measured, trials: int, seed: int) -> ProbeResult:
    """What was observed comes to.

    Args:
        found: all of it.
        trials: of each arm that were asked for.
        seed: of their order.
    """
    limit = threshold(found.observed)
    tallies = tallied(found.observed, limit.ticks)
    controls = common_controls(tallies, limit)
    return ProbeResult(
        cpu=host_cpu(found.cpu),
        number=found.cpu,
        hypervisor=found.hypervisor,
        kernel=platform.release(),
        date=datetime.now(UTC).date().isoformat(),
        trials=trials,
        seed=seed,
        made=len(found.observed),
        complete=found.complete,
        failure=found.failure,
        ticks=limit.ticks,
        tallies=tallies,
        controls=controls,
        verdicts=_verdicts(found, tallies, controls),
    )


def _verdicts(found: Measured, tallies: Tallies, common: tuple[ProbeControl, ...]) -> tuple[ModeVerdict, ...]:
    if found.failure:
        return tuple(inconclusive(mode, found.failure) for mode in MODES)
    return (
        verdict(SPECULATION, speculation_evidence(tallies), common, found.complete),
        verdict(DIRTY_REWALK, rewalk_evidence(tallies), (*common, *dirty_controls(tallies)), found.complete),
    )
