"""Who decides, in place of a CPU's TLB, how accesses to some pages are translated, and before what the CPU stops.

The hardware knows no tool: what explores all that a TLB may do implements `Translator` (kstack.explore.model.gate), is set as
`Mmu.translator`, and asks the MMU through `Walker`.
"""

from __future__ import annotations

from typing import Protocol

from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.walk import Attempt, PagingControl, Translation, Walk
from kstack.x86.access import Access


class Walker(Protocol):
    """An MMU, as far as a translator needs it.

    Attributes:
        cpu: whose.
    """

    cpu: int

    @property
    def memory(self) -> PhysicalMemory:
        """The machine's RAM."""
        ...

    def entry_of(self, address: int) -> int:
        """The leaf entry of a linear address as it is in memory, 0 where no table reaches it."""
        ...

    def peek(self, address: int) -> Translation | None:
        """What the tables say now for linear `address`: no caches, no rights, no side effects."""
        ...

    def path(self, address: int) -> list[tuple[int, int]]:
        """The entries by which the tables reach linear `address`: physical address and level of each, from the top."""
        ...

    @property
    def control(self) -> PagingControl:
        """The control-register bits that rights depend on."""
        ...

    def walk(self, address: int, attempt: Attempt) -> Walk:
        """Walk the tables for an access, setting A and D; nothing is cached."""
        ...

    def page_fault(self, address: int, attempt: Attempt, present: bool) -> None:
        """The access is refused with a page fault."""
        ...

    def refuse_walk(self, address: int, error: int) -> None:
        """The same, with the error code that a walk has found."""
        ...

    def set_accessed(self, found: Translation) -> None:
        """An access through an entry cached with A=0 sets A, if the leaf still maps the frame."""
        ...

    def tell_fill(self, address: int, found: Translation) -> None:
        """A translation has been made by a walk."""
        ...

    def tell_use(self, address: int, access: Access, found: Translation, current: Translation | None) -> None:
        """A translation is used, where the tables say another, or none."""
        ...


class Translator(Protocol):
    """Decides for one CPU.

    Attributes:
        granted: what it would stop at may be done now.
    """

    granted: bool

    @property
    def is_stopped(self) -> bool:
        """The CPU stands before something that it has not done."""
        ...

    def manages(self, address: int) -> bool:
        """Whether accesses to the page of a linear address are translated here."""
        ...

    def is_visible(self, address: int) -> bool:
        """Whether each access to a linear address has to come back."""
        ...

    def stops_access(self, address: int, access: Access) -> bool:
        """An access is about to be translated: whether the CPU is to stop before it."""
        ...

    def stops_instruction(self, name: str) -> bool:
        """An instruction is about to be carried out by the model: whether the CPU is to stop before it."""
        ...

    def translate(self, walker: Walker, address: int, attempt: Attempt) -> Translation | None:
        """The translation of an access to a managed page, None where the walker has been told of a fault or it is refused."""
        ...

    def accesses(self, address: int, physical: int, access: Access) -> bool:
        """An access to RAM has been translated; whether it can go on."""
        ...

    def entered(self, physical: int, comes_back: bool) -> None:
        """The CPU reaches RAM at `physical` from now on; whether each access comes back."""
        ...

    def invalidate(self, walker: Walker, address: int, globals_too: bool, tell: bool) -> list[int]:
        """An invalidation of the managed page of a linear address on this CPU.

        Args:
            walker: its MMU.
            address: linear.
            globals_too: global entries go as well.
            tell: whether the answer is wanted.

        Returns:
            The frames (bytes) to which entries led that may have been cached, if it is wanted.
        """
        ...

    def cached(self) -> list[int]:
        """Linear addresses of the managed pages of which this CPU may have cached something."""
        ...

    def refuse(self, what: str) -> bool:
        """The CPU does what the translator cannot follow: it stops; always True."""
        ...
