"""What a guest's death looks like: registers, the page walk of the faulting address, last instructions.

Read-only: nothing here changes the machine.
"""

from __future__ import annotations

from typing import Final

from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.decode import disassemble
from kstack.hw.cpu.state import ActivityState
from kstack.hw.mmu.walk import TableEntry, walk
from kstack.kernels.kernel import Exits
from kstack.load import Symbols
from kstack.machine import End, Machine
from kstack.x86.addresses import is_canonical
from kstack.x86.entries import BIT_NAMES, FRAME_MASK, LEVELS
from kstack.x86.registers import Gpr, Seg

LAST: Final = 8
MAX_BLOCK: Final = 512


def panic_report(
    machine: Machine,
    symbols: Symbols,
    command: str | None = None,
    cpu: int | None = None,
    exits: Exits = Exits(),
) -> str:
    """The state of every CPU of a machine whose guest has died, has ended, or stands somewhere.

    Args:
        machine: as the guest left it.
        symbols: of its image.
        command: what runs it again, if known.
        cpu: of this CPU alone; None for all.
        exits: what the guest says by its end.
    """
    lines = [f"{_ended(machine, exits)} at virtual time {machine.time}"]
    for one in machine.cpus if cpu is None else [machine.cpus[cpu]]:
        lines += ["", *_cpu(one, symbols)]
    if command:
        lines += ["", f"again: {command}"]
    return "\n".join(lines)


def _ended(machine: Machine, exits: Exits) -> str:
    value = machine.exit_port.code
    if machine.end() is End.SHUTDOWN or value == exits.panicked:
        return "guest died"
    return "guest has not ended" if value is None else f"guest has ended, with exit value {value:#x},"


def _cpu(cpu: Cpu, symbols: Symbols) -> list[str]:
    registers, linear = cpu.registers, cpu.linear_rip()
    rip = f"RIP {registers.rip:#x}" + ("" if registers.rip == linear else f", linear {linear:#x}")
    lines = [f"CPU {cpu.index}: {cpu.state.value} at {symbols.name(linear)} ({rip}), ring {registers.cpl}"]
    if cpu.unsupported:
        lines.append(f"  stopped because: {cpu.unsupported}")
    if cpu.state is ActivityState.WAIT_FOR_SIPI:
        return lines
    names = [gpr.name.ljust(3) for gpr in Gpr]
    for row in range(0, 16, 4):
        lines.append("  " + "  ".join(f"{names[n]} {registers.gpr[n]:016x}" for n in range(row, row + 4)))
    cr = registers.cr
    lines.append(f"  CR0 {cr[0]:08x}  CR2 {cr[2]:016x}  CR3 {cr[3]:016x}  CR4 {cr[4]:08x}  EFER {registers.efer:x}")
    lines.append(
        f"  CS {registers.segment(Seg.CS).selector:04x}  SS {registers.segment(Seg.SS).selector:04x}  RFLAGS {registers.rflags:08x}"
    )
    lines += _last_instructions(cpu, symbols)
    if cpu.paging_enabled() and registers.long_mode:
        lines += _walk(cpu, registers.cr[2], "CR2")
    return lines


def _last_instructions(cpu: Cpu, symbols: Symbols) -> list[str]:
    """Where the engine stopped last, and the whole of the last block up to there."""
    listed = [line for rip in list(cpu.recent)[:-1] for line in _block(cpu, rip, rip, symbols)]
    if cpu.recent:
        block = cpu.engine.last_block()
        listed += _block(cpu, cpu.recent[-1] if block is None else block, cpu.recent[-1], symbols)
    return ["  where it stopped last, and its last block, newest last:", *listed[-LAST:]]


def _block(cpu: Cpu, start: int, end: int, symbols: Symbols) -> list[str]:
    """The instructions from `start` to `end` (linear), or only the one at `end` if `start` is not near."""
    lines: list[str] = []
    at = start if start <= end < start + MAX_BLOCK else end
    while at <= end:
        length, text = disassemble(cpu.linear.code(at), at, cpu.registers.bits)
        lines.append(f"    {at:#018x}  {symbols.name(at):<28} {text}")
        at += length
    return lines


def _walk(cpu: Cpu, address: int, name: str) -> list[str]:
    if not is_canonical(address):
        return [f"  walk of {name} {address:#x}: not canonical"]
    lines = [f"  walk of {name} {address:#x}:"]
    memory = cpu.mmu.memory
    root = TableEntry(cpu.registers.cr[3] & FRAME_MASK, 0)
    for where, shift in walk(memory, root, 39, address, None, cpu.mmu.control).path:
        entry = memory.read64(where)
        flags = " ".join(name for bit, name in BIT_NAMES.items() if entry & bit)
        lines.append(f"    {LEVELS[shift]:<5} at {where:#012x}: {entry:#018x} {flags or 'not present'}")
    return lines
