"""Replay: the choices of a recording, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

from kstack.base.errors import RecordingError
from kstack.schedule.base import Choice, Exhausted, View


class ReplaySchedule:
    """Repeats recorded choices.

    Args:
        choices: as they were made.
        finished: they are all that were made; else the run that made them was cut off.
    """

    def __init__(self, choices: Iterable[Choice], finished: bool = True) -> None:
        self.name = "replay"
        self._finished = finished
        self._choices = iter(choices)
        self._at = 0

    def choose(self, view: View) -> Choice:
        """The next recorded choice.

        Raises:
            RecordingError: the run has gone another way than when it was recorded.
            Exhausted: it was cut off here.
        """
        choice = next(self._choices, None)
        if choice is None and not self._finished:
            raise Exhausted
        if choice is None:
            raise RecordingError(f"replay goes on after the {self._at} slices of the recording, at {view.time}")
        if choice.cpu not in view.runnable:
            raise RecordingError(f"replay diverges at slice {self._at}, time {view.time}: CPU {choice.cpu} cannot run")
        self._at += 1
        return choice

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""
