"""What a guest can set up and this machine does not do: said once a run, and a stop where it is asked for (docs/rules.md)."""

from __future__ import annotations

import enum
from typing import Final

from kstack.hw.engine import Flags, Registers, Seg, Segment
from kstack.hw.mmu.mmu import Cr0

_DATA: Final = (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS)
_FLAT: Final = 0xFFFFFFFF
_PRESENT: Final = 1 << 15
_EXPANDS_DOWN: Final = 1 << 10
_CODE: Final = 1 << 11
_MXCSR_MASKS: Final = 0x1F80
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
    if flags & _AC and registers.cpl == 3 and registers.cr[0] & _AM:
        found.append(Declared.ALIGNMENT_CHECK)
    if registers.mxcsr & _MXCSR_MASKS != _MXCSR_MASKS:
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
    if not segment.selector & ~3 or not segment.flags & _PRESENT:
        return False
    expands_down = bool(segment.flags & _EXPANDS_DOWN) and not segment.flags & _CODE
    return segment.limit != _FLAT or expands_down
