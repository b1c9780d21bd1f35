"""Gates of the IDT: SDM 6.11 (figure 6-2) and 6.14.1 (figure 6-8); types in table 3-2."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

GATE_BYTES: Final = 8
LONG_GATE_BYTES: Final = 16
"""In IA-32e mode."""
VECTOR_BYTES: Final = 4
"""Of an entry of the interrupt vector table, in real-address mode (20.1.4): offset and segment."""


class GateType(enum.IntEnum):
    """Type field of a descriptor of an interrupt or trap gate; the others are no gates of an IDT."""

    INTERRUPT_16 = 0x6
    TRAP_16 = 0x7
    INTERRUPT = 0xE
    TRAP = 0xF


LONG_GATES: Final = frozenset({GateType.INTERRUPT, GateType.TRAP})
INTERRUPT_GATES: Final = frozenset({GateType.INTERRUPT, GateType.INTERRUPT_16})
"""Those that clear IF."""
SHORT_GATES: Final = frozenset({GateType.INTERRUPT_16, GateType.TRAP_16})
"""Those of the 286, which push words of 16 bits."""


class GateDescriptor(NamedTuple):
    """A gate, taken apart.

    Attributes:
        kind: bits 44:40: the type, with 16 added where bit 44 says that it is no system descriptor.
        selector: of the code segment.
        offset: of the handler in it; of 64 bits in IA-32e mode, of 32 otherwise.
        ist: index into the interrupt-stack table, 0 for none; IA-32e mode alone.
        dpl: privilege that INT n needs.
        present: P.
    """

    kind: int
    selector: int
    offset: int
    ist: int
    dpl: int
    present: bool


def unpack_gate(raw: int) -> GateDescriptor:
    """The 16 bytes of a gate in IA-32e mode, or the 8 of one without."""
    offset = raw & 0xFFFF | raw >> 32 & 0xFFFFFFFF_FFFF0000
    return GateDescriptor(
        raw >> 40 & 0x1F, raw >> 16 & 0xFFFF, offset, raw >> 32 & 7, raw >> 45 & 3, bool(raw >> 47 & 1)
    )
