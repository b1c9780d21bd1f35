"""What an interrupt command asks for, and whom it names (SDM volume 3A, 10.6, 10.12.9).

A command is resolved when the ICR is written: afterwards it is a delivery mode, a vector and the
ids of the APICs it goes to, and the machine chooses when each of them gets it.

Lowest priority is not arbitrated: the software-enabled destination with the lowest APIC id wins,
and the bus sees a fixed interrupt. Not modelled: SMI (ignored); shorthands `self` and `all` with
any mode but fixed (invalid by table 10-3: ignored); the arbitration and remote-read messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from kstack.hw.apic.registers import DeliveryMode, Icr, Shorthand

_WIDE_BROADCAST = 0xFFFF_FFFF
_NARROW_BROADCAST = 0xFF
_SENT = frozenset(
    {
        DeliveryMode.FIXED,
        DeliveryMode.LOWEST_PRIORITY,
        DeliveryMode.NMI,
        DeliveryMode.INIT,
        DeliveryMode.STARTUP,
    }
)


class Destination(Protocol):
    """What of a local APIC decides whether a message is for it."""

    @property
    def apic_id(self) -> int:
        """Its physical destination."""
        ...

    @property
    def present(self) -> bool:
        """Whether messages reach it at all."""
        ...

    @property
    def software_enabled(self) -> bool:
        """SVR bit 8."""
        ...

    def answers_logical(self, destination: int) -> bool:
        """Whether a logical destination names it."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """One interrupt command, decoded. `destination` has 8 bits, or 32 if `wide` (x2APIC)."""

    mode: DeliveryMode
    vector: int
    shorthand: Shorthand
    destination: int
    logical: bool
    wide: bool
    deassert: bool

    @classmethod
    def decode(cls, icr: int, wide: bool) -> Command:
        """The command in the 64-bit `icr`, laid out as in the x2APIC if `wide`."""
        return cls(
            mode=DeliveryMode((icr & Icr.DELIVERY_MODE) >> 8),
            vector=icr & Icr.VECTOR,
            shorthand=Shorthand((icr & Icr.SHORTHAND) >> 18),
            destination=icr >> 32 if wide else icr >> 56,
            logical=bool(icr & Icr.LOGICAL),
            wide=wide,
            deassert=bool(icr & Icr.LEVEL) and not icr & Icr.ASSERT,
        )

    @property
    def carries_vector(self) -> bool:
        """Whether the vector must be legal (10.5.3: send illegal vector)."""
        return self.mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)

    @property
    def ignored(self) -> bool:
        """Whether nothing is sent: modes this machine has not, INIT level de-assert (10.6.1)."""
        if self.mode not in _SENT:
            return True
        if self.shorthand in (Shorthand.SELF, Shorthand.ALL):
            return self.mode is not DeliveryMode.FIXED
        return self.mode is DeliveryMode.INIT and self.deassert

    def targets(self, source: int, apics: Iterable[Destination]) -> tuple[int, ...]:
        """The ids of the APICs that the command from `source` goes to, in order of id."""
        found = sorted(
            (apic for apic in apics if apic.present and self._names(source, apic)),
            key=lambda apic: apic.apic_id,
        )
        if self.mode is DeliveryMode.LOWEST_PRIORITY:
            found = [apic for apic in found if apic.software_enabled][:1]
        return tuple(apic.apic_id for apic in found)

    def _names(self, source: int, apic: Destination) -> bool:
        if self.shorthand is Shorthand.SELF:
            return apic.apic_id == source
        if self.shorthand is Shorthand.ALL:
            return True
        if self.shorthand is Shorthand.ALL_BUT_SELF:
            return apic.apic_id != source
        if self.destination == (_WIDE_BROADCAST if self.wide else _NARROW_BROADCAST):
            return True
        if self.logical:
            return apic.answers_logical(self.destination)
        return apic.apic_id == self.destination
