"""What a scenario says to those who run it, whichever kernel's it is.

A scenario is a guest with a question: how many CPUs it needs, in which order they are interesting, what is right there and what
is not. How its image is made is the affair of its kernel (`kstack.kernels.guests`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

FILE: Final = ".toml"
"""How the name of a scenario ends that is a file of the user's."""
_FEW: Final = 8  # CPUs
USUAL_WORK: Final = 200_000  # units of the host's work: some seconds, and twenty times what most scenarios take


class ScriptLine(Protocol):
    """Of a script: run a CPU until it marks an event."""

    @property
    def cpu(self) -> int:
        """Its number."""
        ...

    @property
    def until(self) -> str:
        """The event's name."""
        ...


class BrokenPolicy(Protocol):
    """A policy that a scenario is known to find: perhaps with steps left out."""

    @property
    def policy(self) -> str:
        """Its id."""
        ...

    @property
    def without(self) -> Sequence[str]:
        """Names of the steps that it leaves out; none if it is unsafe as it is."""
        ...

    @property
    def hook(self) -> str:
        """The hook that leaves them out; empty for all."""
        ...

    @property
    def modes(self) -> Sequence[str]:
        """Architecture modes, as on the command line."""
        ...


class Scenario(Protocol):
    """One scenario."""

    @property
    def id(self) -> str:
        """By what it is named: its own name, or the path of its file."""
        ...

    @property
    def title(self) -> str:
        """For people."""
        ...

    @property
    def question(self) -> str:
        """What a run of it answers, for people."""
        ...

    @property
    def source(self) -> str:
        """Where the question comes from, for people."""
        ...

    @property
    def cpus(self) -> int:
        """How many the guest needs."""
        ...

    @property
    def ram(self) -> str:
        """What it wants, as on the command line."""
        ...

    @property
    def success(self) -> str:
        """What the serial console says when the guest's own check has passed."""
        ...

    @property
    def concerns(self) -> Sequence[str]:
        """Kinds of findings that it can show."""
        ...

    @property
    def expects(self) -> Sequence[str]:
        """Kinds of findings that are right here and do not make a policy unsafe."""
        ...

    @property
    def script(self) -> Sequence[ScriptLine]:
        """The order that it was written for."""
        ...

    @property
    def max_instructions(self) -> int:
        """Bound of one run, in virtual time after boot."""
        ...

    @property
    def mutant(self) -> BrokenPolicy:
        """Under what it is unsafe."""
        ...

    @property
    def litmus(self) -> bool:
        """It is small enough to be explored exhaustively."""
        ...

    @property
    def managed(self) -> Sequence[str]:
        """Pages of ordinary memory whose translations are explored: `symbol`, `symbol+offset`, `0xaddress`, with `:pages`."""
        ...

    @property
    def quanta(self) -> Sequence[int]:
        """Round-robin quanta it is run at; none for the usual ones."""
        ...

    @property
    def schedules(self) -> int | None:
        """Random schedules it needs at the most, where each is long."""
        ...

    @property
    def long(self) -> bool:
        """A run takes half a minute or more, so it is judged only where it is named."""
        ...

    @property
    def outcomes(self) -> Mapping[str, str]:
        """Final values that `kstack explore --outcomes` lists, by name (vm/explore/outcomes.py)."""
        ...


def usual_work(scenario: Scenario | None, cpus: int = 1) -> int:
    """Units of the host's work (`Machine.work`) that a run may take where nobody says otherwise.

    Args:
        scenario: what is run; None is no scenario.
        cpus: of the machine; where there are many, each may take as much as one of eight.
    """
    work = USUAL_WORK * max(cpus, _FEW) // _FEW
    return work if scenario is None else max(work, scenario.max_instructions)
