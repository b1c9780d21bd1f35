"""What can be found, and what a finding says."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kstack.base.documents import Document
from kstack.sanitizer.history import AnyOccurrence


class Kind(enum.Enum):
    """What can be found; the names are those of the command line's JSON."""

    STALE_TRANSLATION = "stale-translation"
    USE_AFTER_FREE = "use-after-free"
    WRONG_DATA = "wrong-data"
    OVERFLOW = "overflow"
    UNHANDLED_FAULT = "unhandled-fault"
    DOUBLE_FAULT = "double-fault"
    SHUTDOWN = "shutdown"
    LEAK = "leak"
    DOUBLE_FREE = "double-free"
    SHARED_FRAME = "shared-frame"
    OUT_OF_PAGES = "out-of-pages"
    LOST_INTERRUPT = "lost-interrupt"
    DATA_LEAK = "data-leak"
    DEADLOCK = "deadlock"
    LIVELOCK = "livelock"
    IMBALANCE = "imbalance"


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong.

    Attributes:
        kind: what.
        cpu: on which CPU.
        symbol: where in the guest (symbol+offset of RIP).
        address: the linear address accessed, or the frame for pool errors (bytes).
        time: virtual time.
        text: one sentence with both sides.
        frame: physical address of the frame concerned, or None.
        old_owner, new_owner: whom the frame belonged to, and whom it belongs to now.
        freed_by: what freed it.
        history: what happened to the page and the frame before, on all CPUs, and guest events.
    """

    kind: Kind
    cpu: int
    symbol: str
    address: int
    time: int
    text: str
    frame: int | None = None
    old_owner: str | None = None
    new_owner: str | None = None
    freed_by: str | None = None
    history: tuple[AnyOccurrence, ...] = ()

    def as_dict(self) -> Document:
        """For JSON; addresses in hex."""
        return {
            "kind": self.kind.value,
            "cpu": self.cpu,
            "symbol": self.symbol,
            "address": f"{self.address:#x}",
            "time": self.time,
            "text": self.text,
            "frame": None if self.frame is None else f"{self.frame:#x}",
            "old_owner": self.old_owner,
            "new_owner": self.new_owner,
            "freed_by": self.freed_by,
            "history": [{"time": one.time, "cpu": one.cpu, "what": one.text} for one in self.history],
        }
