"""The bytes that a trace shows of an instruction are those that were executed, however code changes."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable

import pytest

from kstack.base.errors import KstackError
from kstack.guest.asm import assemble
from kstack.machine import Machine, MachineConfig
from kstack.trace.code import Translated
from kstack.x86.registers import Gpr
from tests.fuzz import hostile_runs
from tests.support.hostile_guests import RAM
from tests.support.long_mode import AREA, LongModeGuest
from tests.support.traces import follow

Slices = list[tuple[int, int]]
"""CPU and units, in order."""


def steps(machine: Machine, slices: Slices) -> dict[int, tuple[int, int, bytes]]:
    """CPU, linear address of the next instruction and the bytes there, before each unit of virtual time."""
    found = {}
    for cpu, units in slices:
        left = units
        while left > 0:
            processor = machine.cpus[cpu]
            at = processor.linear_rip()
            found[machine.time] = cpu, at, processor.linear.code(at)
            elapsed = machine.run(cpu, 1).elapsed
            left -= elapsed or left
    return found


def traced(machine: Machine, slices: Slices) -> list[tuple[int, int, int, bytes]]:
    """Virtual time, CPU, RIP and bytes of each instruction, as a trace has them."""
    tracer, parts = follow(machine)
    for cpu, units in slices:
        left = units
        while left > 0:
            elapsed = machine.run(cpu, left).elapsed
            left -= elapsed or left
    tracer.hand_on()
    versions: dict[int, list[tuple[int, bytes]]] = {}
    for part in parts:
        for count, rip, data, _ in part.code:
            versions.setdefault(rip, []).append((count, data))
    found = []
    for part in parts:
        for count, cpu, rip, size in zip(*(column.tolist() for column in part.instructions.arrays[:4]), strict=True):
            known = versions[rip]
            found.append((count, cpu, rip, known[bisect_right(known, count, key=lambda row: row[0]) - 1][1][:size]))
    return found


def compare(make: Callable[[], Machine], slices: Slices) -> set[tuple[int, bytes]]:
    """A trace's bytes are those of single steps; all pairs of RIP and bytes that there were."""
    expected, found = steps(make(), slices), traced(make(), slices)
    for count, cpu, rip, data in found:
        on, at, code = expected[count]
        if not code:  # the tables have nothing there any more; the TLB has
            continue
        assert (on, at, code[: len(data)]) == (cpu, rip, data) and data, f"time {count}: {code.hex()}, {data.hex()}"
    return {(rip, data) for _, _, rip, data in found}


@pytest.fixture(params=[1 << 17, 50])
def part_records(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of all, and of few instructions."""
    monkeypatch.setattr("kstack.trace.tracer.PART_RECORDS", request.param)


@pytest.mark.usefixtures("part_records")
@pytest.mark.parametrize("between", ["", "jmp next\nnext:\n"], ids=["in its own block", "in another block"])
def test_code_that_rewrites_itself(between: str) -> None:
    """INC RAX becomes DEC RAX, and the other way round, at each turn."""

    def make() -> Machine:
        guest = LongModeGuest()
        text = f"again: xor byte ptr [rip + here + 2], 8\n{between}here: inc rax\ninc rbx\njmp again"
        guest.start(guest.kernel_code(text))
        return guest.machine

    pairs = compare(make, [(0, 700), (0, 1), (0, 300)])
    assert {data for _, data in pairs} >= {bytes.fromhex("48ffc0"), bytes.fromhex("48ffc8")}


@pytest.mark.usefixtures("part_records")
def test_code_that_another_cpu_rewrites_while_it_runs() -> None:
    def make() -> Machine:
        guest = LongModeGuest(cpus=2)
        loop = guest.kernel_code("again: inc rax\ninc rbx\njmp again")
        guest.start(loop, 0)
        guest.start(guest.kernel_code("again: xor byte ptr [rdi], 8\njmp again"), 1, rdi=loop + 2)
        return guest.machine

    rng = random.Random(5)
    pairs = compare(make, [(number % 2, rng.randrange(1, 40)) for number in range(120)])
    assert {data for _, data in pairs} >= {bytes.fromhex("48ffc0"), bytes.fromhex("48ffc8")}


@pytest.mark.usefixtures("part_records")
@pytest.mark.parametrize("cpus", [1, 2])
def test_other_code_at_the_same_address_of_another_address_space(cpus: int) -> None:
    def make() -> Machine:
        guest = LongModeGuest(cpus=cpus)
        spaces = [guest.space() for _ in range(2)]
        for root, text in zip(spaces, ("inc rax\nret", "dec rax\nnop\nret"), strict=True):
            frame = guest.frame()
            guest.map(AREA, frame, root=root)
            guest.memory.write(frame, assemble(text, AREA))
        text = "again: mov cr3, rbx\ncall rdi\nxchg rbx, rcx\njmp again"
        for cpu in range(cpus):
            code = guest.kernel_code(text)
            guest.start(code, cpu, rbx=spaces[cpu], rcx=spaces[1 - cpu], rdi=AREA)
        return guest.machine

    rng = random.Random(2)
    pairs = compare(make, [(number % cpus, rng.randrange(1, 30)) for number in range(100)])
    assert {data for rip, data in pairs if rip == AREA} == {bytes.fromhex("48ffc0"), bytes.fromhex("48ffc8")}


@pytest.mark.usefixtures("part_records")
def test_an_instruction_over_two_pages_of_which_either_changes() -> None:
    def make() -> Machine:
        guest = LongModeGuest()
        frames = guest.frame(), guest.frame()
        for number, frame in enumerate(frames):
            guest.map(AREA + 0x1000 * number, frame)
        start = AREA + 0x1000 - 4
        code = assemble("mov rax, 0x1122334455667788\nret", start)
        guest.memory.write(frames[0] + 0xFFC, code[:4])
        guest.memory.write(frames[1], code[4:])
        loop = "again: call rdi\ninc byte ptr [rsi]\ncall rdi\nxor byte ptr [rbx], 8\njmp again"
        guest.start(guest.kernel_code(loop), rdi=start, rsi=AREA + 0x1000, rbx=AREA + 0xFFE)
        return guest.machine

    pairs = compare(make, [(0, 400)])
    assert len({data for rip, data in pairs if rip == AREA + 0xFFC}) > 10


@pytest.mark.parametrize("seed", range(40))
def test_hostile_guests(seed: int) -> None:
    """Which rewrite what they run, their tables and all."""

    def make() -> Machine:
        rng = random.Random(seed)
        machine = Machine(MachineConfig(1 + seed % 2, RAM))
        hostile_runs.start(machine, rng, hypercalls=False)
        return machine

    rng = random.Random(seed)
    slices = [(number % (1 + seed % 2), rng.randrange(1, 60)) for number in range(20)]
    try:
        compare(make, slices)
    except KstackError as error:
        pytest.skip(f"it ends the run: {error}")


# --- what was translated


def test_what_was_known_before_a_change_comes_back_for_the_stretch_before_it() -> None:
    found = Translated()
    found.add(0, 0x5000, b"abcdef")
    found.add(10, 0x5002, b"XY")
    found.add(10, 0x5002, b"XY")
    found.add(20, 0x5004, b"Zfg")
    seen = [(*stretch, found.read(0x5000, 7)) for stretch in found.stretches(30)]
    assert seen == [(20, 30, b"abXYZfg"), (10, 20, b"abXYef\0"), (0, 10, b"abcdef\0")]
    assert found.read(0x5000, 7) == b"abXYZfg"
    assert [(*stretch, found.read(0x5000, 2)) for stretch in found.stretches(5)] == [(0, 5, b"ab")]


def test_registers_say_that_the_loop_ran() -> None:
    """The programs above do what they are there for."""
    guest = LongModeGuest()
    text = "again: xor byte ptr [rip + here + 2], 8\nhere: inc rax\ninc rbx\njmp again"
    guest.start(guest.kernel_code(text))
    guest.machine.run(0, 400)
    assert guest.gpr(Gpr.RBX) == 100 and guest.gpr(Gpr.RAX) == 0
