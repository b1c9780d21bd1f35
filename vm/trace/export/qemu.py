"""Text as QEMU writes it with `-d in_asm,exec,int`, for people and scripts that know that.

    ----------------
    IN: name                                  a block that runs for the first time, or as it did not the last time
    0xffffffff80100000:  48 89 e5                 mov      rbp, rsp

    Trace 1: 88123 [0000000000000000/ffffffff80100000/00000003/00000000] name
                                              CPU 1 executes a block from virtual time 88123 on; QEMU has an address of
                                              its own there; then cs_base (none: RIP is linear), RIP, flags (CPL alone),
                                              cflags (none)
    check_exception old: 0xffffffff new 0xe   CPU 0
         3: v=0e e=0002 i=0 cpl=0 IP=0008:ffffffff80100000 pc=ffffffff80100000 SP=0010:ffffc90000007ff8 CR2=...

(target/i386/tcg/seg_helper.c and excp_helper.c, accel/tcg/cpu-exec.c.) IP and SP are as the CPU has pushed them, pc is
linear; where it has pushed no SP, that is linear too, and where it has pushed nothing IP and SP are those of the CPU's last
instruction, with selectors 0. Registers are not dumped: a trace has none but RIP and RSP. Not known: the bases of segments
in protected mode, which are taken to be 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from kstack.trace.events import TraceEvent
from kstack.trace.export.blocks import Block, in_order
from kstack.trace.export.calls import by_time
from kstack.trace.export.read import DELIVERED, AccessRow, Code, accesses, events, instructions
from kstack.trace.store import Trace
from kstack.x86.segments import Selector
from kstack.x86.vectors import MNEMONICS, PF

BYTES_COLUMN: Final = 24  # characters of QEMU's column of bytes
FRAME_WORDS: Final = 5  # SS, RSP, RFLAGS, CS, RIP are pushed in this order, then an error code (SDM 6.14.2)
SHORT_WORDS: Final = 3  # ... the last three alone by CPUs that are not in 64-bit mode and stay on their stack (6.12.1)
REAL: Final = 2  # bytes of a word in real-address mode (20.1.4)


class Interrupted(NamedTuple):
    """Where a CPU was: selectors and offsets, and the linear address of the instruction."""

    cs: int
    rip: int
    ss: int
    rsp: int
    pc: int


def write(trace: Trace, path: Path) -> None:
    """Write blocks and events by virtual time; an event that ends a block comes after it."""
    code = Code(trace)
    found = in_order(instructions(trace), trace.meta.cpus, code.ends(is_branch))
    blocks = ((block.count, (block, None)) for block in found)
    told = ((event.count, (event, frame)) for event, frame in _delivered(trace))
    with path.open("w", encoding="utf-8") as file:
        log = _Log(file, code, trace.meta.cpus)
        for _, (what, frame) in by_time(told, blocks):
            if isinstance(what, Block):
                log.block(what)
            else:
                log.event(what, frame)


def is_branch(name: str) -> bool:
    """Whether an instruction of this name may go elsewhere, so that a translator ends its block there."""
    return name.startswith(("j", "ljmp", "loop", "call", "lcall", "ret", "iret", "eret", "int", "sys"))


def _delivered(trace: Trace) -> Iterator[tuple[TraceEvent, Interrupted | None]]:
    """Events with what was pushed for them, None where nothing was."""
    told = chain(accesses(trace), [AccessRow(1 << 64, 0, False, False, 0, 0, 0, 0)])
    access = next(told)
    pushed: list[AccessRow] = []
    for event in events(trace):
        if event.kind in DELIVERED:
            while access.count <= event.count:
                if access.count == event.count and access.model and access.store:
                    pushed.append(access)
                access = next(told)
            pushed = [one for one in pushed if one.count == event.count]
            own = [one for one in pushed if one.cpu == event.cpu]
            has_error = event.kind == "fault" and event.value is not None
            yield event, _frame(own) or _short_frame(own, has_error)


def _frame(pushed: list[AccessRow]) -> Interrupted | None:
    """The last five words that lie below each other, the first of which is a stack segment's selector."""
    for first in reversed(range(len(pushed) - FRAME_WORDS + 1)):
        words = pushed[first : first + FRAME_WORDS]
        steps = [one.address - other.address for one, other in pairwise(words)]
        if set(steps) == {8} and words[0].value < 1 << 16 and words[3].value & 0xFFFF:
            ss, rsp, _, cs, rip = (one.value for one in words)
            return Interrupted(cs & 0xFFFF, rip, ss, rsp, rip)
    return None


def _short_frame(pushed: list[AccessRow], has_error: bool) -> Interrupted | None:
    """The same of a CPU that is not in IA-32e mode: words of two bytes in real-address mode, else of four.

    Args:
        pushed: what was stored, in order.
        has_error: an error code was pushed last, but in real-address mode.
    """
    size = pushed[-1].size if pushed else 0
    words = pushed[: len(pushed) - (has_error and size != REAL)]
    frame = words[-SHORT_WORDS:]
    steps = {one.address - other.address for one, other in pairwise(frame)}
    if size not in (REAL, 4) or len(frame) < SHORT_WORDS or steps != {size}:
        return None
    _, cs, ip = (one.value for one in frame)
    ss, sp = (one.value for one in words[:2]) if len(words) == FRAME_WORDS else (0, frame[0].address + size)
    return Interrupted(cs & 0xFFFF, ip, ss & 0xFFFF, sp, ip + (cs << 4 if size == REAL else 0))


class _Log:
    """The text, line by line."""

    def __init__(self, file: TextIO, code: Code, cpus: int) -> None:
        self._file, self._code = file, code
        self._known: dict[int, str] = {}  # start of a block -> its listing, as written last
        self._last: list[Block | None] = [None] * cpus
        self._events = 0

    def block(self, block: Block) -> None:
        """A block is executed."""
        symbol = self._code.symbol(block.start)
        listing = "".join(self._listing(block))
        if self._known.get(block.start) != listing:
            self._known[block.start] = listing
            self._file.write(f"----------------\nIN: {symbol}\n{listing}\n")
        self._file.write(
            f"Trace {block.cpu}: {block.count} [{0:016x}/{block.start:016x}/{block.ring:08x}/{0:08x}] {symbol}\n"
        )
        self._last[block.cpu] = block

    def _listing(self, block: Block) -> Iterator[str]:
        at = block.start
        while at < block.end:
            code = self._code.at(at, block.last)
            if not code:
                yield f"{at:#018x}:  (not in the trace)\n"
                return
            name, operands = self._code.text(at, block.last)
            yield f"{at:#018x}:  {code.hex(' '):<{BYTES_COLUMN}} {name:<8} {operands}".rstrip() + "\n"
            at += len(code)

    def event(self, event: TraceEvent, frame: Interrupted | None) -> None:
        """An event is delivered, or was to be."""
        last = self._last[event.cpu]
        ring = 0 if last is None else last.ring
        end = 0 if last is None else last.end
        at = frame or Interrupted(0, end, 0, 0, end)
        vector = MNEMONICS.index(event.name) if event.kind == "fault" and event.name in MNEMONICS else event.value
        if event.kind == "fault" and event.name not in MNEMONICS:
            vector = int(event.name.removeprefix("#"))
        error = event.value or 0 if event.kind == "fault" else 0
        ring = frame.cs & Selector.RPL if frame is not None else ring
        if event.kind == "fault":
            self._file.write(f"check_exception old: 0xffffffff new {vector:#x}  CPU {event.cpu}\n")
        elif event.kind == "interrupt":
            self._file.write(f"Servicing hardware INT={vector:#04x}  CPU {event.cpu}\n")
        line = (
            f"{self._events:6}: v={vector:02x} e={error:04x} i={int(event.kind == 'software')} cpl={ring} "
            f"IP={at.cs:04x}:{at.rip:016x} pc={at.pc:016x} SP={at.ss:04x}:{at.rsp:016x}"
        )
        if vector == PF:
            line += f" CR2={event.address or 0:016x}"
        self._file.write(f"{line} cpu={event.cpu} time={event.count}{' ' + event.text if event.text else ''}\n")
        self._events += 1
