"""What a guest can set up and this machine does not do: said once a run, and a stop where it is asked for (docs/rules.md)."""

from __future__ import annotations

import enum
from typing import Final

from kstack.hw.engine import Registers
from kstack.x86.control import Cr0
from kstack.x86.flags import Flags
from kstack.x86.floating_point import MXCSR_MASKS
from kstack.x86.registers import Seg
from kstack.x86.segments import FLAT_LIMIT, USER_RING, Segment, SegmentAttribute, Selector

_DATA: Final = (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS)
_WITHOUT_RPL, _PRESENT, _EXPAND_DOWN = (
    int(Selector.WITHOUT_RPL),
    int(SegmentAttribute.P),
    int(SegmentAttribute.EXPAND_DOWN),
)
_DOWN: Final = SegmentAttribute.EXPAND_DOWN | SegmentAttribute.CODE
_AC, _VM, _AM, _PE = int(Flags.AC), int(Flags.VM), int(Cr0.AM), int(Cr0.PE)


class Declared(enum.Enum):
    """What is set up, in words."""

    DATA_LIMIT = "a data or stack segment with a limit: an access beyond it does not fault"
    VIRTUAL_8086 = "virtual-8086 mode: it runs as QEMU has it, and was never compared with a processor"
    ALIGNMENT_CHECK = "alignment checks in ring 3 (CR0.AM and RFLAGS.AC): #AC is never raised"
    SSE_EXCEPTION = "an exception of SSE that MXCSR does not mask: #XM is never raised"


def set_up(registers: Registers) -> tuple[Declared, ...]:
    """What a CPU has set up now."""
    flags, found = registers.system_flags, []
    if flags & _AC and registers.cpl == USER_RING and registers.cr[0] & _AM:
        found.append(Declared.ALIGNMENT_CHECK)
    if registers.mxcsr & MXCSR_MASKS != MXCSR_MASKS:
        found.append(Declared.SSE_EXCEPTION)
    if registers.bits == 64 or not registers.cr[0] & _PE:
        return tuple(found)
    if flags & _VM:
        found.append(Declared.VIRTUAL_8086)
    elif any(_has_limit(registers.segment(which)) for which in _DATA):
        found.append(Declared.DATA_LIMIT)
    return tuple(found)


def _has_limit(segment: Segment) -> bool:
    """Whether something was loaded that ends below 4 GiB; what real mode has left behind has a null selector."""
    if not segment.selector & _WITHOUT_RPL or not segment.flags & _PRESENT:
        return False
    expands_down = segment.flags & _DOWN == _EXPAND_DOWN
    return segment.limit != FLAT_LIMIT or expands_down
