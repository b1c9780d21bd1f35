"""Text as QEMU writes it with `-d in_asm,exec,int`, for people and scripts that know that.

    ----------------
    IN: name                                  a block that runs for the first time, or as it did not the last time
    0xffffffff80100000:  48 89 e5                 mov      rbp, rsp

    Trace 1: 88123 [0000000000000000/ffffffff80100000/00000003/00000000] name
                                              CPU 1 executes a block from virtual time 88123 on; QEMU has an address of
                                              its own there; then cs_base, RIP, flags (CPL alone), cflags (none)
    check_exception old: 0xffffffff new 0xe   CPU 0
         3: v=0e e=0002 i=0 cpl=0 IP=0008:ffffffff80100000 pc=ffffffff80100000 SP=0010:ffffc90000007ff8 CR2=...

(target/i386/tcg/seg_helper.c and excp_helper.c, accel/tcg/cpu-exec.c.) IP and SP are as the CPU has pushed them; where
it has pushed nothing they are those of the CPU's last instruction, with selectors 0. Registers are not dumped: a trace
has none but RIP and RSP.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from vm.hw.events import MNEMONICS
from vm.trace.events import Event
from vm.trace.export.blocks import Block, in_order
from vm.trace.export.calls import by_time
from vm.trace.export.read import DELIVERED, Access, Code, accesses, disassembly, events, instructions
from vm.trace.store import Trace

BYTES_COLUMN: Final = 24  # characters of QEMU's column of bytes
PAGE_FAULT: Final = 14
FRAME_WORDS: Final = 5  # SS, RSP, RFLAGS, CS, RIP are pushed in this order, then an error code (SDM 6.14.2)


class Interrupted(NamedTuple):
    """Where a CPU was: selectors and addresses."""

    cs: int
    rip: int
    ss: int
    rsp: int


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
    return name.startswith(("j", "loop", "call", "ret", "iret", "eret", "int", "sys"))


def _delivered(trace: Trace) -> Iterator[tuple[Event, Interrupted | None]]:
    """Events with what was pushed for them, None where nothing was."""
    told = chain(accesses(trace), [Access(1 << 64, 0, False, False, 0, 0, 0, 0)])
    access = next(told)
    pushed: list[Access] = []
    for event in events(trace):
        if event.kind in DELIVERED:
            while access.count <= event.count:
                if access.count == event.count and access.model and access.store:
                    pushed.append(access)
                access = next(told)
            pushed = [one for one in pushed if one.count == event.count]
            yield event, _frame([one for one in pushed if one.cpu == event.cpu])


def _frame(pushed: list[Access]) -> Interrupted | None:
    """The last five words that lie below each other, the first of which is a stack segment's selector."""
    for first in reversed(range(len(pushed) - FRAME_WORDS + 1)):
        words = pushed[first : first + FRAME_WORDS]
        steps = [one.address - other.address for one, other in pairwise(words)]
        if set(steps) == {8} and words[0].value < 1 << 16 and words[3].value & 0xFFFF:
            ss, rsp, _, cs, rip = (one.value for one in words)
            return Interrupted(cs & 0xFFFF, rip, ss, rsp)
    return None


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
            name, operands = disassembly(code, at)
            yield f"{at:#018x}:  {code.hex(' '):<{BYTES_COLUMN}} {name:<8} {operands}".rstrip() + "\n"
            at += len(code)

    def event(self, event: Event, frame: Interrupted | None) -> None:
        """An event is delivered, or was to be."""
        last = self._last[event.cpu]
        ring = 0 if last is None else last.ring
        at = frame or Interrupted(0, 0 if last is None else last.end, 0, 0)
        vector = MNEMONICS.index(event.name) if event.kind == "fault" and event.name in MNEMONICS else event.value
        if event.kind == "fault" and event.name not in MNEMONICS:
            vector = int(event.name.removeprefix("#"))
        error = event.value or 0 if event.kind == "fault" else 0
        ring = frame.cs & 3 if frame is not None else ring
        if event.kind == "fault":
            self._file.write(f"check_exception old: 0xffffffff new {vector:#x}  CPU {event.cpu}\n")
        elif event.kind == "interrupt":
            self._file.write(f"Servicing hardware INT={vector:#04x}  CPU {event.cpu}\n")
        line = (
            f"{self._events:6}: v={vector:02x} e={error:04x} i={int(event.kind == 'software')} cpl={ring} "
            f"IP={at.cs:04x}:{at.rip:016x} pc={at.rip:016x} SP={at.ss:04x}:{at.rsp:016x}"
        )
        if vector == PAGE_FAULT:
            line += f" CR2={event.address or 0:016x}"
        self._file.write(f"{line} cpu={event.cpu} time={event.count}{' ' + event.text if event.text else ''}\n")
        self._events += 1
