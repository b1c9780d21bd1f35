"""Round robin: every CPU in turn, each for the same quantum."""

from __future__ import annotations

from kstack.schedule.base import Choice, View


class RoundRobin:
    """Each runnable CPU in turn.

    Args:
        quantum: units of virtual time a slice, at least 1.
    """

    def __init__(self, quantum: int) -> None:
        self.name = f"round-robin:{quantum}"
        self._quantum = quantum
        self._last = -1

    def choose(self, view: View) -> Choice:
        """The next CPU after the one that ran last."""
        later = [cpu for cpu in view.runnable if cpu > self._last]
        self._last = later[0] if later else view.runnable[0]
        return Choice(self._last, self._quantum)

    def save(self) -> int:
        """The CPU that ran last, -1 before any."""
        return self._last

    def load(self, state: int) -> None:
        """Go on behind that CPU."""
        self._last = state

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""
