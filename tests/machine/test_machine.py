"""The machine as a whole: time, timers, interrupts between CPUs, ports, snapshots and hashes."""

from __future__ import annotations

import os
from typing import Final

import pytest

from kstack.base.errors import ConfigError
from kstack.guest.asm import assemble
from kstack.hw.apic.apic import DeliveryMode
from kstack.hw.apic.registers import Lvt, Reg, Svr
from kstack.hw.cpu.state import ActivityState, SliceEnd
from kstack.machine import End, Machine, MachineConfig
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr
from tests.support.long_mode import LongModeGuest

CODE: Final = 0x8000
COUNTER: Final = 0x9000
DIVIDE_BY_1: Final = 0b1011
COUNT: Final = """
.code16
    xor ax, ax
    mov ds, ax
.Lagain:
    inc word ptr [0x9000]
    inc bx
    jmp .Lagain
"""
RTC_SLEEP: Final = ".code16\nsti\nhlt\ninc bx\n.Lend:\njmp .Lend"


def real_mode(source: str, cpus: int = 1) -> Machine:
    """All CPUs in real mode at CODE, each on the same code."""
    machine = Machine(MachineConfig(cpus=cpus, ram=1 << 20))
    machine.memory.write(CODE, assemble(source, CODE, bits=16))
    for cpu in machine.cpus:
        cpu.state = ActivityState.WAIT_FOR_SIPI
        cpu.sipi(CODE >> 12)
        cpu.registers.gpr[Gpr.RSP] = 0x7000 - 0x100 * cpu.index
    return machine


def take_turns(machine: Machine, slices: int, quantum: int) -> None:
    for number in range(slices):
        ready = machine.runnable()
        machine.run(ready[number % len(ready)], quantum)


# --- snapshots and hashes


def test_a_restored_machine_runs_to_the_same_state() -> None:
    machine = real_mode(COUNT, 2)
    take_turns(machine, 9, 13)
    saved, before = machine.snapshot(), machine.state_hash()
    take_turns(machine, 20, 17)
    after = machine.state_hash()
    machine.restore(saved)
    assert machine.state_hash() == before
    take_turns(machine, 20, 17)
    assert machine.state_hash() == after != before


def test_a_snapshot_can_be_restored_into_another_machine_of_the_same_configuration() -> None:
    first, second = real_mode(COUNT, 2), Machine(MachineConfig(cpus=2, ram=1 << 20))
    take_turns(first, 9, 13)
    second.restore(first.snapshot())
    assert second.state_hash() == first.state_hash()
    for machine in (first, second):
        take_turns(machine, 30, 7)
    assert second.state_hash() == first.state_hash()


def test_a_snapshot_is_not_changed_by_what_runs_afterwards() -> None:
    machine = real_mode(COUNT)
    machine.run(0, 50)
    saved = machine.snapshot()
    count = machine.memory.read(COUNTER, 2)
    machine.run(0, 500)
    assert machine.memory.read(COUNTER, 2) != count
    machine.restore(saved)
    assert machine.memory.read(COUNTER, 2) == count


def test_code_that_changed_after_a_snapshot_runs_as_it_was_after_restore() -> None:
    machine = real_mode(".code16\n.Lagain:\ninc bx\njmp .Lagain")
    machine.run(0, 10)
    saved = machine.snapshot()
    machine.memory.write(CODE, assemble(".code16\n.Lagain:\ndec bx\njmp .Lagain", CODE, bits=16))
    machine.run(0, 10)
    assert machine.cpus[0].registers.gpr[Gpr.RBX] == 0
    machine.restore(saved)
    machine.run(0, 10)
    assert machine.cpus[0].registers.gpr[Gpr.RBX] == 10


def test_a_snapshot_keeps_held_ipis_and_devices() -> None:
    machine = real_mode(COUNT, 2)
    machine.hold_ipis = True
    machine.send(0, (1,), DeliveryMode.NMI, 0)
    machine.port_write(0, 0x3FF, 1, 0x5A)
    saved = machine.snapshot()
    machine.deliver_ipi(0)
    machine.port_write(0, 0x3FF, 1, 0)
    machine.restore(saved)
    assert [(ipi.source, ipi.target, ipi.mode) for ipi in machine.ipis] == [(0, 1, DeliveryMode.NMI)]
    assert machine.port_read(0, 0x3FF, 1) == 0x5A


@pytest.mark.parametrize("quantum", [1, 2, 3, 5, 33, 100])
def test_on_one_cpu_the_quantum_changes_neither_registers_nor_memory(quantum: int) -> None:
    machine, whole = real_mode(COUNT), real_mode(COUNT)
    whole.run(0, 600)
    while machine.time < 600:
        machine.run(0, min(quantum, 600 - machine.time))
    assert machine.cpus[0].registers.canonical() == whole.cpus[0].registers.canonical()
    assert machine.memory.digest() == whole.memory.digest()


def test_another_order_of_slices_gives_another_hash() -> None:
    source = ".code16\nmov bl, [0x9000]\ninc bl\nmov [0x9000], bl\nhlt"
    hashes = set()
    for order in ((0, 1, 0, 1), (0, 0, 1, 1), (1, 1, 0, 0)):
        machine = real_mode(source, 2)
        for cpu in order:
            machine.run(cpu, 2)
        hashes.add(machine.state_hash())
    assert len(hashes) == 3


# --- who runs


def test_cpus_but_the_first_wait_for_a_start_up_ipi() -> None:
    machine = Machine(MachineConfig(cpus=3, ram=1 << 20))
    assert machine.runnable() == [0]
    machine.send(0, (1,), DeliveryMode.STARTUP, 0x12)
    assert machine.runnable() == [0, 1]
    assert machine.cpus[1].linear.code(0x12000, 1) == b"\0"
    machine.run(1, 1)
    assert machine.cpus[1].registers.rip == 2


def test_init_sends_a_running_cpu_back_to_waiting_and_a_second_sipi_is_ignored() -> None:
    machine = real_mode(COUNT, 2)
    machine.send(0, (1,), DeliveryMode.STARTUP, 0x20)
    machine.run(1, 10)
    assert machine.cpus[1].registers.rip < 0x20
    machine.send(0, (1,), DeliveryMode.INIT, 0)
    assert machine.runnable() == [0]
    machine.send(0, (1,), DeliveryMode.STARTUP, CODE >> 12)
    assert machine.runnable() == [0, 1]


def test_a_halted_cpu_does_not_run_until_an_interrupt_wakes_it() -> None:
    machine = real_mode(RTC_SLEEP)
    assert machine.run(0, 100) == (SliceEnd.HALTED, 2)
    assert machine.runnable() == []
    assert machine.run(0, 100) == (SliceEnd.HALTED, 0)
    machine.apics[0].write(Reg.SVR, 4, Svr.ENABLE | 0xFF)
    machine.apics[0].accept(0x40)
    machine.memory.write(4 * 0x40, (0x9100).to_bytes(4, "little"))
    machine.memory.write(0x9100, b"\xcf")
    assert machine.runnable() == [0]
    machine.run(0, 3)
    assert machine.cpus[0].registers.gpr[Gpr.RBX] == 1


def test_when_all_sleep_time_jumps_to_the_next_timer() -> None:
    machine = real_mode(RTC_SLEEP)
    assert not machine.warp()
    machine.apics[0].write(Reg.SVR, 4, Svr.ENABLE | 0xFF)
    machine.apics[0].write(Reg.DIVIDE, 4, DIVIDE_BY_1)
    machine.apics[0].write(Reg.LVT_TIMER, 4, 0x40)
    machine.apics[0].write(Reg.INITIAL, 4, 5000)
    machine.run(0, 100)
    assert (machine.time, machine.runnable()) == (2, [])
    assert machine.warp()
    assert (machine.time, machine.runnable()) == (5000, [0])


@pytest.mark.parametrize("count", [1, 2, 17, 40, 41, 42, 333])
@pytest.mark.parametrize("quantum", [1, 10, 1000])
def test_a_timer_fires_at_its_exact_time(count: int, quantum: int) -> None:
    machine = real_mode(".code16\nsti\n.Lagain:\ninc bx\ninc bx\ninc bx\njmp .Lagain")
    machine.memory.write(4 * 0x40, (0x9100).to_bytes(4, "little"))
    machine.memory.write(0x9100, b"\xf4")
    machine.run(0, 2)  # past STI's shadow
    apic = machine.apics[0]
    apic.write(Reg.SVR, 4, Svr.ENABLE | 0xFF)
    apic.write(Reg.DIVIDE, 4, DIVIDE_BY_1)
    apic.write(Reg.LVT_TIMER, 4, 0x40)
    apic.write(Reg.INITIAL, 4, count)
    while machine.cpus[0].state is ActivityState.RUNNING:
        machine.run(0, quantum)
    assert machine.time == 2 + count + 2  # the interrupt, and the HLT of its handler


def test_a_masked_timer_wakes_nobody() -> None:
    machine = real_mode(RTC_SLEEP)
    machine.apics[0].write(Reg.SVR, 4, Svr.ENABLE | 0xFF)
    machine.apics[0].write(Reg.LVT_TIMER, 4, 0x40 | Lvt.MASKED)
    machine.apics[0].write(Reg.INITIAL, 4, 100)
    assert not machine.warp()


# --- interrupts between CPUs


def test_an_ipi_arrives_at_once_unless_they_are_held() -> None:
    machine = real_mode(COUNT, 2)
    machine.apics[1].write(Reg.SVR, 4, Svr.ENABLE | 0xFF)
    machine.send(0, (1,), DeliveryMode.FIXED, 0x41)
    assert machine.apics[1].pending() == 0x41


def test_held_ipis_arrive_in_the_order_that_is_chosen() -> None:
    machine = real_mode(COUNT, 2)
    machine.apics[1].write(Reg.SVR, 4, Svr.ENABLE | 0xFF)
    machine.hold_ipis = True
    for vector in (0x41, 0x52):
        machine.send(0, (1,), DeliveryMode.FIXED, vector)
    assert machine.apics[1].pending() is None
    assert machine.deliver_ipi(1).vector == 0x52
    assert machine.apics[1].pending() == 0x52
    assert [ipi.vector for ipi in machine.ipis] == [0x41]


# --- ports and MMIO


def test_a_port_nobody_answers_reads_ones() -> None:
    machine = real_mode(".code16\nin al, 0x99\nmov dx, 0x777\nin eax, dx\nhlt")
    machine.run(0, 10)
    assert machine.cpus[0].registers.gpr[Gpr.RAX] == 0xFFFFFFFF


def test_the_exit_port_ends_the_machine_at_once() -> None:
    machine = real_mode(".code16\nmov al, 0x21\nout 0xf4, al\ninc bx\nhlt")
    assert machine.run(0, 100) == (SliceEnd.YIELDED, 2)
    assert (machine.end(), machine.exit_port.code) == (End.EXIT, 0x21)


def test_a_port_cannot_be_claimed_twice() -> None:
    class Claim:
        def read(self, cpu: int, size: int) -> int:
            return 7

        def write(self, cpu: int, size: int, value: int) -> bool:
            return True

    machine = real_mode(".code16\nin al, 0xe0\nhlt")
    machine.claim_port(0xE0, Claim())
    machine.run(0, 2)
    assert machine.cpus[0].registers.gpr[Gpr.RAX] == 7
    with pytest.raises(ConfigError, match="0xe0 is claimed twice"):
        machine.claim_port(0xE0, Claim())


def test_beyond_ram_loads_give_ones_and_stores_vanish() -> None:
    guest = LongModeGuest()
    area = 1 << 39
    guest.map(area, 0x10000000)
    registers = guest.machine.cpus[0].registers
    code = guest.kernel_code(
        f"movabs rbx, {area}\nmov qword ptr [rbx], 5\nmov rax, [rbx]\nmovzx ecx, byte ptr [rbx+3]\nhlt"
    )
    registers.rip = code
    guest.machine.run(0, 20)
    assert registers.gpr[Gpr.RAX] == (1 << 64) - 1
    assert registers.gpr[Gpr.RCX] == 0xFF


def test_a_machine_has_1_to_64_cpus() -> None:
    for cpus in (0, 65, -1):
        with pytest.raises(ConfigError, match="give 1 to 64"):
            MachineConfig(cpus=cpus)


# --- the clock inside a slice


@pytest.mark.parametrize("between", [0, 1, 5, 50, 700])
@pytest.mark.parametrize("quantum", [1, 37, 10_000])
def test_two_rdtsc_differ_by_the_instructions_between_them(between: int, quantum: int) -> None:
    machine = real_mode(".code16\nrdtsc\nmov ebx, eax\n" + "inc cx\n" * between + "rdtsc\nsub eax, ebx\nhlt")
    while machine.cpus[0].state is ActivityState.RUNNING:
        machine.run(0, quantum)
    assert machine.cpus[0].registers.gpr[Gpr.RAX] == between + 2


@pytest.mark.parametrize("between", [0, 1, 5, 50])
def test_the_apic_timers_count_is_exact_in_the_middle_of_a_block(between: int) -> None:
    guest = LongModeGuest()
    area = 1 << 39
    guest.map(area, 0xFEE00000)
    apic = guest.machine.apics[0]
    apic.write(Reg.DIVIDE, 4, DIVIDE_BY_1)
    apic.write(Reg.INITIAL, 4, 100_000)
    current = f"[rbx+{int(Reg.CURRENT)}]"
    source = (
        f"movabs rbx, {area}\nmov ecx, {current}\n" + "inc rdx\n" * between + f"mov eax, {current}\nsub ecx, eax\nhlt"
    )
    registers = guest.machine.cpus[0].registers
    registers.rip = guest.kernel_code(source)
    guest.machine.run(0, 1000)
    assert registers.gpr[Gpr.RCX] == between + 1
    assert registers.gpr[Gpr.RAX] == 100_000 - 2 - between


def test_counts_and_time_agree() -> None:
    machine = real_mode(COUNT, 2)
    take_turns(machine, 10, 33)
    assert machine.time == sum(cpu.counts.instructions for cpu in machine.cpus) == 330


def test_two_machines_in_one_process_do_not_influence_each_other() -> None:
    alone = real_mode(COUNT, 2)
    take_turns(alone, 20, 9)
    machine, other = real_mode(COUNT, 2), real_mode(RTC_SLEEP, 2)
    other.cpus[0].registers.rflags |= Flags.CF
    for number in range(20):
        machine.run(machine.runnable()[number % 2], 9)
        if other.runnable():
            other.run(other.runnable()[0], 1)
    assert machine.state_hash() == alone.state_hash()


def test_a_forked_process_has_memory_of_its_own() -> None:
    """Else workers that inherit a booted guest would write into each other's."""
    machine = Machine(MachineConfig(ram=1 << 20))
    machine.memory.write64(0x8000, 1)
    child = os.fork()
    if not child:
        machine.memory.write64(0x8000, 2)
        os._exit(0)
    os.waitpid(child, 0)
    assert machine.memory.read64(0x8000) == 1


def test_a_slice_that_ends_before_a_fetch_that_faults_leaves_no_trace_of_it() -> None:
    """The engine tries the fetch at once, and again in the next slice: walks are counted once, however it is cut."""
    counts = []
    for pieces in ((50,), (1, 49), (2, 48), (3, 47), (1, 1, 1, 47)):
        guest = LongModeGuest()
        guest.start(guest.kernel_code("nop\nmov eax, 1\njmp rbx"), rbx=1 << 40)
        for units in pieces:
            guest.step(0, units)
        assert guest.vector() == 14
        counts.append((guest.machine.cpus[0].mmu.walks, guest.machine.state_hash()))
    assert len(set(counts)) == 1
