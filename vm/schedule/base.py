"""What a schedule is."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Choice(NamedTuple):
    """A CPU, and the units of virtual time it may run."""

    cpu: int
    quantum: int


class View(NamedTuple):
    """What a schedule may see.

    Attributes:
        runnable: CPUs for which a slice would do something, in order; never empty.
        blocked: those of them whose policy step waits for another CPU.
        time: virtual time.
    """

    runnable: tuple[int, ...]
    blocked: frozenset[int]
    time: int


class Exhausted(Exception):
    """There are no more choices: they were written down while a run went on that was cut off."""


class Scheduler(Protocol):
    """Chooses every slice."""

    name: str

    def choose(self, view: View) -> Choice:
        """The next slice."""
        ...

    def event(self, cpu: int, name: str) -> None:
        """The guest marked an event; its slice has ended."""
        ...
