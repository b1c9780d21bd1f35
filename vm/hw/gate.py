"""A gate: stops a CPU right before each operation that another CPU could tell.

What is visible: data accesses to pages that more than one CPU touches, and the instructions that the
engine hands out anyway (OUT, INVLPG, loads of control registers, ...), and the boundary at which interrupts
can be taken again (`window`), so that none is missed between two other operations. A CPU that has stopped has
done nothing of the operation yet; it is granted one instruction, and then runs on to the next one.

Not modelled: an unlocked read-modify-write is one operation here, though hardware makes it two; so
is an instruction that accesses several visible pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from vm.hw.engine import Access
from vm.hw.lazy import LazyTlb, Option


class Held(NamedTuple):
    """The operation before which a CPU stands: an access, or an instruction by its name.

    `address` is linear (bytes), 0 for an instruction.
    """

    what: str
    address: int = 0
    write: bool = False


class Visible:
    """Which pages are visible, for all CPUs of a machine; it grows as they are touched.

    Args:
        pages: linear page numbers that are known to be.

    Attributes:
        pages: linear page numbers that are visible.
        grown: a page became visible that was not: what ran before was run too coarsely.
    """

    def __init__(self, pages: Iterable[int] = ()) -> None:
        self.pages: set[int] = set(pages)  # asked for membership only
        self.toucher: dict[int, int] = {}  # of pages that are not visible: the one CPU that has touched them
        self.recent: dict[int, None] = {}  # pages touched since somebody cleared it, in order
        self.grown = False

    def touched(self, cpu: int, page: int) -> bool:
        """Whether `cpu` touches a visible page; remembers who has touched which."""
        if page in self.pages:
            return True
        self.recent[page] = None
        if self.toucher.setdefault(page, cpu) != cpu:
            self.add(page)
            return True
        return False

    def add(self, page: int) -> None:
        """A page is visible from now on."""
        self.pages.add(page)
        self.grown = True


class Gate:
    """The gate of one CPU.

    Args:
        cpu: its number.
        visible: shared by all gates.
        lazy: the machine's lazy TLB.
    """

    def __init__(self, cpu: int, visible: Visible, lazy: LazyTlb) -> None:
        self.cpu = cpu
        self.lazy = lazy
        self._visible = visible
        self.granted = False
        self.option: Option | None = None
        self.held: Held | None = None
        self.on_enter: Callable[[int, bool], None] | None = None  # told where in RAM its CPU goes, if set

    def stops_access(self, address: int, access: Access) -> bool:
        """A data access is about to be translated: whether to stop before it."""
        if access is Access.FETCH or not self.is_visible(address) or self.granted:
            return False
        self.held = Held("access", address, access is Access.STORE)
        return True

    def is_visible(self, address: int) -> bool:
        """Whether each access to this address has to come back."""
        return self.lazy.manages(address) or self._visible.touched(self.cpu, address >> 12)

    def stops_instruction(self, name: str) -> bool:
        """An instruction is about to be carried out by the model: whether to stop before it."""
        if self.granted:
            return False
        self.held = Held(name)
        return True
