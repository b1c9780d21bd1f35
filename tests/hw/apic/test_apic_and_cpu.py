"""What a CPU does by its local APIC: IA32_APIC_BASE and INIT (SDM volume 3, 8.4.3 and 10.4.4)."""

from __future__ import annotations

from kstack.hw.cpu.state import ActivityState
from tests.support.long_mode import LongModeGuest


def test_a_base_beyond_the_physical_addresses_is_refused() -> None:
    guest = LongModeGuest()
    guest.run("wrmsr", rcx=0x1B, rdx=1 << 8, rax=0xFEE00900)
    assert guest.vector() == 13
    guest.run("wrmsr", rcx=0x1B, rdx=0, rax=0xFEE00900)
    assert guest.vector() is None


def test_init_to_oneself_resets_the_cpu_that_sends_it() -> None:
    guest = LongModeGuest(cpus=2)
    guest.machine.apics[1].set_base_msr(0xFEE00C00)
    guest.run("wrmsr", cpu=1, rcx=0x830, rdx=1, rax=0x4500)
    cpu = guest.machine.cpus[1]
    assert cpu.state is ActivityState.WAIT_FOR_SIPI
    assert not cpu.registers.long_mode
