"""Who acts on a run from outside: injectors in its machine's place, writers at places of it; and who hears of that."""

from __future__ import annotations

from typing import Protocol

from kstack.hw.cpu.state import Slice
from kstack.hw.instruments import Hook, Hooks


class Advances(Protocol):
    """Who runs the machine in a session's place."""

    def advance(self, cpu: int, units: int) -> Slice:
        """As `Machine.run`."""
        ...

    @property
    def pending(self) -> bool:
        """Whether something will still happen by itself."""
        ...

    @property
    def due(self) -> int | None:
        """Virtual time at which something happens next, whoever runs then; None if nothing does."""
        ...

    def come(self) -> None:
        """Time has jumped, perhaps to there; every CPU sleeps."""
        ...


class Writer(Protocol):
    """Who writes into a session's machine from outside, at places of its run."""

    def due(self) -> bool:
        """Make all changes whose place this is; whether there were any."""
        ...

    def until(self, units: int) -> int:
        """At most so many units: those until the next change."""
        ...

    @property
    def left(self) -> int:
        """How many have not been made."""
        ...

    def save(self) -> int:
        """How far it is."""
        ...

    def load(self, state: int) -> None:
        """Be as far as at `save`; what is due then has to be asked for."""
        ...


class RunHooks(Hooks):
    """What a run tells beside its machine and its policy.

    Attributes:
        write: its writer has changed a register or memory (kstack.run.writes.Change).
    """

    def __init__(self) -> None:
        self.write: Hook[[object]] = Hook()
