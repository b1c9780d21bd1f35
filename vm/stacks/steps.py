"""The micro-steps of which policies are made.

A policy's hook is a generator of these. Each is one visible operation: the schedule may let any
other CPU run between two of them, and each has a cost. What a step answers is the value of the
`yield` expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vm.stacks.area import Page, Pte


@dataclass(frozen=True)
class Step:
    """A micro-step."""

    def __str__(self) -> str:
        return type(self).__name__


def _page(page: Page) -> str:
    return f"thread {page.thread} page {page.index}"


@dataclass(frozen=True)
class ReadPte(Step):
    """Load the leaf entry of a stack page. Answers a `Pte`."""

    page: Page

    def __str__(self) -> str:
        return f"ReadPte({_page(self.page)})"


@dataclass(frozen=True)
class WritePte(Step):
    """Store the leaf entry of a stack page: a plain store, which a walker's A or D update may precede."""

    page: Page
    pte: Pte

    def __str__(self) -> str:
        return f"WritePte({_page(self.page)}, {self.pte.value:#x})"


@dataclass(frozen=True)
class ExchangePte(Step):
    """Compare-and-exchange of the leaf entry, locked. Answers the `Pte` that was there."""

    page: Page
    expected: Pte
    pte: Pte

    def __str__(self) -> str:
        return f"ExchangePte({_page(self.page)}, {self.expected.value:#x} -> {self.pte.value:#x})"


@dataclass(frozen=True)
class Invlpg(Step):
    """INVLPG of a stack page on the CPU that runs the hook."""

    page: Page

    def __str__(self) -> str:
        return f"Invlpg({_page(self.page)})"


@dataclass(frozen=True)
class TakePage(Step):
    """Take a frame from the CPU's pool. Answers its physical address, or None if there is none."""


@dataclass(frozen=True)
class GiveBack(Step):
    """Give a frame (physical address, bytes) to the CPU's pool."""

    frame: int

    def __str__(self) -> str:
        return f"GiveBack(frame {self.frame:#x})"


@dataclass(frozen=True)
class ZeroPage(Step):
    """Fill a frame with zeros."""

    frame: int

    def __str__(self) -> str:
        return f"ZeroPage(frame {self.frame:#x})"


@dataclass(frozen=True)
class OtherCpus(Step):
    """Answers the CPUs that are online, but for the one that runs the hook, as a tuple."""


@dataclass(frozen=True)
class PostFlush(Step):
    """Store a request into a CPU's shootdown mailbox: the area from `page` down to the deepest."""

    cpu: int
    start: int
    pages: int

    def __str__(self) -> str:
        return f"PostFlush(cpu {self.cpu}, {self.pages} pages from {self.start:#x})"


@dataclass(frozen=True)
class SendIpi(Step):
    """Send the guest's shootdown vector to a CPU, by writing this CPU's ICR."""

    cpu: int

    def __str__(self) -> str:
        return f"SendIpi(cpu {self.cpu})"


@dataclass(frozen=True)
class WaitForAck(Step):
    """Wait until a CPU's handler has acknowledged the request posted last.

    The CPU's interrupt flag holds meanwhile: with IF set it takes interrupts while it waits.
    """

    cpu: int

    def __str__(self) -> str:
        return f"WaitForAck(cpu {self.cpu})"


@dataclass(frozen=True)
class Lock(Step):
    """Take a lock, waiting until it is free."""

    name: str

    def __str__(self) -> str:
        return f"Lock({self.name})"


@dataclass(frozen=True)
class Unlock(Step):
    """Release a lock that this hook holds."""

    name: str

    def __str__(self) -> str:
        return f"Unlock({self.name})"


Answer = Any
