"""Replay: the choices of a recording, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

from vm.errors import RecordingError
from vm.schedule.base import Choice, View


class ReplaySchedule:
    """Repeats recorded choices.

    Args:
        choices: as they were made.
    """

    def __init__(self, choices: Iterable[Choice]) -> None:
        self.name = "replay"
        self._choices = iter(choices)
        self._at = 0

    def choose(self, view: View) -> Choice:
        """The next recorded choice.

        Raises:
            RecordingError: the run has gone another way than when it was recorded.
        """
        choice = next(self._choices, None)
        if choice is None:
            raise RecordingError(f"replay goes on after the {self._at} slices of the recording, at {view.time}")
        if choice.cpu not in view.runnable:
            raise RecordingError(f"replay diverges at slice {self._at}, time {view.time}: CPU {choice.cpu} cannot run")
        self._at += 1
        return choice

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""
