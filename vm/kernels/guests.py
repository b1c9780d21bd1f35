"""The guests of one kernel: images and scenarios by name, their sources, and the kernel itself on a machine.

What a run is made of (`kstack.run.spec.RunSpec`) names one of these; nobody who runs, judges or shows guests knows another way to
them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from kstack.kernels.kernel import Kernel
from kstack.kernels.scenario import Scenario
from kstack.load import Symbols
from kstack.machine import Machine


class Statement(Protocol):
    """Where a statement of a source is written."""

    @property
    def file(self) -> str:
        """Path."""
        ...

    @property
    def line(self) -> int:
        """From 1."""
        ...

    @property
    def macro(self) -> str:
        """The macro that it comes from; empty if it comes from none."""
        ...


class Section(NamedTuple):
    """A part of an image in memory.

    Attributes:
        start: linear address.
        physical: where it is loaded.
        size: in memory (bytes).
        data: what of it is in the file; the rest is zero.
        is_code: it can be executed.
    """

    start: int
    physical: int
    size: int
    data: bytes
    is_code: bool

    @property
    def end(self) -> int:
        """Behind the last byte (linear address)."""
        return self.start + self.size


class Listing(NamedTuple):
    """An image with its sources.

    Attributes:
        sections: all of it.
        statements: linear addresses, and where the statements are written that have put bytes there; in order of addresses.
        labels: names in what can be executed, by linear address; of several the first in the alphabet.
    """

    sections: tuple[Section, ...]
    statements: Sequence[tuple[int, Statement]]
    labels: Mapping[int, str]


class Guests(Hashable, Protocol):
    """All that can be run of one kernel; those are equal that have the same."""

    def kernel(self, machine: Machine, symbols: Symbols) -> Kernel:
        """The kernel of a machine's guest, by the symbols of its image; it ends the one that was made for this machine before."""
        ...

    def titles(self) -> Mapping[str, str]:
        """Images that need no file, by name, each with a title."""
        ...

    def image(self, name: str) -> bytes:
        """The bytes of an image: by name, of a scenario's file, or of a file that is one.

        Raises:
            ImageError: there is none.
        """
        ...

    def listing(self, name: str) -> Listing | None:
        """An image's sources, where they are known."""
        ...

    def scenarios(self) -> Mapping[str, Scenario]:
        """All scenarios that need no file, by id.

        Raises:
            ScenarioError: one is wrong.
        """
        ...

    def is_scenario(self, name: str) -> bool:
        """Whether an image is a scenario, whose runs start when its guest has booted."""
        ...

    def scenario(self, name: str) -> Scenario:
        """A scenario by id, or by the path of its file, which is its id then.

        Raises:
            ScenarioError: there is none, with the nearest ids; or the file is wrong.
        """
        ...

    def contents(self, name: str) -> str:
        """What a scenario's own files hold (hex digest); empty for one that needs none."""
        ...

    @property
    def folder(self) -> Path:
        """Where all lies that its own images are made of."""
        ...

    @property
    def scenario_keys(self) -> frozenset[str]:
        """What a scenario's file says, by key."""
        ...
