"""The trace of an image on one CPU has QEMU's program counters, instruction for instruction."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Final

import pytest

from kstack.hw.modes import Modes
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec
from kstack.schedule import RoundRobin
from kstack.trace.tracer import TracePart, Tracer
from tests.support.frame_guest import CASE_STACK, KDATA, MAIN_STACK, Case, cases, image
from tests.support.qemu import on_qemu

BUFFER: Final = MAIN_STACK - 0x800
PRESENT, FOR_RING_3, ENDS = 0x80, 0x60, "int 0x40"
GATE: Final = (0x40, 0, 0xEE)
OWN: Final = (
    f"mov edi, {BUFFER}\nmov esi, edi\nmov ecx, 9\ncld\nrep stosq\nmov ecx, 3\nrepe cmpsb",
    "mov ecx, 5\n.Lagain:\npush rcx\npop rax\nloop .Lagain",
    "call .Lthere\nnop\njmp .Lover\n.Lthere:\nret\n.Lover:",
    "xor ecx, ecx\nrep movsb\nlock xadd [rsp-8], rax\ncmpxchg [rsp-16], rbx\nxchg [rsp-24], rdx",
    "sti\nnop\ncli\nmov rax, cr3\nmov cr3, rax\ninvlpg [rsp]\ncpuid",
    f"mov eax, {KDATA}\nmov ss, ax\nmov ecx, 1000\n.Lspin:\ndec ecx\njnz .Lspin",
)
"""Repetition, loops, calls, locked operations, interrupt shadows, and what the engine does not execute."""


def chosen() -> list[Case]:
    """Cases without faults, of which QEMU shows an instruction that is not retired, and without IPIs."""
    software = [
        case
        for case in cases(7, 400)
        if case.code.startswith(("int", ".byte"))
        and case.gate[2] & PRESENT
        and (not case.cpl or case.gate[2] & FOR_RING_3 == FOR_RING_3)
    ]
    assert len(software) > 20
    return [*software[:20], *(Case(f"{code}\n{ENDS}", 0, 2, CASE_STACK, GATE) for code in OWN)]


def executed_here(path: Path) -> list[int]:
    """RIPs on the machine, in slices that end anywhere."""
    setup = RunSpec(str(path), 1, 8 << 20, Modes(df_restart="exact"), None, RunOptions(5_000_000))
    parts: list[TracePart] = []
    session = setup.session(RoundRobin(317))
    tracer = Tracer(session, parts.append)
    assert session.run().ended == "exit"
    tracer.hand_on()
    return [rip for part in parts for rip in part.instructions.arrays[2].tolist()]


def logged(path: Path, log: Path) -> list[int]:
    """Program counters on QEMU, one translated block an instruction.

    QEMU logs a block as it enters it, and says in the next line if the host's timer made it leave before the first
    instruction: that entry is not one.
    """
    done = on_qemu(path, "-singlestep", "-d", "exec,nochain", "-dfilter", "0x100000+0x100000", "-D", str(log))
    assert done.returncode == 0x21, done.stdout[-400:] + done.stderr
    return entered(log.read_text().splitlines())


def entered(lines: list[str]) -> list[int]:
    """Program counters of the blocks of a log that were not left before their first instruction."""
    rips: list[int] = []
    for line in lines:
        if line.startswith("Trace"):
            rips.append(int(line.split("/")[1], 16))
        elif line.startswith("Stopped execution of TB chain before"):
            assert rips.pop() == int(line.split("[")[1].split("]")[0], 16)
    return rips


def counted(rips: list[int]) -> list[tuple[int, int]]:
    """Each program counter with how often it comes in a row."""
    return [(rip, len(list(same))) for rip, same in groupby(rips)]


@pytest.mark.slow
@pytest.mark.system("qemu-system-x86_64")
def test_the_program_counters_are_those_of_qemu(tmp_path: Path) -> None:
    """But that QEMU sees the end of a repetition in the last iteration when it steps.

    Here that takes one more, as it does in QEMU otherwise.
    """
    path = tmp_path / "frames.bin"
    path.write_bytes(image(chosen()))
    ours, theirs = counted(executed_here(path)), counted(logged(path, tmp_path / "log"))
    assert len(ours) > 20_000
    assert [rip for rip, _ in ours] == [rip for rip, _ in theirs]
    differ = [(rip, here, there) for (rip, here), (_, there) in zip(ours, theirs, strict=True) if here != there]
    assert [(here, there) for _, here, there in differ] == [(10, 9), (4, 3)]


def test_a_block_that_was_left_before_its_first_instruction_is_not_an_entry() -> None:
    """In a repetition too, where the count alone would hide it."""
    log = [f"Trace 0: 0x7f0 [0000/{rip:016x}/00000000/ff]" for rip in (0x100, 0x102, 0x102, 0x102)]
    log.insert(3, "Stopped execution of TB chain before 0x7f0 [0000000000000102] ")
    assert entered(log) == [0x100, 0x102, 0x102]
