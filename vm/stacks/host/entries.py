"""Who has to know of each store to an entry of a managed page."""

from __future__ import annotations

from typing import Protocol


class LazyEntries(Protocol):
    """Who decides at an access what may be cached of the managed pages, and so has to know of each store to their entries."""

    def manages(self, address: int) -> bool:
        """Whether a linear address lies in a managed page."""
        ...

    def entry_was(self, page: int, entry: int, plain: bool) -> None:
        """The tables said `entry` of a page (a linear number), and a store has just replaced it; `plain`: without a look at A."""
        ...

    def entry_is(self, page: int, entry: int) -> None:
        """The tables say `entry` from now on."""
        ...

    def is_pending(self, entry: int) -> bool:
        """Whether it shows only when somebody looks if this entry has been cached."""
        ...
