"""kernel-pages = pcid: no kernel page is global, processes have PCIDs, and shootdowns reach every PCID."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.hw.cpu import instructions
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.mmu.mmu import Mmu
from kstack.hw.modes import Modes
from kstack.judge.verdict import Portfolio, judge
from kstack.kernels.kstack.scenarios import find_image, find_scenario
from kstack.load import load
from kstack.machine import Machine, MachineConfig
from kstack.policies.entry_exit import EntryExit
from kstack.policies.fixed_16k import Fixed16K
from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.run.booted import BootedScenario
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.run.spec import boot
from kstack.schedule import RandomSchedule, RoundRobin
from kstack.x86.control import Cr4
from tests.support.variants import changed_image, own_image

MODES = Modes(tlb="retain", kernel_pages="pcid")
FEW = Portfolio(schedules=3)
INVPCID = ("pcid.s", "    invpcid rax, [rip+pcid_nothing]\n.Lpcid_end:", "    nop\n.Lpcid_end:")
FLUSH_BEFORE_REUSE = ("pcid.s", "    mov [rdx], rax\n    mov cr3, rcx\n    ret\n", "    mov [rdx], rax\n")

# Six processes one after the other, each in the place of the last: what it stores is in its own frame.
PROCESSES = """
.text
scenario_main:
    push rbx
    push r12
    lea rax, [rip+look]
    mov [rip+scenario_syscall], rax
    mov ebx, 6
    xor r12d, r12d
.Lprogram_next:
    xor edi, edi
    mov rsi, rbx
    xor edx, edx
    lea rcx, [rip+user_store]
    call thread_create
    mov rdi, rax
    call thread_join
    or r12, rax
    dec ebx
    jnz .Lprogram_next
    mov rax, r12
    pop r12
    pop rbx
    ret
look:
    CURRENT
    mov rcx, [rax+T_DATA_FRAME]
    movabs rdx, DIRECT_BASE
    mov rax, [rcx+rdx]
    sub rax, [rdi+TF_RDI]
    ret
.p2align 12, 0x90
user_store:
    mov eax, USER_DATA
    mov [rax], rdi
    mov eax, SYS_SCENARIO
    syscall
    mov rdi, rax
    mov eax, SYS_EXIT
    syscall
.p2align 12, 0x90
.data
.p2align 3
scenario_tick:
    .long 0, 0
scenario_pool:
    .quad POOL_PAGES
"""


def run_image(image: bytes, modes: Modes = MODES) -> RunResult:
    """Run an image of its own under fixed-16k on two CPUs."""
    machine = Machine(MachineConfig(2, modes=modes))
    return Session(machine, load(machine, image, "test"), RoundRobin(100), Fixed16K(), RunOptions(20_000_000)).run()


def watch_loads(cpu: Cpu, loads: dict[tuple[int, int], list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Note what is loaded into CR3, by CPU and PCID."""
    load_cr3 = instructions.load_cr3

    def noting(mmu: Mmu, value: int) -> None:
        if mmu is cpu.mmu:
            loads.setdefault((cpu.index, value & 0xFFF), []).append(value)
        load_cr3(mmu, value)

    monkeypatch.setattr(instructions, "load_cr3", noting)


@pytest.mark.parametrize("delivery", ["df", "ist", "fred"])
def test_no_kernel_page_is_global_and_each_process_has_a_pcid(delivery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = Modes(kernel_pages="pcid", stack_fault_delivery=delivery)
    booted = boot(find_scenario("laight"), modes=modes)
    session = booted.session(Fixed16K(), RandomSchedule(1), RunOptions(5_000_000))
    used, together = set(), 0
    loads: dict[tuple[int, int], list[int]] = {}
    for cpu in booted.machine.cpus:
        watch_loads(cpu, loads, monkeypatch)
    while session.step(1 << 30) is None:
        for cpu in booted.machine.cpus:
            if cpu.mmu.pcid:
                used.add((cpu.mmu.pcid, cpu.registers.cr[3] & ~0xFFF))
            together = max(together, sum(bool(entries) for entries in cpu.mmu.data.own.values()))
            assert not cpu.mmu.data.shared and not cpu.mmu.code.shared
    assert session.machine.exit_port.code == 0x10
    assert len(used) == len({pcid for pcid, _ in used}) == 3, "three processes, three PCIDs"
    assert together >= 3, "switching does not flush"
    assert sum(len(values) for values in loads.values()) > len(loads), "some are run again"
    for (_, pcid), values in loads.items():
        flushes = [not value >> 63 for value in values]
        assert flushes == [bool(pcid)] + [False] * (len(values) - 1), "only the first time that a CPU runs a process"
    for cpu in booted.machine.cpus:
        assert cpu.registers.cr[4] & (Cr4.PCIDE | Cr4.PGE) == Cr4.PCIDE | Cr4.PGE
        assert not any(entry.is_global for tlb in (cpu.mmu.data, cpu.mmu.code) for _, entry in tlb.entries())


def test_the_self_test_passes_with_pcids() -> None:
    result = run_image(find_image("selftest"))
    assert "FAIL" not in result.serial and "47 passed, 0 failed" in result.serial


def test_a_pcid_is_flushed_before_another_process_has_it(tmp_path: Path) -> None:
    assert run_image(own_image(PROCESSES, tmp_path)).exit_value == 0x10
    assert run_image(own_image(PROCESSES, tmp_path, *FLUSH_BEFORE_REUSE)).exit_value != 0x10


def test_laight_finds_what_it_finds_with_global_pages() -> None:
    found = find_scenario("laight")
    booted = boot(found, modes=MODES)
    unsafe = judge(EntryExit, found, booted, FEW, MODES)
    assert unsafe.safe is False and unsafe.finding is not None
    safe = judge(SwitchSpIpi, found, booted, FEW, MODES)
    assert (safe.safe, safe.exercised > 0) == (True, True), safe.reason


def test_a_shootdown_that_forgets_the_other_pcids_is_found(tmp_path: Path) -> None:
    found = find_scenario("migrate")
    right = judge(SwitchSpIpi, found, boot(found, modes=MODES), FEW, MODES)
    assert right.safe is True, right.reason
    image = changed_image("migrate", tmp_path, *INVPCID)
    wrong = judge(SwitchSpIpi, found, BootedScenario(image, "migrate", 2, modes=MODES), FEW, MODES)
    assert wrong.safe is False and wrong.finding is not None
    assert "cached translation" in wrong.finding.text
    global_pages = Modes(tlb="retain")
    same = judge(SwitchSpIpi, found, BootedScenario(image, "migrate", 2, modes=global_pages), FEW, global_pages)
    assert same.safe is True, "with global pages INVLPG is enough"
