"""Who owns a frame, as a sanitizer asks it: a frame has a state and an owner, which is a page and not a process or thread.

(A pool may give a thread its own old frame for another page.)
"""

from __future__ import annotations

import enum
from typing import Generic, NamedTuple, Protocol, TypeVar


class Owner(Protocol):
    """Whose a frame is: a page of something. Two are the same if they are equal."""

    @property
    def label(self) -> str:
        """In words."""
        ...


OwnerT_co = TypeVar("OwnerT_co", bound=Owner, covariant=True)


class FrameState(enum.Enum):
    """Where a frame is."""

    POOL = "in the pool"
    TAKEN = "taken, mapped nowhere"
    MAPPED = "mapped"
    UNMAPPED = "unmapped, not freed"


class Frame(NamedTuple, Generic[OwnerT_co]):
    """A frame's life.

    Attributes:
        state: where it is.
        owner: the page that it is mapped at.
        previous: the page that it was mapped at before.
        freed_by: what freed it last, in words.
    """

    state: FrameState = FrameState.POOL
    owner: OwnerT_co | None = None
    previous: OwnerT_co | None = None
    freed_by: str | None = None


class FrameSource(Protocol):
    """Who knows a kernel's frames: a pool's, an allocator's."""

    def life(self, frame: int) -> Frame[Owner] | None:
        """Of a frame (bytes); None if nobody follows it."""
        ...

    def owner_at(self, address: int) -> Owner | None:
        """Whose page a linear address lies in; None if nobody follows it."""
        ...


def label_of(owner: Owner | None) -> str | None:
    """An owner in words."""
    return None if owner is None else owner.label
