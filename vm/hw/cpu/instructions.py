"""The instructions that the CPU carries out itself, because Unicorn cannot or others must see them.

SDM volume 2 for each; 4.10.4 of volume 3 for those that invalidate, AMD's APM for INVLPGB. They run
before they have any effect in the engine, and either complete (RIP after them) or fault.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from kstack.hw.cpu.cpuid import INVLPGB_MAX
from kstack.hw.cpu.decode import Instruction, effective_address
from kstack.hw.cpu.events import Event, EventKind
from kstack.hw.cpu.linear import GuestFault
from kstack.hw.cpu.processor import Processor
from kstack.hw.engine import Registers
from kstack.hw.mmu.invalidation import invpcid, load_cr0, load_cr3, load_cr4
from kstack.x86.addresses import PHYSICAL_BITS, is_canonical
from kstack.x86.control import CR0_DEFINED, CR4_DEFINED, CR8_SHIFT, LMSW_CLEARS, LMSW_LOADS, Cr0, Cr3, Cr4, Efer
from kstack.x86.debug_registers import DR6_BD, DR6_FIXED, DR6_ZERO, DR7_FIXED, DR7_GD, DR7_WRITABLE
from kstack.x86.flags import IOPL_SHIFT, Flags
from kstack.x86.invalidation import INVLPGB_COUNT, INVLPGB_PCID, INVLPGB_PCID_SHIFT, INVPCID_BYTES, Invpcid
from kstack.x86.msrs import STAR_SYSCALL_SHIFT, Msr
from kstack.x86.registers import GPR_NAMES, Gpr, Seg
from kstack.x86.segments import CODE, DATA, USER_RING, Segment, SegmentAttribute, Selector
from kstack.x86.tss import IO_MAP_BASE, LEAST_LIMIT
from kstack.x86.vectors import DB, FRED_SYSCALL, GP, UD

_MASK32: Final = 0xFFFFFFFF
_NO_RF: Final = ~Flags.RF
_PE, _IOPL = int(Cr0.PE), int(Flags.IOPL)  # asked at each access to a port
_MASK64: Final = (1 << 64) - 1
_CODE64: Final = CODE | SegmentAttribute.L | SegmentAttribute.G
_DATA: Final = DATA | SegmentAttribute.B | SegmentAttribute.G


class Completion(enum.Enum):
    """How an instruction ended."""

    DONE = "RIP goes to the next instruction"
    JUMPED = "it has set RIP"
    WAITING = "not completed: RIP stays, and it is executed again"
    AGAIN = "one iteration of REP is done, more remain"
    SHADOWED = "it has set RIP, and an STI shadow covers what comes next"
    DELIVERED = "it was an event, which has been delivered"


class PortWaiting(Exception):
    """Raised by a claimed port whose access does not complete yet."""


def _syscall(cpu: Processor, instruction: Instruction) -> Completion:
    registers = cpu.registers
    if not registers.efer & Efer.SCE or registers.bits != 64:
        raise GuestFault(UD, None)
    if cpu.fred.enabled:
        return _event(cpu, instruction, FRED_SYSCALL, EventKind.SYSCALL)
    flags = registers.rflags & _NO_RF
    registers.gpr[Gpr.RCX] = registers.rip + instruction.length & _MASK64
    registers.gpr[Gpr.R11] = flags
    selector = cpu.msrs.read(Msr.STAR) >> STAR_SYSCALL_SHIFT & 0xFFFF
    registers.rip = cpu.msrs.read(Msr.LSTAR)
    code, stack = (
        Segment(selector & Selector.WITHOUT_RPL, 0, _MASK32, _CODE64),
        Segment(selector + 8 & 0xFFFF, 0, _MASK32, _DATA),
    )
    registers.enter(code, stack, flags & ~cpu.msrs.read(Msr.FMASK))
    return Completion.JUMPED


def _event(cpu: Processor, instruction: Instruction, vector: int, kind: EventKind) -> Completion:
    """An instruction that is an event: the frame's RIP is behind it."""
    start = cpu.registers.rip
    cpu.registers.rip = start + instruction.length & _MASK64
    cpu.deliver(Event(vector, kind, start=start))
    return Completion.DELIVERED


def _int1(cpu: Processor, instruction: Instruction) -> Completion:
    """INT1 (ICEBP): #DB without conditions in DR6 and without a look at the gate's DPL."""
    return _event(cpu, instruction, DB, EventKind.SOFTWARE)


def _eret(cpu: Processor, instruction: Instruction) -> Completion:
    """ERETS and ERETU."""
    returned = cpu.fred.erets() if instruction.name == "erets" else cpu.fred.eretu()
    if returned.unblocks_nmi:
        cpu.unblock_nmi()
    cpu.returned()
    if cpu.registers.resume_flag:
        cpu.resume()
        cpu.registers.clear_resume()
    return Completion.SHADOWED if returned.shadow else Completion.JUMPED


def _access_flag(cpu: Processor, instruction: Instruction) -> Completion:
    """CLAC and STAC, which come here while FRED is on."""
    registers = cpu.registers
    if registers.cpl:
        raise GuestFault(UD, None)
    flags = registers.rflags
    registers.rflags = flags | Flags.AC if instruction.name == "stac" else flags & ~Flags.AC
    return Completion.DONE


def _cpuid(cpu: Processor, _: Instruction) -> Completion:
    gpr = cpu.registers.gpr
    values = cpu.cpuid.leaf(gpr[Gpr.RAX] & _MASK32, gpr[Gpr.RCX] & _MASK32, cpu.apic.present)
    gpr[Gpr.RAX], gpr[Gpr.RBX], gpr[Gpr.RCX], gpr[Gpr.RDX] = values
    return Completion.DONE


def _rdtsc(cpu: Processor, instruction: Instruction) -> Completion:
    gpr = cpu.registers.gpr
    if cpu.registers.cpl and cpu.registers.cr[4] & Cr4.TSD:
        raise GuestFault(GP)
    value = cpu.msrs.tsc()
    gpr[Gpr.RAX], gpr[Gpr.RDX] = value & _MASK32, value >> 32
    if instruction.name == "rdtscp":
        gpr[Gpr.RCX] = cpu.msrs.read(Msr.TSC_AUX)
    return Completion.DONE


def _rdmsr(cpu: Processor, _: Instruction) -> Completion:
    gpr = cpu.registers.gpr
    value = cpu.msrs.read(gpr[Gpr.RCX] & _MASK32)
    gpr[Gpr.RAX], gpr[Gpr.RDX] = value & _MASK32, value >> 32
    return Completion.DONE


def _wrmsr(cpu: Processor, _: Instruction) -> Completion:
    gpr = cpu.registers.gpr
    cpu.msrs.write(gpr[Gpr.RCX] & _MASK32, (gpr[Gpr.RDX] & _MASK32) << 32 | gpr[Gpr.RAX] & _MASK32)
    return Completion.DONE


def _invlpg(cpu: Processor, instruction: Instruction) -> Completion:
    address = effective_address(instruction, cpu.registers)
    if is_canonical(address):
        cpu.mmu.invlpg(address)
        cpu.counts.invlpg += 1
    return Completion.DONE


def _invpcid(cpu: Processor, instruction: Instruction) -> Completion:
    registers = cpu.registers
    if registers.cpl:
        raise GuestFault(GP)
    kind = registers.gpr[GPR_NAMES[instruction.registers[0]][0]]
    descriptor = cpu.linear.read(
        effective_address(instruction, registers), INVPCID_BYTES, smap=not registers.rflags & Flags.AC
    )
    pcid, address = descriptor & Cr3.PCID, descriptor >> 64
    reserved = descriptor >> 12 & (1 << 52) - 1
    needs_pcide = kind in (Invpcid.ADDRESS, Invpcid.CONTEXT) and pcid and not registers.cr[4] & Cr4.PCIDE
    if kind > Invpcid.ALL or reserved or needs_pcide or (kind == Invpcid.ADDRESS and not is_canonical(address)):
        raise GuestFault(GP)
    invpcid(cpu.mmu, kind, pcid, address)
    cpu.counts.invpcid += 1
    return Completion.DONE


def _invlpgb(cpu: Processor, _: Instruction) -> Completion:
    """AMD APM volume 3: RAX address and validity bits, ECX count, EDX PCID and ASID."""
    registers = cpu.registers
    if registers.cpl or registers.gpr[Gpr.RCX] & INVLPGB_COUNT > INVLPGB_MAX:
        raise GuestFault(GP)
    rax, ecx = registers.gpr[Gpr.RAX], registers.gpr[Gpr.RCX] & _MASK32
    pcid = registers.gpr[Gpr.RDX] >> INVLPGB_PCID_SHIFT & INVLPGB_PCID
    cpu.broadcast.invlpgb(cpu.index, rax, ecx & INVLPGB_COUNT, pcid)
    return Completion.DONE


def _tlbsync(cpu: Processor, _: Instruction) -> Completion:
    if cpu.registers.cpl:
        raise GuestFault(GP)
    cpu.broadcast.tlbsync(cpu.index)
    return Completion.DONE


def _control_register(cpu: Processor, instruction: Instruction) -> Completion:
    """MOV to CR0, CR3, CR4, CR8; MOV from CR8; CLTS; LMSW."""
    registers = cpu.registers
    if instruction.name == "clts":
        load_cr0(cpu.mmu, registers.cr[0] & ~Cr0.TS)
        return Completion.DONE
    if instruction.name == "lmsw":
        word = _lmsw_operand(cpu, instruction)
        write_cr0(cpu, registers.cr[0] & ~LMSW_CLEARS | word & LMSW_LOADS)
        return Completion.DONE
    first, second = instruction.registers
    if (first if first.startswith("cr") else second) not in ("cr0", "cr2", "cr3", "cr4", "cr8"):
        raise GuestFault(UD, None)
    if second.startswith("cr"):
        registers.gpr[GPR_NAMES[first][0]] = cpu.apic.tpr >> CR8_SHIFT
        return Completion.DONE
    gpr, width = GPR_NAMES[second]
    value = registers.gpr[gpr] & (1 << 8 * width) - 1
    {"cr0": write_cr0, "cr3": write_cr3, "cr4": write_cr4, "cr8": _write_cr8}[first](cpu, value)
    cpu.counts.cr3_loads += first == "cr3"
    return Completion.DONE


def _lmsw_operand(cpu: Processor, instruction: Instruction) -> int:
    if instruction.memory is not None:
        return cpu.linear.read(effective_address(instruction, cpu.registers), 2)
    return cpu.registers.gpr[GPR_NAMES[instruction.registers[0]][0]] & 0xFFFF


def write_cr0(cpu: Processor, value: int) -> None:
    """MOV to CR0: checks, long-mode activation, and what it drops."""
    registers = cpu.registers
    paging, protected = value & Cr0.PG, value & Cr0.PE
    if value >> 32 or (paging and not protected) or (value & Cr0.NW and not value & Cr0.CD):
        raise GuestFault(GP)
    if not paging and registers.cr[4] & Cr4.PCIDE:
        raise GuestFault(GP)
    turned_on = paging and not registers.cr[0] & Cr0.PG
    if turned_on and registers.efer & Efer.LME:
        if not registers.cr[4] & Cr4.PAE or registers.segment(Seg.CS).flags & SegmentAttribute.L:
            raise GuestFault(GP)
        registers.efer = registers.efer | Efer.LMA
    elif turned_on:
        cpu.not_modelled("32-bit or PAE paging (CR0.PG set without EFER.LME)")
    elif not paging and registers.efer & Efer.LMA:
        if registers.bits == 64:
            raise GuestFault(GP)
        registers.efer = registers.efer & ~Efer.LMA
    load_cr0(cpu.mmu, value & CR0_DEFINED | Cr0.ET)
    cpu.watch_returns()


def write_cr3(cpu: Processor, value: int) -> None:
    """MOV to CR3."""
    no_flush = value & Cr3.NO_FLUSH and cpu.registers.cr[4] & Cr4.PCIDE
    if (value & ~Cr3.NO_FLUSH if no_flush else value) >> PHYSICAL_BITS:
        raise GuestFault(GP)
    load_cr3(cpu.mmu, value)


def write_cr4(cpu: Processor, value: int) -> None:
    """MOV to CR4."""
    registers = cpu.registers
    long_mode = registers.efer & Efer.LMA
    sets_pcide = value & Cr4.PCIDE and not registers.cr[4] & Cr4.PCIDE
    if value & ~CR4_DEFINED or (long_mode and not value & Cr4.PAE) or (value & Cr4.FRED and not long_mode):
        raise GuestFault(GP)
    if sets_pcide and (not long_mode or registers.cr[3] & Cr3.PCID):
        raise GuestFault(GP)
    switches_fred = (value ^ registers.cr[4]) & Cr4.FRED
    load_cr4(cpu.mmu, value)
    cpu.arm()
    if switches_fred:
        cpu.watch_returns()


def _write_cr8(cpu: Processor, value: int) -> None:
    if value >> 4:
        raise GuestFault(GP)
    cpu.apic.tpr = value << CR8_SHIFT


def _debug_register(cpu: Processor, instruction: Instruction) -> Completion:
    registers = cpu.registers
    first, second = instruction.registers
    number = int((first if first.startswith("dr") else second)[2:])
    if number > 7:
        raise GuestFault(UD, None)
    if number in (4, 5):
        if registers.cr[4] & Cr4.DE:
            raise GuestFault(UD, None)
        number += 2
    if registers.dr[7] & DR7_GD:
        registers.dr[6] |= DR6_BD
        raise GuestFault(DB, None, DR6_BD)
    if not first.startswith("dr"):
        registers.gpr[GPR_NAMES[first][0]] = registers.dr[number]
        return Completion.DONE
    value = registers.gpr[GPR_NAMES[second][0]]
    if number >= 6 and value >> 32:
        raise GuestFault(GP)
    if number == 6:
        value = value & ~DR6_ZERO | DR6_FIXED
    elif number == 7:
        value = value & DR7_WRITABLE | DR7_FIXED
    registers.dr[number] = value
    cpu.arm()
    return Completion.DONE


def _port(cpu: Processor, instruction: Instruction) -> Completion:
    """IN and OUT."""
    gpr = cpu.registers.gpr
    names = [name for name in instruction.registers if name != "dx"]
    _, width = {"al": (0, 1), "ax": (0, 2), "eax": (0, 4)}[names[0]]
    port = instruction.immediates[0] & 0xFF if instruction.immediates else gpr[Gpr.RDX] & 0xFFFF
    _check_port(cpu, port, width)
    mask = (1 << 8 * width) - 1
    try:
        if instruction.name == "out":
            cpu.port_write(port, width, gpr[Gpr.RAX] & mask)
        else:
            value = cpu.port_read(port, width) & mask
            gpr[Gpr.RAX] = value if width == 4 else gpr[Gpr.RAX] & ~mask | value
    except PortWaiting:
        return Completion.WAITING
    cpu.note_port(port, width)
    return Completion.DONE


def _check_port(cpu: Processor, port: int, width: int) -> None:
    """IOPL and the TSS's permission bitmap (SDM vol. 1, 18.5)."""
    registers = cpu.registers
    if not registers.cr[0] & _PE or registers.cpl <= (registers.rflags & _IOPL) >> IOPL_SHIFT:
        return
    tss = registers.segment(Seg.TR)
    if tss.limit < LEAST_LIMIT:
        raise GuestFault(GP)
    offset = cpu.linear.read(tss.base + IO_MAP_BASE, 2) + port // 8
    if offset + 1 > tss.limit:
        raise GuestFault(GP)
    if cpu.linear.read(tss.base + offset, 2) >> port % 8 & (1 << width) - 1:
        raise GuestFault(GP)


def _string_port(cpu: Processor, instruction: Instruction) -> Completion:
    """INS and OUTS, one iteration. What INS is to store to is looked at before the port is read."""
    registers = cpu.registers
    gpr = registers.gpr
    mask = (1 << instruction.address_bits) - 1
    width = {"b": 1, "w": 2, "d": 4}[instruction.name[-1]]
    port = gpr[Gpr.RDX] & 0xFFFF
    _check_port(cpu, port, width)
    if instruction.repeat and not gpr[Gpr.RCX] & mask:
        return Completion.DONE
    assert instruction.memory is not None
    index = Gpr.RDI if instruction.name.startswith("ins") else Gpr.RSI
    address = effective_address(instruction, registers)
    user, smap = registers.cpl == USER_RING, not registers.rflags & Flags.AC
    try:
        if index is Gpr.RDI:
            cpu.linear.probe(address, width, user, smap)
            cpu.linear.write(address, width, cpu.port_read(port, width) & (1 << 8 * width) - 1, user, smap)
        else:
            cpu.port_write(port, width, cpu.linear.read(address, width, user, smap))
    except PortWaiting:
        return Completion.WAITING
    cpu.note_port(port, width)
    step = -width if registers.rflags & Flags.DF else width
    _set(registers, index, gpr[index] + step, instruction.address_bits)
    if not instruction.repeat:
        return Completion.DONE
    _set(registers, Gpr.RCX, gpr[Gpr.RCX] - 1, instruction.address_bits)
    return Completion.AGAIN if gpr[Gpr.RCX] & mask else Completion.DONE


def _set(registers: Registers, index: Gpr, value: int, bits: int) -> None:
    """Write a register of `bits` bits: one of 32 clears the upper half, one of 16 keeps the rest (volume 1, 3.4.1.1)."""
    gpr = registers.gpr
    mask = (1 << bits) - 1
    gpr[index] = value & mask if bits > 16 else gpr[index] & ~mask | value & mask


def _pause(cpu: Processor, _: Instruction) -> Completion:
    cpu.yielded = True
    return Completion.DONE


def _undefined(_cpu: Processor, _: Instruction) -> Completion:
    raise GuestFault(UD, None)


def _rdpmc(_cpu: Processor, _: Instruction) -> Completion:
    raise GuestFault(GP)


HANDLERS: Final[dict[str, Callable[[Processor, Instruction], Completion]]] = {
    "syscall": _syscall,
    "cpuid": _cpuid,
    "rdtsc": _rdtsc,
    "rdtscp": _rdtsc,
    "rdpmc": _rdpmc,
    "rdmsr": _rdmsr,
    "wrmsr": _wrmsr,
    "invlpg": _invlpg,
    "invpcid": _invpcid,
    "invlpgb": _invlpgb,
    "tlbsync": _tlbsync,
    "clts": _control_register,
    "lmsw": _control_register,
    "in": _port,
    "out": _port,
    "pause": _pause,
    "int1": _int1,
    "erets": _eret,
    "eretu": _eret,
    "clac": _access_flag,
    "stac": _access_flag,
    "monitor": _undefined,
    "mwait": _undefined,
} | {f"{name}{suffix}": _string_port for name in ("ins", "outs") for suffix in "bwd"}


def handler_of(instruction: Instruction) -> Callable[[Processor, Instruction], Completion] | None:
    """Who carries out `instruction`, or None (#UD)."""
    if instruction.name == "mov" and len(instruction.registers) == 2:
        special = next((name for name in instruction.registers if name[:2] in ("cr", "dr")), "")
        return {"cr": _control_register, "dr": _debug_register}.get(special[:2])
    return HANDLERS.get(instruction.name)
