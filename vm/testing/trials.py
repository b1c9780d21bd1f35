"""Trials of injected faults with a simpler schedule."""

from __future__ import annotations

from dataclasses import replace

from kstack.fault import Moment
from kstack.inject import Trial, TrialOutcome
from kstack.inject.trial import judged
from kstack.recording import Recording, unpack
from kstack.schedule import ReplaySchedule
from kstack.testing.guests import GuestRun, Start
from kstack.testing.minimise import merged, minimise


def simpler(trial: Trial, outcome: TrialOutcome, recording: Recording) -> Recording:
    """A recording under the schedule with the fewest switches found, under which the fault comes to the same.

    Args:
        trial: what was tried.
        outcome: what it came to.
        recording: what repeats it.
    """
    if isinstance(trial.fault.when, Moment):
        return recording  # at the same time another instruction would be hit
    start = Start(**vars(trial.setup))
    choices = list(unpack(recording.choices))
    run = start.run(ReplaySchedule(choices, finished=False))
    if run.failure is None:
        return recording
    best = minimise(run).run
    if len(merged(best.choices)) >= len(merged(choices)) or best.outcome is None or best.fired == (None,):
        return recording
    again = judged(trial.pair.scenario, best.outcome)
    same = (again.outcome, again.by) == (outcome.outcome, outcome.by)
    return best.start.recording_of(best) if same and _is_the_faults(trial, best) else recording


def _is_the_faults(trial: Trial, run: GuestRun) -> bool:
    """Whether the same schedule without the fault comes to what the pair comes to without it, as far as it can be followed."""
    bare = replace(run.start, faults=()).run(ReplaySchedule(run.choices, finished=False))
    if bare.outcome is None:
        return False
    found = judged(trial.pair.scenario, bare.outcome)
    return (found.outcome, found.by) in (
        (trial.usual.outcome, trial.usual.by),
        ("hang", "nobody"),  # the schedule has no more choices, or lets somebody wait
    )
