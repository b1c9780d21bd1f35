"""Replay: the choices of a recording, one after the other."""

from __future__ import annotations

from vm.errors import RecordingError
from vm.schedule.base import Choice, View


class ReplaySchedule:
    """Repeats recorded choices.

    Args:
        choices: as they were made.
    """

    def __init__(self, choices: list[Choice]) -> None:
        self.name = "replay"
        self._choices = choices
        self._at = 0

    @property
    def exhausted(self) -> bool:
        """Every choice has been repeated."""
        return self._at >= len(self._choices)

    def choose(self, view: View) -> Choice:
        """The next recorded choice.

        Raises:
            RecordingError: the run has gone another way than when it was recorded.
        """
        if self.exhausted:
            raise RecordingError(
                f"replay goes on after the {len(self._choices)} slices of the recording, at {view.time}"
            )
        choice = self._choices[self._at]
        if choice.cpu not in view.runnable:
            raise RecordingError(f"replay diverges at slice {self._at}, time {view.time}: CPU {choice.cpu} cannot run")
        self._at += 1
        return choice

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""
