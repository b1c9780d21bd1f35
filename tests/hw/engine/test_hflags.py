"""What QEMU translates by (hflags) follows from the registers after every instruction, entry and return."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.state import ActivityState
from kstack.hw.engine import layout
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import Machine
from kstack.run.options import RunOptions
from kstack.run.spec import boot
from kstack.schedule import RoundRobin
from kstack.stacks.loading.registry import find_policy
from kstack.x86.control import Efer
from kstack.x86.registers import Gpr
from tests.support.long_mode import USER_CODE64, USER_DATA, LongModeGuest

FOLLOW = ~(layout.HF_INHIBIT_IRQ | layout.HF_GUEST | layout.HF_SS32)
"""The others are no function of the registers; and in 64-bit code nothing looks at the width of the stack segment."""


def differing(cpu: Cpu) -> int:
    """Bits of hflags that are not as the registers are."""
    registers = cpu.registers
    return (registers.hflags ^ registers.derived_hflags()) & FOLLOW


def _stepped(machine: Machine, units: int) -> Iterator[tuple[Cpu, int]]:
    for number in range(units):
        cpu = machine.cpus[number % machine.cpu_count]
        if cpu.can_run():
            machine.run(cpu.index, 1)
            yield cpu, differing(cpu)


@pytest.mark.parametrize("policy", ["fault-ist", "fault-df", "fault-fred", "switch-sp-ipi"])
def test_a_kernel_with_faults_interrupts_and_switches_keeps_them_true(policy: str) -> None:
    scenario = find_scenario("shallow-then-deep")
    chosen = find_policy(policy)
    booted = boot(scenario, modes=Modes(df_restart="exact").resolved(chosen.delivery))
    session = booted.session(chosen(), RoundRobin(1), RunOptions(4_000))
    wrong: list[str] = []
    for cpu in booted.machine.cpus:
        _watch(cpu, wrong)
    session.run()
    assert wrong == []


def _watch(cpu: Cpu, wrong: list[str]) -> None:
    run = cpu.run

    def watched(budget: int):  # type: ignore[no-untyped-def] # Slice
        ended = run(budget)
        bits = differing(cpu)
        if bits:
            wrong.append(f"CPU {cpu.index} at {cpu.registers.rip:#x}: {bits:#x}")
        return ended

    cpu.run = watched  # type: ignore[method-assign] # for this test's machine alone


def test_a_far_return_to_32_bit_code_keeps_them_true() -> None:
    guest = LongModeGuest()
    far = guest.kernel_code(
        """
        push 0x10
        lea rax, [rip + narrow]
        push rax
        retfq
    narrow:
        nop
        """
    )
    guest.start(far)
    for cpu, bits in _stepped(guest.machine, 5):
        assert not bits, f"at {cpu.registers.rip:#x}: {bits:#x}"
    assert guest.machine.cpus[0].registers.bits == 32


@pytest.mark.parametrize("flags", [0x2, 0x3002, 0x1002, 0x40002, 0x102, 0x4002])
def test_flags_of_one_program_do_not_outlive_it_into_the_next(flags: int) -> None:
    guest = LongModeGuest()
    registers = guest.machine.cpus[0].registers
    registers.efer |= Efer.SCE
    user = guest.user_code("int 0x80")
    for value in (flags, 0x2):
        guest.privilege(0, 0)
        guest.start(guest.kernel_code("iretq"))
        top = guest.stack() - 40
        for number, word in enumerate((user, USER_CODE64, value, 0x1000, USER_DATA)):
            guest.memory.write64(top + 8 * number, word)
        registers.gpr[Gpr.RSP] = top
        for cpu, bits in _stepped(guest.machine, 2):
            assert not bits, f"after RFLAGS {value:#x} at {cpu.registers.rip:#x}: {bits:#x}"


def test_cli_in_ring_3_needs_iopl_also_after_a_program_that_had_it() -> None:
    guest = LongModeGuest()
    registers = guest.machine.cpus[0].registers
    for flags, vector in ((0x3002, None), (0x2, 13), (0x3002, None), (0x2, 13)):
        registers.rflags = flags
        guest.privilege(0, 3)
        guest.start(guest.user_code("cli\ncli"))
        guest.step(units=1)
        assert (guest.begun[-1].vector if guest.begun else None) == vector
        guest.machine.cpus[0].state = ActivityState.RUNNING
        assert not differing(guest.machine.cpus[0])


def test_a_bit_that_does_not_follow_is_seen() -> None:
    guest = LongModeGuest()
    registers = guest.machine.cpus[0].registers
    assert not differing(guest.machine.cpus[0])
    registers._hflags.value |= 3 << 12
    assert differing(guest.machine.cpus[0]) == 3 << 12
