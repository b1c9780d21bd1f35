"""Trials of injected faults with a simpler schedule."""

from __future__ import annotations

from vm.recording import Recording, unpack
from vm.schedule import ReplaySchedule
from vm.stacks.registry import find_policy
from vm.testing.guests import Start
from vm.testing.minimise import merged, minimise
from vm.trials import Outcome, Trial
from vm.trials.trial import judged


def simpler(trial: Trial, outcome: Outcome, recording: Recording) -> Recording:
    """A recording under the schedule with the fewest switches found, under which the fault comes to the same.

    Args:
        trial: what was tried.
        outcome: what it came to.
        recording: what repeats it.
    """
    setup = trial.setup
    policy = find_policy(trial.pair.policy)
    start = Start(
        setup.image, setup.cpus, setup.ram, setup.modes, policy, setup.options, setup.faults, trial.pair.policy
    )
    choices = list(unpack(recording.choices))
    run = start.run(ReplaySchedule(choices, finished=False))
    if run.failure is None:
        return recording
    best = minimise(run).run
    if len(merged(best.choices)) >= len(merged(choices)) or best.outcome is None or best.fired == (None,):
        return recording
    same = judged(trial.pair.scenario, best.outcome)[:2] == (outcome.outcome, outcome.by)
    return best.start.recording(best) if same else recording
