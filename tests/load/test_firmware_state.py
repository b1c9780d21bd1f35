"""What firmware has done when an image starts, and what reset alone leaves; and that no BIOS is there to be called."""

from __future__ import annotations

from typing import Final

import pytest

from kstack.hw.cpu.state import ActivityState
from kstack.load import load
from kstack.machine import End, Machine, MachineConfig
from kstack.report.panic import panic_report
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.schedule import RoundRobin
from kstack.x86.control import Cr0
from tests.support.images import BASE, EXIT, STACK_TOP, Segment, boot_sector, elf, multiboot, pvh

RESET_CR0: Final = 0x60000010
SVR, LINT0, LINT1 = 0xF0, 0x350, 0x360
MASKED: Final = 1 << 16
IMAGES: Final = {
    "pvh": pvh("hlt"),
    "multiboot": multiboot("hlt"),
    "long": elf([Segment(BASE, b"\xf4")], BASE),
    "boot sector": boot_sector("hlt"),
}
TICKS: Final = f"""
    mov esp, {STACK_TOP}
    lgdt [gdtr]
    .byte 0xea
    .long segments
    .short 8
segments:
    mov eax, 16
    mov ds, ax
    mov ss, ax
    {{program}}
    mov eax, offset tick
    mov [{BASE + 0x1000} + 8 * {{vector}}], ax
    mov word ptr [{BASE + 0x1002} + 8 * {{vector}}], 8
    mov word ptr [{BASE + 0x1004} + 8 * {{vector}}], 0x8e00
    shr eax, 16
    mov [{BASE + 0x1006} + 8 * {{vector}}], ax
    lidt [idtr]
    mov al, 0x34
    out 0x43, al
    mov al, 0x9c
    out 0x40, al
    mov al, 0x2e
    out 0x40, al
    xor ebx, ebx
    sti
again:
    hlt
    cmp ebx, 3
    jb again
    {EXIT}
tick:
    inc ebx
    mov edx, 0x3f8
    mov al, '.'
    out dx, al
    mov al, 0x20
    out 0x20, al
    iretd
gdtr:
    .short 23
    .long gdt
idtr:
    .short 0x7ff
    .long {BASE + 0x1000}
.align 8, 0
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
"""
REMAP: Final = "\n".join(
    f"mov al, {word:#x}\nout {port:#x}, al"
    for port, word in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0xA1, 0xFF))
)


def machine_with(image: bytes) -> Machine:
    machine = Machine(MachineConfig(2, 16 << 20))
    load(machine, image)
    return machine


def ran(image: bytes) -> tuple[RunResult, Machine]:
    machine = Machine(MachineConfig(1, 16 << 20))
    symbols = load(machine, image)
    return Session(machine, symbols, RoundRobin(1000), None, RunOptions(200_000_000)).run(), machine


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_finds_caches_enabled_and_the_boot_cpus_apic_in_virtual_wire_mode(kind: str) -> None:
    machine = machine_with(IMAGES[kind])
    assert not machine.cpus[0].registers.cr[0] & (Cr0.CD | Cr0.NW)
    assert [machine.apics[0].read(register, 4) for register in (SVR, LINT0, LINT1)] == [0x1FF, 0x700, 0x400]
    assert machine.apics[0].passes_pic
    assert (machine.pics.master.base, machine.pics.slave.base) == (8, 0x70)


@pytest.mark.parametrize("kind", IMAGES)
def test_the_other_cpus_are_as_reset_leaves_them(kind: str) -> None:
    machine = machine_with(IMAGES[kind])
    assert machine.cpus[1].registers.cr[0] == RESET_CR0
    assert machine.apics[1].read(LINT0, 4) == MASKED


def test_reset_and_init_are_those_of_the_manual() -> None:
    """SDM volume 3A, table 9-1, and 10.4.7.1: no firmware has run."""
    machine = machine_with(IMAGES["pvh"])
    machine.cpus[0].init()
    assert machine.cpus[0].registers.cr[0] == RESET_CR0
    assert [machine.apics[0].read(register, 4) for register in (SVR, LINT0, LINT1)] == [0xFF, MASKED, MASKED]


def test_a_kernel_that_knows_no_apic_gets_the_timers_interrupts_through_the_8259() -> None:
    result, _ = ran(multiboot(TICKS.format(program=REMAP, vector=0x20), bss=0x4000))
    assert (result.ended, result.serial) == ("exit", "...")


def test_the_8259_is_set_up_as_a_pcs_firmware_does_it() -> None:
    result, _ = ran(multiboot(TICKS.format(program="", vector=8), bss=0x4000))
    assert (result.ended, result.serial) == ("exit", "...")


def test_a_kernel_that_masks_lint0_gets_none() -> None:
    program = f"{REMAP}\nmov dword ptr [0xfee00350], 0x10700"
    result, _ = ran(multiboot(TICKS.format(program=program, vector=0x20), bss=0x4000))
    assert (result.ended, result.serial) == ("asleep", "")


# --- no BIOS


@pytest.mark.parametrize(
    ("call", "says"),
    [("mov ax, 0xe41\nint 0x10", "INT 0x10 with AX=0x0e41"), ("mov ax, 0x201\nint 0x13", "INT 0x13 with AX=0x0201")],
)
def test_the_first_bios_call_ends_the_run_and_says_that_there_is_no_bios(call: str, says: str) -> None:
    result, machine = ran(boot_sector(f"{call}\nmov al, 0\nout 0xf4, al"))
    assert (result.ended, result.code, result.exit_value) == ("shutdown", 3, None)
    assert machine.cpus[0].registers.rip == 0x7C03, "at the call"
    report = panic_report(machine, load(Machine(MachineConfig()), IMAGES["long"]))
    assert f"stopped because: {says}, and there is no BIOS: entry" in report


def test_so_it_is_in_real_mode_after_protected_mode() -> None:
    back = "mov eax, cr0\nand al, 0xfe\nmov cr0, eax\nint 0x10"
    result, machine = ran(pvh(back))
    assert (result.ended, machine.cpus[0].unsupported is not None) == ("shutdown", True)


def test_a_call_through_an_entry_that_the_guest_has_filled_is_one_like_any_other() -> None:
    source = """
        mov word ptr [0x40], offset handler
        mov word ptr [0x42], 0
        int 0x10
        mov al, 0
        out 0xf4, al
    handler:
        mov dx, 0x3f8
        mov al, 'h'
        out dx, al
        iret
    """
    result, _ = ran(boot_sector(source))
    assert (result.ended, result.serial, result.code) == ("exit", "h", 0)


@pytest.mark.parametrize(("code", "says"), [("ud2", "exception 0x6"), ("mov ax, 0\ndiv ax", "exception 0x0")])
def test_a_fault_in_real_mode_that_nobody_handles_is_named(code: str, says: str) -> None:
    _, machine = ran(boot_sector(code))
    assert machine.cpus[0].state is ActivityState.SHUTDOWN
    why = machine.cpus[0].unsupported
    assert why is not None and why.startswith(f"{says} in real mode, and nobody handles it")


def test_an_nmi_in_real_mode_that_nobody_handles_is_named() -> None:
    machine = machine_with(boot_sector("jmp 0x7c00"))
    machine.cpus[0].nmi()
    machine.run(0, 10)
    assert machine.end() is End.SHUTDOWN
    assert machine.cpus[0].unsupported == (
        "NMI 0x2 in real mode, and nobody handles it: entry 0x2 of the interrupt vector table is empty"
    )


def test_int_in_protected_mode_is_a_fault_of_the_guests_own() -> None:
    _, machine = ran(pvh("int 0x10"))
    assert (machine.end(), machine.cpus[0].unsupported) == (End.SHUTDOWN, None)
