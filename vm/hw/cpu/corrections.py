"""What is done about an instruction that its check has held back: a fault, or the instruction with something put right.

SDM volume 2 for each. Which instruction it is for, and when its check holds it back, is in kstack.hw.cpu.checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kstack.hw.cpu.decode import Instruction, effective_address
from kstack.hw.cpu.encoding import Encoding, loaded_in_steps, stored_in_steps
from kstack.hw.cpu.instructions import Completion
from kstack.hw.cpu.linear import GuestFault
from kstack.hw.cpu.processor import Processor
from kstack.hw.cpu.string_compare import BYTES, compare, with_flags
from kstack.hw.engine import Registers
from kstack.x86.addresses import is_canonical
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.flags import CC_FLAGS, Flags
from kstack.x86.floating_point import FXSAVE_BYTES, FXSAVE_MXCSR, MXCSR_RESERVED
from kstack.x86.prefixes import OPERAND_SIZE, Rex, high_bit
from kstack.x86.registers import GPR_NAMES, Gpr, Seg
from kstack.x86.segments import (
    ACCESS_BYTE,
    ACCESS_SHIFT,
    DESCRIPTOR_BYTES,
    USER_RING,
    Segment,
    SegmentAttribute,
    Selector,
    system_base,
)
from kstack.x86.vectors import GP, SS


class Native(NamedTuple):
    """The instruction is to run in the engine after all.

    Attributes:
        after: what is put right when it has.
        restore: what is done behind it in any case, a fault's too.
    """

    after: Callable[[], None] | None = None
    restore: Callable[[], None] | None = None


_PRESENT_CODE: Final = SegmentAttribute.P | SegmentAttribute.S | SegmentAttribute.CODE
_PCMPESTRM, _PCMPESTRI, _PCMPISTRM = 0x60, 0x61, 0x62
EMMS: Final = 0x77
IRET: Final = 0xCF


class CarriedOut(Exception):
    """The instruction is carried out here: by what the exception is given, else by its handler (kstack.hw.cpu.instructions)."""

    def __init__(self, handler: Callable[[Processor, Instruction], Completion] | None = None) -> None:
        super().__init__()
        self.handler = handler


def carried_out(_cpu: Processor, _: Instruction, __: Encoding) -> Native:
    """It is not the engine's at all."""
    raise CarriedOut


def seen_behind(_cpu: Processor, _: Instruction, __: Encoding) -> Native:
    """It runs by itself, so that what it has set up is looked at (kstack.hw.cpu.declared) before it is undone."""
    return Native()


def string_flags(cpu: Processor, _: Instruction, found: Encoding) -> Native:
    """Flags of before as long as it is not at its end, as the engine keeps them where nothing stops it each time."""
    registers = cpu.registers
    at, before = registers.rip, registers.rflags & ~Flags.RF

    def restore() -> None:
        if registers.rip == at and registers.gpr[Gpr.RCX] & (1 << found.address_bits) - 1:
            registers.rflags = before

    return Native(restore=restore)


def _sse_can_run(cpu: Processor) -> bool:
    """Whether neither #UD nor #NM comes first."""
    registers = cpu.registers
    return not registers.cr[0] & (Cr0.EM | Cr0.TS) and bool(registers.cr[4] & Cr4.OSFXSR)


def _can_run(cpu: Processor, found: Encoding) -> bool:
    """The same of what is looked at before it loads or stores in steps, SGDT and SIDT among them."""
    if found.map == "" or (found.opcode == 0xAE and found.map == "0f"):
        return not cpu.registers.cr[0] & (Cr0.EM | Cr0.TS)
    return found.opcode == 0x01 or _sse_can_run(cpu)


def misaligned(cpu: Processor, _: Instruction, __: Encoding) -> Native:
    """#GP(0), if nothing else comes first (volume 1, 10.6)."""
    if not _sse_can_run(cpu):
        return Native()
    raise GuestFault(GP)


def _loads(cpu: Processor, address: int, size: int) -> int:
    registers = cpu.registers
    return cpu.linear.read(address, size, user=registers.cpl == USER_RING, smap=not registers.rflags & Flags.AC)


def stores_whole(cpu: Processor, instruction: Instruction, found: Encoding) -> Native:
    """Both pages are looked at before anything is stored."""
    address, size = effective_address(instruction, cpu.registers), stored_in_steps(found)
    if _can_run(cpu, found) and (size < FXSAVE_BYTES or address % 16 == 0):  # FXSAVE is aligned first
        _probe(cpu, address, size)
    return Native()


def loads_whole(cpu: Processor, instruction: Instruction, found: Encoding) -> Native:
    """As `stores_whole`: QEMU loads an x87 number's last two bytes first, and writes a register of SSE by halves."""
    if _can_run(cpu, found):
        _looks_at(cpu, effective_address(instruction, cpu.registers), loaded_in_steps(found))
    return Native()


def _looks_at(cpu: Processor, address: int, size: int) -> None:
    """Whether `size` bytes can be loaded. Not while exploring, where it would be an access of its own that nobody makes."""
    registers = cpu.registers
    if cpu.mmu.translator is None:
        user, smap = registers.cpl == USER_RING, not registers.rflags & Flags.AC
        cpu.linear.probe(address, size, user, smap, store=False)


def _probe(cpu: Processor, address: int, size: int) -> None:
    registers = cpu.registers
    cpu.linear.probe(address, size, user=registers.cpl == USER_RING, smap=not registers.rflags & Flags.AC)


def _probe_stack(cpu: Processor, found: Encoding, top: int, size: int) -> None:
    """The same of `size` bytes from the stack pointer `top` upwards."""
    base = 0 if found.bits == 64 else cpu.registers.segment(Seg.SS).base
    if found.bits == 64 and not is_canonical(top):
        raise GuestFault(SS)
    _probe(cpu, base + top, size)


def cmpxchg(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """The accumulator is written only if it differs, the destination only if it does not (as processors do it)."""
    gpr = cpu.registers.gpr
    target = None if instruction.memory is not None else GPR_NAMES[instruction.registers[0]][0]
    accumulator, before = gpr[Gpr.RAX], 0 if target is None else gpr[target]

    def after() -> None:
        if cpu.registers.rflags & Flags.ZF:
            if target is not Gpr.RAX:
                gpr[Gpr.RAX] = accumulator
        elif target is not None:
            gpr[target] = before

    return Native(after)


def clflush(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """It is a load of a byte, as far as faults and Accessed go."""
    _loads(cpu, effective_address(instruction, cpu.registers), 1)
    return Native()


def ldmxcsr(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """#GP(0) for reserved bits (volume 1, 10.2.3)."""
    if _sse_can_run(cpu) and _loads(cpu, effective_address(instruction, cpu.registers), 4) & MXCSR_RESERVED:
        raise GuestFault(GP)
    return Native()


def fxrstor(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """The same for those of the image."""
    address = effective_address(instruction, cpu.registers)
    if not cpu.registers.cr[0] & (Cr0.EM | Cr0.TS) and address % 16 == 0:
        _looks_at(cpu, address, FXSAVE_BYTES)
        if _loads(cpu, address + FXSAVE_MXCSR, 4) & MXCSR_RESERVED:
            raise GuestFault(GP)
    return Native()


def far_stack_segment(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """LSS, as MOV SS."""
    registers = cpu.registers
    if registers.bits == 64:
        width = GPR_NAMES[instruction.registers[0]][1]
        selector = _loads(cpu, effective_address(instruction, registers) + width, 2)
        if not selector & Selector.WITHOUT_RPL and selector & Selector.RPL != registers.cpl:
            raise GuestFault(GP)
    return Native()


def descriptor_table(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """#GP(0) for a base that is not canonical."""
    registers = cpu.registers
    if registers.bits == 64 and not registers.cpl:
        value = _loads(cpu, effective_address(instruction, registers), 10)
        if not is_canonical(value >> 16):
            raise GuestFault(GP)
    return Native()


def _selector(cpu: Processor, instruction: Instruction) -> int:
    if instruction.memory is not None:
        return _loads(cpu, effective_address(instruction, cpu.registers), 2)
    return cpu.registers.gpr[GPR_NAMES[instruction.registers[-1]][0]] & 0xFFFF


def system_segment(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """LTR of a null selector, and a base of LTR or LLDT that is not canonical."""
    registers = cpu.registers
    if registers.cpl or not registers.cr[0] & Cr0.PE:
        return Native()
    selector = _selector(cpu, instruction)
    if not selector & Selector.WITHOUT_RPL:
        if instruction.name == "ltr":
            raise GuestFault(GP)
        return Native()
    table = registers.segment(Seg.GDTR)
    at = selector & Selector.INDEX
    if registers.efer & Efer.LMA and not selector & Selector.TI and at + 2 * DESCRIPTOR_BYTES - 1 <= table.limit:
        low, high = cpu.linear.read(table.base + at, 8, smap=False), cpu.linear.read(table.base + at + 8, 8, smap=False)
        if not is_canonical(system_base(low, high)):
            raise GuestFault(GP, selector & Selector.WITHOUT_RPL)
    return Native()


def segment_base(cpu: Processor, _: Instruction, __: Encoding) -> Native:
    """#GP(0) for a base that is not canonical (WRFSBASE, WRGSBASE)."""
    if not cpu.registers.cr[4] & Cr4.FSGSBASE:
        return Native()
    raise GuestFault(GP)


def stack_segment(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """A null selector in SS, which 64-bit code may have below CPL 3, has the RPL of the CPL."""
    registers = cpu.registers
    if registers.bits == 64:
        selector = _selector(cpu, instruction)
        if not selector & Selector.WITHOUT_RPL and selector & Selector.RPL != registers.cpl:
            raise GuestFault(GP)
    return Native()


def far_return(cpu: Processor, _: Instruction, found: Encoding) -> Native:
    """A return to an outer ring takes selectors away, and leaves the bases of FS and GS (volume 2, IRET).

    QEMU reads the frame with the rights of ring 0, in ring 3 too; and it returns to virtual-8086 mode from IA-32e mode, which
    has none.
    """
    registers = cpu.registers
    base = 0 if found.bits == 64 else registers.segment(Seg.SS).base
    width = _operand_bytes(found)
    top = registers.gpr[Gpr.RSP] & (1 << registers.stack_bits) - 1
    may_set_vm = found.opcode == IRET and width == 4 and registers.efer & Efer.LMA and not registers.cpl
    if may_set_vm and _loads(cpu, base + top + 2 * width, width) & Flags.VM:
        cpu.not_modelled("IRET with VM set in IA-32e mode, which has no virtual-8086 mode")
    if registers.cpl == USER_RING:
        words = 2 if found.opcode != IRET else 5 if found.bits == 64 else 3
        for number in range(words):
            _loads(cpu, base + top + width * number, width)
    return Native(keep_bases(registers))


def far_call(cpu: Processor, instruction: Instruction, found: Encoding) -> Native:
    """Both words are looked at before one is pushed, with the rights of the ring that the program is in.

    That comes behind what the descriptor is looked at for, and a call by a gate may push elsewhere.
    """
    registers = cpu.registers
    width = _operand_bytes(found)
    top = registers.gpr[Gpr.RSP] - 2 * width & (1 << registers.stack_bits) - 1
    if registers.cr[0] & Cr0.PE and not registers.system_flags & Flags.VM:
        if instruction.memory is None:
            selector = instruction.immediates[0]
        else:
            selector = _loads(cpu, effective_address(instruction, registers) + width, 2)
        if _may_call(cpu, selector & 0xFFFF):
            _probe_stack(cpu, found, top, 2 * width)
    return Native()


def _may_call(cpu: Processor, selector: int) -> bool:
    """Whether a far CALL may go to a selector's segment, without a gate (volume 2, CALL)."""
    registers = cpu.registers
    table, at = registers.segment(Seg.LDTR if selector & Selector.TI else Seg.GDTR), selector & Selector.INDEX
    if not selector & Selector.WITHOUT_RPL or at + DESCRIPTOR_BYTES - 1 > table.limit:
        return False
    flags = cpu.linear.read(table.base + at + ACCESS_BYTE, 1, smap=False) << ACCESS_SHIFT
    target, cpl = Segment(selector, 0, 0, flags), registers.cpl
    if flags & _PRESENT_CODE != _PRESENT_CODE:
        return False
    return (
        target.dpl <= cpl
        if flags & SegmentAttribute.CONFORMING
        else target.dpl == cpl and selector & Selector.RPL <= cpl
    )


def _operand_bytes(found: Encoding) -> int:
    """Of far transfers, whose operands are of 32 bits in 64-bit code, too."""
    if found.rex & Rex.W:
        return 8
    return 2 if (OPERAND_SIZE in found.prefixes) != (found.bits == 16) else 4


def keep_bases(registers: Registers) -> Callable[[], None]:
    """What puts the bases of FS and GS back where a return has taken their selectors away."""
    before = [(which, registers.segment(which)) for which in (Seg.FS, Seg.GS)]

    def after() -> None:
        for which, segment in before:
            if segment.selector & Selector.WITHOUT_RPL and not registers.segment(which).selector & Selector.WITHOUT_RPL:
                registers.set_base(which, segment.base)

    return after


def lock_neg(cpu: Processor, instruction: Instruction, _: Encoding) -> Native:
    """QEMU takes the flags of the old value for those of the new one."""
    registers = cpu.registers
    assert instruction.memory is not None
    width = instruction.memory.width
    value = -_loads(cpu, effective_address(instruction, registers), width) & (1 << 8 * width) - 1

    def after() -> None:
        sign = 1 << 8 * width - 1
        flags = registers.rflags & ~CC_FLAGS
        flags |= Flags.CF if value else Flags.ZF
        flags |= (Flags.SF if value & sign else 0) | (Flags.OF if value == sign else 0)
        flags |= (Flags.AF if value & 0xF else 0) | (0 if (value & 0xFF).bit_count() & 1 else Flags.PF)
        registers.rflags = flags

    return Native(after)


def sysret(cpu: Processor, _: Instruction, found: Encoding) -> Native:
    """A return address that is not canonical faults in ring 0; VM and RF are not loaded (volume 2, SYSRET)."""
    registers = cpu.registers
    if registers.cpl or registers.bits != 64 or not registers.efer & Efer.SCE:
        return Native()
    if found.rex & Rex.W and not is_canonical(registers.gpr[Gpr.RCX]):
        raise GuestFault(GP)
    before = registers.gpr[Gpr.R11]
    registers.gpr[Gpr.R11] = before & ~(Flags.VM | Flags.RF)

    def restore() -> None:
        registers.gpr[Gpr.R11] = before

    return Native(restore=restore)


def horizontal(cpu: Processor, instruction: Instruction, found: Encoding) -> Native:
    """PHADDW and kin of a register with itself: QEMU has overwritten the source by the time it reads it."""
    if not _sse_can_run(cpu):
        return Native()
    is_mmx = found.mandatory != 0x66
    number = found.modrm & 7 | (0 if is_mmx else high_bit(found.rex, Rex.B))
    registers = cpu.registers
    size = 2 if found.opcode in (0x01, 0x03, 0x05, 0x07) else 4
    sign = -1 if found.opcode > 0x03 else 1
    whole = registers.mm(number) if is_mmx else registers.xmm(number)
    parts = [int.from_bytes(whole[at : at + size], "little", signed=True) for at in range(0, len(whole), size)]
    sums = [one + sign * other for one, other in zip(parts[::2], parts[1::2], strict=True)]
    if found.opcode in (0x03, 0x07):
        sums = [max(-0x8000, min(0x7FFF, value)) for value in sums]
    half = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in sums)

    def after() -> None:
        if is_mmx:
            registers.enter_mmx()
            registers.set_mm(number, half * 2)
        else:
            registers.set_xmm(number, half * 2)

    return Native(after)


def compares_strings(cpu: Processor, instruction: Instruction, found: Encoding) -> Native:
    """All of it is done here, unless something else comes first."""
    if not _sse_can_run(cpu):
        return Native()
    if instruction.memory is not None and cpu.mmu.translator is not None:
        cpu.mmu.translator.refuse(f"loads by {instruction.name}, which is carried out beside the engine")
    gpr, explicit = cpu.registers.gpr, found.opcode in (_PCMPESTRM, _PCMPESTRI)

    def carry_out(_cpu: Processor, _: Instruction) -> Completion:
        registers = cpu.registers
        first = registers.xmm(found.reg | high_bit(found.rex, Rex.R))
        if instruction.memory is not None:
            second = _loads(cpu, effective_address(instruction, registers), BYTES).to_bytes(BYTES, "little")
        else:
            second = registers.xmm(found.modrm & 7 | high_bit(found.rex, Rex.B))
        bits = 64 if found.rex & Rex.W else 32
        lengths = [_signed(gpr[which], bits) if explicit else None for which in (Gpr.RAX, Gpr.RDX)]
        compared = compare(instruction.immediates[0], first, second, *lengths)
        if found.opcode in (_PCMPESTRM, _PCMPISTRM):
            registers.set_xmm(0, compared.mask)
        else:
            gpr[Gpr.RCX] = compared.place
        registers.rflags = with_flags(registers.rflags, compared)
        return Completion.DONE

    raise CarriedOut(carry_out)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def enters_mmx(cpu: Processor, _: Instruction, found: Encoding) -> Native:
    """SSSE3's instructions on MMX registers and EMMS leave TOP where it is, in QEMU."""
    return Native(lambda: cpu.registers.enter_mmx(found.opcode != EMMS))


def enter(cpu: Processor, instruction: Instruction, found: Encoding) -> Native:
    """The last word that the new stack pointer could take is looked at before anything is pushed."""
    registers = cpu.registers
    size, level = instruction.immediates
    short = (OPERAND_SIZE in found.prefixes) != (found.bits == 16)
    width = 2 if short else 8 if found.bits == 64 else 4
    top = registers.gpr[Gpr.RSP] - width * (1 + level % 32) - (size & 0xFFFF) & (1 << registers.stack_bits) - 1
    _probe_stack(cpu, found, top, width)
    return Native()
