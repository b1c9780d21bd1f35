"""Tenet's text format: RIP, RSP and memory, one line an instruction.

https://github.com/gaasedelen/tenet, tracers/pin/pintenet.cpp: a line is written before its instruction; it has the
registers that have changed, RIP, and what was read and written since the line before. Tenet has one thread in a file:
this one has all CPUs' instructions in the order of virtual time, so that memory is at each line what it was, and RSP
changes with the CPU. What the last instruction reads and writes is therefore in no line. Other registers are in no
trace. Addresses are linear; a write by the CPU's own model (an event's frame) is as any other.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from kstack.trace.export.read import AccessRow, accesses, instructions
from kstack.trace.store import Trace


def write(trace: Trace, path: Path) -> None:
    """Write all instructions."""
    told = chain(accesses(trace), [AccessRow(1 << 64, 0, False, False, 0, 0, 0, 0)])
    next_ = next(told)
    before = None
    with path.open("w", encoding="ascii") as file:
        for rows in instructions(trace):
            for count, rip, rsp in zip(rows.count.tolist(), rows.rip.tolist(), rows.rsp.tolist(), strict=True):
                line = f"rip={rip:#x}" if rsp == before else f"rsp={rsp:#x},rip={rip:#x}"
                before = rsp
                while next_.count < count:
                    line += _item(next_)
                    next_ = next(told)
                file.write(line + "\n")


def _item(access: AccessRow) -> str:
    data = access.value.to_bytes(8, "little")[: access.size].hex()
    return f",{'mw' if access.store else 'mr'}={access.address:#x}:{data}"
