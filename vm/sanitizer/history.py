"""What happened to a page and a frame, as values: who cached, dropped, mapped, cleared, freed or used what, and when.

A finding carries its history. Text, drawings and JSON render these; nobody reads prose back.
"""

from __future__ import annotations

import msgspec


class Occurrence(msgspec.Struct, frozen=True, tag=True, tag_field="is"):
    """Something that happened on a CPU.

    Attributes:
        time: virtual time.
        cpu: where.
    """

    time: int
    cpu: int

    @property
    def text(self) -> str:
        """In a few words."""
        raise NotImplementedError


class OfPage(Occurrence, frozen=True):
    """Of a page.

    Attributes:
        address: linear, of the page (bytes).
        owner: whose page, in words.
        frame: physical (bytes).
    """

    address: int
    owner: str
    frame: int


class Filled(OfPage, frozen=True):
    """A CPU has cached a translation; `speculative` if no access asked for it."""

    speculative: bool = False

    @property
    def text(self) -> str:
        """In a few words."""
        return f"{'speculative ' if self.speculative else ''}TLB fill: {self.owner} -> frame {self.frame:#x}"


class Dropped(OfPage, frozen=True):
    """A CPU has dropped a cached translation; `cause` says why, in words."""

    cause: str

    @property
    def text(self) -> str:
        """In a few words."""
        return f"TLB drop: {self.owner} -> frame {self.frame:#x} ({self.cause})"


class Used(OfPage, frozen=True):
    """A CPU has accessed memory through a translation that the tables no longer give; `store` if it wrote."""

    store: bool

    @property
    def text(self) -> str:
        """In a few words."""
        return f"{'wrote' if self.store else 'read'} {self.owner} through its TLB: frame {self.frame:#x}"


class Mapped(OfPage, frozen=True):
    """An entry that was not present, or had another frame, has this one."""

    @property
    def text(self) -> str:
        """In a few words."""
        return f"map {self.owner} -> frame {self.frame:#x}"


class Cleared(OfPage, frozen=True):
    """An entry has this frame no more."""

    @property
    def text(self) -> str:
        """In a few words."""
        return f"clear {self.owner} (was frame {self.frame:#x})"


class Changed(OfPage, frozen=True):
    """An entry has other rights, Accessed or software bits, and the same frame."""

    @property
    def text(self) -> str:
        """In a few words."""
        return f"change {self.owner} (frame {self.frame:#x} stays)"


class Freed(Occurrence, frozen=True):
    """A frame (bytes) has been given back."""

    frame: int

    @property
    def text(self) -> str:
        """In a few words."""
        return f"free frame {self.frame:#x}"


class Invalidated(Occurrence, frozen=True):
    """A kernel has invalidated a page (linear address, and whose) on its CPU, whether anything was cached there or not."""

    address: int
    owner: str

    @property
    def text(self) -> str:
        """In a few words."""
        return f"INVLPG {self.owner}"


class Stored(Occurrence, frozen=True):
    """Guest code itself has stored to the entry of a page; `place` is that page in words."""

    address: int
    place: str
    entry: int

    @property
    def text(self) -> str:
        """In a few words."""
        return f"guest code stores {self.entry:#x} to the entry of {self.place}"


class IpiSent(Occurrence, frozen=True):
    """A shootdown is on its way to another CPU."""

    target: int

    @property
    def text(self) -> str:
        """In a few words."""
        return f"IPI to CPU {self.target}"


class IpiTaken(Occurrence, frozen=True):
    """A CPU takes the interrupt of a shootdown."""

    vector: int

    @property
    def text(self) -> str:
        """In a few words."""
        return f"takes interrupt {self.vector:#x}"


class Marked(Occurrence, frozen=True):
    """The guest has marked an event."""

    name: str

    @property
    def text(self) -> str:
        """In a few words."""
        return f"guest: {self.name}"


AnyOccurrence = (
    Filled | Dropped | Used | Mapped | Cleared | Changed | Freed | Invalidated | Stored | IpiSent | IpiTaken | Marked
)
"""All of them: what a file with findings can have."""
