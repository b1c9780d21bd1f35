"""What an MMU tells of the translations that it caches: SDM volume 3, 4.10.

Every drop of a translation from a TLB is told with its cause, whoever is behind it; entries of structure caches are not.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from kstack.hw.engine import Access
from kstack.hw.instruments import Hook, Hooks
from kstack.hw.mmu.walk import Translation


class Cause(enum.Enum):
    """Why a CPU has dropped a translation; the value is its name in words."""

    INVLPG = "INVLPG"
    INVPCID = "INVPCID"
    BROADCAST = "INVLPGB"
    CR3 = "a load of CR3"
    CONTROL = "a change of CR0 or CR4"
    FAULT = "a page fault"
    EVICTION = "an eviction"
    REPLACED = "another fill"
    RESET = "a reset"


class Fill(NamedTuple):
    """A walk has cached a translation for the page of a linear address.

    Attributes:
        cpu: whose TLB.
        address: linear (bytes).
        translation: what was cached.
        speculative: no instruction asked for it.
    """

    cpu: int
    address: int
    translation: Translation
    speculative: bool = False


class Drop(NamedTuple):
    """A cached translation has gone.

    Attributes:
        cpu: whose TLB.
        address: linear, of its page (bytes).
        frame: physical (bytes).
        cause: why.
    """

    cpu: int
    address: int
    frame: int
    cause: Cause


class Use(NamedTuple):
    """An access goes through a cached translation that the tables no longer give.

    Attributes:
        cpu: which.
        address: linear (bytes).
        access: load, store or fetch.
        found: what is cached.
        current: what the tables give; None for nothing.
    """

    cpu: int
    address: int
    access: Access
    found: Translation
    current: Translation | None


class MmuHooks(Hooks):
    """What the MMUs of a machine tell.

    Attributes:
        fill, drop, use: of translations.
        enter: an engine gets a page: the CPU, its linear and its physical address (bytes).
    """

    def __init__(self) -> None:
        self.fill: Hook[[Fill]] = Hook()
        self.drop: Hook[[Drop]] = Hook()
        self.use: Hook[[Use]] = Hook()
        self.enter: Hook[[int, int, int]] = Hook()
