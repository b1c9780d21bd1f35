"""Scripted: a scenario's own order, told in guest events, the same for every policy.

Each step names a CPU and an event: that CPU alone runs until it has marked the event. The script
knows nothing of policy steps or frames. While the CPU cannot go on by itself (it sleeps, or its
policy waits for another CPU's acknowledgement) the others run, in small slices, until it can.
After the last step, and if a step is not reached in time, everybody runs in turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from kstack.schedule.base import Choice, View
from kstack.schedule.round_robin import RoundRobin

QUANTUM = 1000
OTHERS_QUANTUM = 20
STEP_LIMIT = 5_000_000


@dataclass(frozen=True)
class ScriptStep:
    """Run `cpu` until it marks `until`."""

    cpu: int
    until: str


@dataclass(frozen=True)
class Script:
    """The steps, in order."""

    steps: tuple[ScriptStep, ...]


class ScriptedSchedule:
    """Follows a script.

    Args:
        script: the steps.
    """

    def __init__(self, script: Script) -> None:
        self.name = "scripted"
        self._steps = script.steps
        self._at = 0
        self._began: int | None = None
        self._rest = RoundRobin(QUANTUM)
        self._others = RoundRobin(OTHERS_QUANTUM)
        self.stuck: str | None = None

    @property
    def finished(self) -> bool:
        """Whether every step was reached."""
        return self._at >= len(self._steps)

    def choose(self, view: View) -> Choice:
        """The step's CPU if it can go on, else the others."""
        if self.finished or self.stuck:
            return self._rest.choose(view)
        step = self._steps[self._at]
        if self._began is None:
            self._began = view.time
        if view.time - self._began > STEP_LIMIT:
            self.stuck = f"step {self._at + 1} of the script: CPU {step.cpu} never marked {step.until!r}"
            return self._rest.choose(view)
        if step.cpu in view.runnable and step.cpu not in view.blocked:
            return Choice(step.cpu, QUANTUM)
        others = tuple(cpu for cpu in view.runnable if cpu != step.cpu)
        if not others:
            return Choice(step.cpu, QUANTUM)
        if step.cpu in view.runnable:  # it polls in turn with the others
            return self._others.choose(view)
        return self._others.choose(view._replace(runnable=others))

    def event(self, cpu: int, name: str) -> None:
        """Go on to the next step if this was the event waited for."""
        if not self.finished and self._steps[self._at] == ScriptStep(cpu, name):
            self._at += 1
            self._began = None
