"""The micro-steps of which policies are made.

A policy's hook is a generator of these. Each is one visible operation: the schedule may let any
other CPU run between two of them, and each has a cost. What a step answers is the value of the
`yield` expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kstack.stacks.area import Page, Pte, Thread


@dataclass(frozen=True)
class Step:
    """A micro-step."""

    def __str__(self) -> str:
        return type(self).__name__


Key = int | tuple[int, ...]
"""What a variable is kept for: a CPU, a thread, a page (thread, index), or 0 for all together."""
Value = None | int | str | tuple["Value", ...]
"""What a variable holds: plain and immutable, so that it can be saved and compared."""


def _page(page: Page) -> str:
    return f"thread {page.thread} page {page.index}"


@dataclass(frozen=True)
class ReadPte(Step):
    """Load the leaf entry of a stack page. Answers a `Pte`."""

    page: Page

    def __str__(self) -> str:
        return f"ReadPte({_page(self.page)})"


@dataclass(frozen=True)
class PteStore(Step):
    """What the steps that store a leaf entry have in common."""

    page: Page
    pte: Pte


@dataclass(frozen=True)
class WritePte(PteStore):
    """Store the leaf entry of a stack page: a plain store, which a walker's A or D update may precede."""

    def __str__(self) -> str:
        return f"WritePte({_page(self.page)}, {self.pte.value:#x})"


@dataclass(frozen=True)
class ExchangePte(PteStore):
    """Compare-and-exchange of the leaf entry against `expected`, locked. Answers the `Pte` that was there."""

    expected: Pte

    def __str__(self) -> str:
        return f"ExchangePte({_page(self.page)}, {self.expected.value:#x} -> {self.pte.value:#x})"


@dataclass(frozen=True)
class SwapPte(PteStore):
    """Exchange the leaf entry, locked (Linux: ptep_get_and_clear). Answers the `Pte` that was there."""

    def __str__(self) -> str:
        return f"SwapPte({_page(self.page)}, {self.pte.value:#x})"


@dataclass(frozen=True)
class Invlpg(Step):
    """INVLPG of a stack page on the CPU that runs the hook."""

    page: Page

    def __str__(self) -> str:
        return f"Invlpg({_page(self.page)})"


@dataclass(frozen=True)
class Invlpgb(Step):
    """INVLPGB of `pages` pages upwards from a stack page, global entries too, on every CPU (AMD APM volume 3).

    Weakly ordered: other CPUs may use what they hold until this CPU's `Tlbsync`.
    """

    page: Page
    pages: int

    def __str__(self) -> str:
        return f"Invlpgb({self.pages} pages from {_page(self.page)})"


@dataclass(frozen=True)
class Tlbsync(Step):
    """Wait until every CPU has carried out this CPU's INVLPGBs."""


@dataclass(frozen=True)
class TakePage(Step):
    """Take a frame from the CPU's pool. Answers its physical address, or None if there is none.

    With `fallback` an empty pool is filled up first, from the shared pool and the page allocator.
    """

    fallback: bool = True

    def __str__(self) -> str:
        return "TakePage" if self.fallback else "TakePage(pool only)"


@dataclass(frozen=True)
class AllocPage(Step):
    """Ask the page allocator for a frame. Answers its physical address, or None if it has none.

    With `sleep` it may wait for memory (GFP_KERNEL). Where it would have to, and the hook cannot
    sleep, the machine reports that: nobody can run the thread again.
    """

    sleep: bool = False

    def __str__(self) -> str:
        return "AllocPage(may sleep)" if self.sleep else "AllocPage"


@dataclass(frozen=True)
class PoolLevel(Step):
    """Answers how many frames this CPU's pool holds."""


@dataclass(frozen=True)
class GiveBack(Step):
    """Give a frame (physical address, bytes) to a CPU's pool: this CPU's unless another is named."""

    frame: int
    cpu: int | None = None

    def __str__(self) -> str:
        where = "" if self.cpu is None else f" to CPU {self.cpu}'s pool"
        return f"GiveBack(frame {self.frame:#x}{where})"


@dataclass(frozen=True)
class ZeroPage(Step):
    """Fill a frame with zeros."""

    frame: int

    def __str__(self) -> str:
        return f"ZeroPage(frame {self.frame:#x})"


@dataclass(frozen=True)
class Load(Step):
    """Load a variable of the policy's. Answers its value, None if nothing was stored."""

    name: str
    key: Key = 0

    def __str__(self) -> str:
        return f"Load({self.name}[{self.key}])"


@dataclass(frozen=True)
class Store(Step):
    """Store a variable of the policy's; storing None forgets it."""

    name: str
    value: Value
    key: Key = 0

    def __str__(self) -> str:
        return f"Store({self.name}[{self.key}] = {self.value})"


@dataclass(frozen=True)
class Swap(Step):
    """Exchange a variable's value, locked (XCHG). Answers the value that was there."""

    name: str
    value: Value
    key: Key = 0

    def __str__(self) -> str:
        return f"Swap({self.name}[{self.key}], {self.value})"


@dataclass(frozen=True)
class Sleepers(Step):
    """Answers the threads that have been switched out for at least `units` of virtual time, as copies, by id.

    At most `most` of them (0: all), and only those with an id above `after`: a scan goes on where it ended.
    """

    units: int = 0
    after: int = 0
    most: int = 0


@dataclass(frozen=True)
class ThreadAt(Step):
    """Answers a copy of the thread in whose stack area a linear address lies, or None."""

    address: int

    def __str__(self) -> str:
        return f"ThreadAt({self.address:#x})"


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


Answered = Value | Thread | tuple[Thread, ...]
"""What a step can answer: a `Pte` is a tuple of a number."""
Answer = Any
"""The same in a hook, where it is what the step says that it answers."""
