"""What a CPU comes to does not depend on where its slices are cut: random instructions under several quanta."""

from __future__ import annotations

import pytest

from kstack.hw.cpu.state import ActivityState
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.registers import Gpr
from tests.support.host_processor import AT, CODE, DATA, DATA_BYTES
from tests.support.long_mode import PLAIN, USER, LongModeGuest
from tests.support.random_instructions import drawn

QUANTA = (1, 3, 7, 1000)
PROGRAMS = 60
INSTRUCTIONS = 30
UNITS = 400
NOT_HERE = (
    "bt",
    "shl",
    "shr",
    "sar",
    "rol",
    "ror",
    "rcl",
    "rcr",
    "shld",
    "shrd",
    "mul",
    "imul",
    "div",
    "idiv",
    "bsf",
    "bsr",
)
"""Of these flags are undefined, and depend on where a translated block ends (docs/rules.md)."""
FRESH = bytes.fromhex("7f03") + bytes(22) + bytes.fromhex("801f") + bytes(486)


def _program(seed: int) -> tuple[bytes, tuple[int, ...]]:
    code = b""
    first = drawn(seed * 1000, FRESH)
    for number in range(INSTRUCTIONS):
        one = drawn(seed * 1000 + number, FRESH)
        name = one.text.removeprefix("lock ").split()[0]
        if not name.startswith(NOT_HERE):
            code += one.code

    return code + b"\xf4", first.state.gpr


def _run(code: bytes, gpr: tuple[int, ...], quantum: int, ring: int) -> tuple[object, ...]:
    guest = LongModeGuest(cr4=int(Cr4.OSXMMEXCPT | Cr4.FSGSBASE), cr0=int(Cr0.MP | Cr0.NE))
    cpu = guest.machine.cpus[0]
    cpu.registers.efer |= Efer.SCE
    flags = USER if ring else PLAIN
    frames = [guest.frame() for _ in range(1 + DATA_BYTES // 4096)]
    for page, frame in zip((CODE, DATA, DATA + 4096), frames, strict=True):
        guest.map(page, frame, flags)
    guest.memory.write(frames[0] + AT - CODE, code)
    guest.privilege(0, ring)
    guest.start(AT)
    for number, value in enumerate(gpr):
        cpu.registers.gpr[number] = value
    cpu.registers.gpr[Gpr.RSP] = DATA + 4096
    cpu.registers.rflags = 2
    left = UNITS
    while left > 0 and cpu.state is ActivityState.RUNNING:
        left -= guest.machine.run(0, min(quantum, left)).elapsed
    return (
        cpu.registers.canonical(),
        [guest.memory.read(frame, 4096) for frame in frames],
        [(event.vector, event.error, event.address) for event in guest.begun],
        cpu.state,
    )


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("first", range(0, PROGRAMS, 20))
def test_programs_end_in_the_same_state_under_every_quantum(first: int, ring: int) -> None:
    for seed in range(first, first + 20):
        code, gpr = _program(seed)
        wanted = _run(code, gpr, QUANTA[-1], ring)
        for quantum in QUANTA[:-1]:
            assert _run(code, gpr, quantum, ring) == wanted, f"seed {seed}, quantum {quantum}: {code.hex()}"
