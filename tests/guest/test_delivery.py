"""The kernel takes events as it is told at BOOT: #DF, IST or FRED; under FRED everything goes by FRED."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.guest.images import build_image
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_image, find_scenario
from kstack.load import load
from kstack.machine import Machine, MachineConfig
from kstack.policies.fixed_16k import Fixed16K
from kstack.run.booted import BootedScenario
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.run.spec import boot
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler
from kstack.stacks import Decision, Policy, Pte, ReadPte, Steps, TakePage, Thread, WritePte
from kstack.x86.msrs import Msr
from kstack.x86.registers import Seg
from tests.support.variants import changed_image

DELIVERIES = ("df", "ist", "fred")
SCHEDULES: tuple[Scheduler, ...] = (*(RoundRobin(q) for q in (1, 7, 100, 1000)), *(RandomSchedule(s) for s in range(3)))
FRED = 1 << 32
ASK_FOR_IST = ("df", "ist_rewind")
"""Tests of the self-test that look for frames on the stacks of the TSS."""


class GrowOnFault(Policy):
    """The top page at creation, every other page when it is touched: each a ring-0 page fault on a stack."""

    id, title, proposer, source = "grow-on-fault", "grow on fault", "a test", ""

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page."""
        yield WritePte(thread.top, Pte.of((yield TakePage()) or 0))  # type: ignore[arg-type] # a frame
        return True

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """The page that was touched."""
        if not thread.contains(address):
            return False
        page = thread.page_at(address)
        pte = yield ReadPte(page)
        if not pte.present:
            yield WritePte(page, Pte.of((yield TakePage()) or 0))  # type: ignore[arg-type] # a frame
        return True


def passes(scenario: str, policy: Policy, booted: BootedScenario, schedule: Scheduler) -> RunResult:
    """Run a scenario, which must pass its own check without a finding."""
    found = find_scenario(scenario)
    result = booted.session(policy, schedule, RunOptions(found.max_instructions)).run()
    assert (result.ended, result.exit_value) == ("exit", 0x10), (schedule.name, result.serial)
    assert found.success in result.serial
    assert [finding.text for finding in result.findings] == [], schedule.name
    return result


def uses_fred(machine: Machine) -> list[bool]:
    """Whether each CPU has FRED on."""
    return [bool(cpu.registers.cr[4] & FRED) for cpu in machine.cpus]


def page_fault_ist(machine: Machine) -> int:
    """The IST index in the #PF gate."""
    cpu = machine.cpus[0]
    return cpu.linear.read(cpu.registers.segment(Seg.IDTR).base + 14 * 16, 8) >> 32 & 7


@pytest.mark.parametrize("scenario", ["laight", "hotplug", "switch-window"])
@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_scenario_passes_under_every_delivery_and_schedule(delivery: str, scenario: str) -> None:
    booted = boot(find_scenario(scenario), modes=Modes(stack_fault_delivery=delivery))
    assert uses_fred(booted.machine) == [delivery == "fred"] * booted.machine.cpu_count
    assert page_fault_ist(booted.machine) == (3 if delivery == "ist" else 0)
    for schedule in SCHEDULES:
        passes(scenario, Fixed16K(), booted, schedule)
        assert uses_fred(booted.machine) == [delivery == "fred"] * booted.machine.cpu_count


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_stacks_grow_on_faults_under_every_delivery(delivery: str) -> None:
    booted = boot(find_scenario("laight"), modes=Modes(stack_fault_delivery=delivery, df_restart="exact"))
    for schedule in SCHEDULES:
        result = passes("laight", GrowOnFault(), booted, schedule)
        assert result.counts.stack_faults >= 4, "two pages of A's stack and two of C's"


def test_under_fred_the_policy_is_called_at_each_entry_and_exit_as_by_the_idt() -> None:
    calls: dict[str, list[tuple[str, int]]] = {}
    for delivery in ("df", "fred"):
        noted = calls[delivery] = []

        class Noting(Fixed16K):
            def enter_kernel(self, cpu: int, thread: Thread, noted: list[tuple[str, int]] = noted) -> Steps:
                noted.append(("enter", thread.id))
                yield from ()

            def exit_kernel(self, cpu: int, thread: Thread, noted: list[tuple[str, int]] = noted) -> Steps:
                noted.append(("exit", thread.id))
                yield from ()

        booted = boot(find_scenario("laight"), modes=Modes(stack_fault_delivery=delivery))
        passes("laight", Noting(), booted, RoundRobin(100))
    assert sorted(calls["fred"]) == sorted(calls["df"])
    assert calls["fred"].count(("enter", 3)) > 4


def test_under_fred_each_stack_fault_comes_at_level_1() -> None:
    booted = boot(find_scenario("laight"), modes=Modes(stack_fault_delivery="fred"))
    session = booted.session(GrowOnFault(), RoundRobin(1), RunOptions(5_000_000))
    seen: list[tuple[int, int]] = []
    cpus = session.machine.cpus

    class Watch:
        def on_delivery(self, delivery: Delivery) -> None:
            cpu, events, _ = delivery
            if events[-1].vector == 14 and not events[-1].nested:
                level = cpus[cpu].msrs.read(Msr.FRED_CONFIG) & 3
                stack = cpus[cpu].msrs.read(Msr.FRED_RSP1) - cpus[cpu].registers.gpr[4]
                seen.append((level, stack))

    session.machine.instruments.add(Watch())
    assert session.run().exit_value == 0x10
    assert len(seen) >= 4 and set(seen) == {(1, 64)}
    assert [cpu.msrs.read(Msr.FRED_CONFIG) & 3 for cpu in cpus] == [0, 0]


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("quantum", [37, 1000])
def test_the_self_test_passes_under_fred_with_the_idt_gone(cpus: int, quantum: int) -> None:
    """System calls, ticks, IPIs, NMIs and their blocking, the STI shadow, faults in both rings, preemption."""
    machine = Machine(MachineConfig(cpus, modes=Modes(stack_fault_delivery="fred")))
    symbols = load(machine, find_image("selftest"), "selftest")
    session = Session(machine, symbols, RoundRobin(quantum), Fixed16K(), RunOptions(100_000_000))
    while not all(uses_fred(machine)):
        assert session.step(1 << 30) is None
    idt = machine.cpus[0].mmu.resolve(machine.cpus[0].registers.segment(Seg.IDTR).base)
    assert idt is not None
    machine.memory.write(idt, bytes(4096))
    result = session.run()
    assert result.ended == "exit", result.serial
    lines = [line for line in result.serial.split("\n") if line[:4] in ("PASS", "FAIL")]
    failed = [line.split()[1].rstrip(":") for line in lines if line.startswith("FAIL")]
    assert failed == [*ASK_FOR_IST], "nobody runs on IST stacks under FRED; all else is as ever"
    assert len(lines) == {1: 44, 2: 47, 4: 47}[cpus]


def test_the_kernel_sets_fred_up_as_stevens_v2() -> None:
    booted = boot(find_scenario("laight"), modes=Modes(stack_fault_delivery="fred"))
    tops = set()
    for cpu in booted.machine.cpus:
        levels = cpu.msrs.read(Msr.FRED_STKLVLS)
        assert {vector: levels >> 2 * vector & 3 for vector in range(32) if levels >> 2 * vector & 3} == {
            1: 1,
            2: 2,
            8: 3,
            14: 1,
            18: 2,
        }
        config = cpu.msrs.read(Msr.FRED_CONFIG)
        assert (config & 3, config >> 6 & 7, config >> 9 & 3) == (0, 1, 0), "level 0, red zone of 64 bytes"
        tops |= {cpu.msrs.read(Msr.FRED_RSP0 + level) for level in (1, 2, 3)}
    assert len(tops) == 6, "every CPU has three stacks of its own"


def test_fred_rsp0_follows_the_thread() -> None:
    booted = boot(find_scenario("laight"), modes=Modes(stack_fault_delivery="fred"))
    session = booted.session(Fixed16K(), RoundRobin(1), RunOptions(5_000_000))
    machine = session.machine
    tops = set()
    while session.step(1 << 30) is None:
        for cpu in machine.cpus:
            if cpu.registers.cpl == 3:
                rsp0 = cpu.msrs.read(Msr.FRED_RSP0)
                tss = cpu.registers.segment(Seg.TR).base
                physical = cpu.mmu.resolve(tss + 4)
                assert physical is not None and rsp0 == machine.memory.read64(physical)
                tops.add(rsp0)
    assert len(tops) == 3, "three processes"


@pytest.mark.parametrize("mode", ["restarted", "lost"])
def test_an_event_from_ring_3_without_a_kernel_stack_finds_one_at_level_1(mode: str) -> None:
    """Take the top page of a thread in ring 3 away: its next entry faults, nested, and the policy maps one."""
    modes = Modes(stack_fault_delivery="fred", interrupted_delivery=mode)
    booted = boot(find_scenario("laight"), modes=modes)
    session = booted.session(GrowOnFault(), RoundRobin(1), RunOptions(5_000_000))
    machine, taken, next_at, ended = session.machine, 0, 0, None
    while ended is None:
        for cpu in machine.cpus:
            if cpu.registers.cpl == 3 and taken < 3 and machine.time >= next_at:
                top = cpu.msrs.read(Msr.FRED_RSP0)
                leaf = cpu.mmu.leaf_address(top - 1)
                assert leaf is not None
                machine.memory.write64(leaf, 0)
                for other in machine.cpus:
                    other.mmu.invlpg(top - 1)
                taken, next_at = taken + 1, machine.time + 2000
        ended = session.step(1 << 30)
    assert (ended, machine.exit_port.code, taken) == ("exit", 0x10, 3)
    assert session.runtime.counts.stack_faults >= 4 + 3


@pytest.mark.parametrize(("attached", "delivery", "expected"), [(False, "df", 3), (True, "df", 0), (True, "ist", 3)])
def test_a_preset_ist_stack_is_kept_unless_a_policy_is_attached(
    attached: bool, delivery: str, expected: int, tmp_path: Path
) -> None:
    preset = "pf_ist:                                 # IST index of the #PF gate; may be set in the image\n    .long "
    image = changed_image("laight", tmp_path, "desc.s", preset + "0", preset + "3")
    machine = Machine(MachineConfig(2, modes=Modes(stack_fault_delivery=delivery)))
    symbols = load(machine, image, "laight")
    session = Session(machine, symbols, RoundRobin(100), Fixed16K() if attached else None)
    while not any(name == "booted" for _, _, name in session.events):
        assert session.step(1 << 30) is None
    assert page_fault_ist(machine) == expected


def test_without_a_policy_fred_is_not_touched() -> None:
    machine = Machine(MachineConfig(2, modes=Modes(stack_fault_delivery="fred", kernel_pages="pcid")))
    symbols = load(machine, build_image("laight").to_elf(), "laight")
    result = Session(machine, symbols, RoundRobin(100)).run()
    assert result.exit_value == 0x10
    assert uses_fred(machine) == [False, False]
    assert all(cpu.msrs.read(msr) == 0 for cpu in machine.cpus for msr in range(0x1CC, 0x1D5))


def test_runs_under_fred_are_deterministic_and_survive_a_snapshot() -> None:
    booted = boot(find_scenario("laight"), modes=Modes(stack_fault_delivery="fred"))
    hashes = set()
    for _ in range(2):
        hashes.add(booted.session(GrowOnFault(), RandomSchedule(5), RunOptions(5_000_000)).run().state_hash)
    session = booted.session(GrowOnFault(), RandomSchedule(5), RunOptions(5_000_000))
    for _ in range(500):
        assert session.step(1 << 30) is None
    machine = Machine(booted.machine.config)
    machine.restore(session.machine.snapshot())
    assert machine.state_hash() == session.machine.state_hash()
    assert uses_fred(machine) == [True, True]
    hashes.add(session.run().state_hash)
    assert len(hashes) == 1
