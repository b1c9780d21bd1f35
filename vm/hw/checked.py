"""Instructions that the engine executes, but not always as the manual says: each is looked at as it is translated.

An instruction that a `Rule` here is for is given a check (vm.hw.engine.checks), which leaves the engine before it has any
effect, always or where the engine would do wrong; what happens then is the rule's `act`: a fault, or the instruction
carried out here, or let run after all, with something put right behind it. SDM volume 2 for each.

The engine's decoder takes more than the manual has: what CPUID does not announce, LOCK where nothing can be locked. These are
#UD by rules of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from vm.hw.decode import GPR_NAMES, Instruction, decode, effective_address
from vm.hw.engine import CC_FLAGS, Check, CheckKind, Flags, Gpr, Look, Registers, Seg
from vm.hw.engine.checks import ASK, MAP_0F, MAP_0F3A, MAP_0F38, PREFIX, REX
from vm.hw.linear import GuestFault
from vm.hw.mmu import Cr0, Cr4, Efer
from vm.hw.paging import is_canonical

if TYPE_CHECKING:
    from vm.hw.cpu import Cpu

SS, GP = 12, 13
_MASK32: Final = 0xFFFFFFFF
_CR4_OSFXSR: Final = 1 << 9
_MXCSR_RESERVED: Final = 0xFFFF0000
_MEMORY: Final = 3  # the `mod` of a register operand


class Encoding(NamedTuple):
    """How an instruction is encoded (SDM volume 2, chapter 2).

    Attributes:
        bits: of the code it stands in: 16, 32 or 64.
        prefixes: legacy ones, in order.
        rex: the REX prefix, 0 if there is none.
        map: "", "0f", "0f38", "0f3a", or "vex".
        opcode: its last byte.
        modrm: the byte behind the opcode, whether or not it is a ModRM.
    """

    bits: int
    prefixes: bytes
    rex: int
    map: str
    opcode: int
    modrm: int

    @property
    def locked(self) -> bool:
        """LOCK is among the prefixes."""
        return 0xF0 in self.prefixes

    @property
    def memory(self) -> bool:
        """The ModRM names memory."""
        return self.modrm >> 6 != _MEMORY

    @property
    def reg(self) -> int:
        """The ModRM's middle field."""
        return self.modrm >> 3 & 7

    @property
    def mandatory(self) -> int:
        """The prefix that selects an opcode of SSE: F3 or F2, the last of them, else 66, else 0."""
        found = [byte for byte in self.prefixes if byte in (0xF2, 0xF3)]
        return found[-1] if found else 0x66 if 0x66 in self.prefixes else 0


class Native(NamedTuple):
    """The instruction is to run in the engine after all.

    Attributes:
        after: what is put right when it has.
        restore: what is done behind it in any case, a fault's too.
    """

    after: Callable[[], None] | None = None
    restore: Callable[[], None] | None = None


class Rule(NamedTuple):
    """What is done about an instruction that the engine takes for another.

    Attributes:
        name: what is wrong.
        kind: when its check leaves the engine.
        applies: to which instructions, by encoding.
        act: what happens then: it raises GuestFault, lets the instruction run, or raises CarriedOut; None for #UD.
        registers: those that HIGH and NOT_CANONICAL look at, by encoding; of the others the operand is looked at.
        size: bytes of the operand, by encoding, for CROSSES.
    """

    name: str
    kind: CheckKind
    applies: Callable[[Encoding], bool]
    act: Callable[[Cpu, Instruction, Encoding], Native] | None
    registers: Callable[[Encoding], tuple[int, int]] | None = None
    size: Callable[[Encoding], int] | None = None


_PREFIXES: Final = frozenset(b"\x66\x67\xf2\xf3\xf0\x2e\x36\x3e\x26\x64\x65")


@lru_cache(maxsize=4096)
def encoding_of(code: bytes, bits: int) -> Encoding | None:
    """How the instruction at the start of `code` is encoded; None if there is not enough of it."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    prefixes, rex = code[:at], 0
    while bits == 64 and at < len(code) and code[at] >> 4 == 4:
        rex, at = code[at], at + 1
    rest, name = code[at : at + 4], ""
    if rest[:1] == b"\x0f":
        name = {b"\x38": "0f38", b"\x3a": "0f3a"}.get(rest[1:2], "0f")
        rest = rest[len(name) // 2 :]
    elif rest[:1] in (b"\xc4", b"\xc5") and len(rest) > 1 and (bits == 64 or (bits == 32 and rest[1] >> 6 == _MEMORY)):
        name = "vex"
    if not rest:
        return None
    return Encoding(bits, prefixes, rex, name, rest[0], rest[1] if len(rest) > 1 else 0)


# --- what applies to what

_LOCKED: Final = {
    "": {opcode: range(8) for first in range(0x00, 0x38, 8) for opcode in (first, first + 1)}
    | {0x80: range(7), 0x81: range(7), 0x82: range(7), 0x83: range(7), 0x86: range(8), 0x87: range(8)}
    | {0xF6: range(2, 4), 0xF7: range(2, 4), 0xFE: range(2), 0xFF: range(2)},
    "0f": {0xAB: range(8), 0xB3: range(8), 0xBB: range(8), 0xB0: range(8), 0xB1: range(8), 0xC0: range(8)}
    | {0xC1: range(8), 0xBA: range(5, 8), 0xC7: range(1, 2)},
}
"""What LOCK may stand before (volume 2, LOCK): opcodes, and of groups the members; with a memory operand."""


def _cannot_be_locked(found: Encoding) -> bool:
    return found.locked and not (found.memory and found.reg in _LOCKED.get(found.map, {}).get(found.opcode, ()))


_ALIGNED_0F: Final = (
    frozenset((0x28, 0x29, 0x2B, 0x14, 0x15, 0x51, 0x52, 0x53, 0x5B, 0x5C, 0x5D, 0x5E, 0x5F, 0xC2, 0xC6, 0xE7, 0xD0))
    | frozenset(range(0x54, 0x5A))
    | frozenset((0x60, 0x61, 0x62, *range(0x63, 0x6E), 0x6F, 0x70, 0x74, 0x75, 0x76, 0x7C, 0x7D, 0x7F))
    | frozenset((0xD1, 0xD2, 0xD3, 0xD4, 0xD5, *range(0xD8, 0xE0), *range(0xE0, 0xE6), *range(0xE8, 0xF0)))
    | frozenset((*range(0xF1, 0xF7), *range(0xF8, 0xFF)))
)
_SCALAR: Final = frozenset((0x51, 0x52, 0x53, *range(0x58, 0x60), 0xC2))  # with F2 or F3 one number of 4 or 8 bytes
_ALIGNED_WITH: Final = {  # mandatory prefixes with which an opcode has an aligned operand of 16 bytes, where not by rule
    0x12: (0xF3,),
    0x16: (0xF3,),
    0x5A: (0x66,),
    0x5B: (0, 0x66, 0xF3),
    0x5C: (0, 0x66),
    0x52: (0,),
    0x53: (0,),
    0x6F: (0x66,),
    0x70: (0x66, 0xF2, 0xF3),
    0x7F: (0x66,),
    0x7C: (0x66, 0xF2),
    0x7D: (0x66, 0xF2),
    0xD0: (0x66, 0xF2),
    0xE6: (0x66, 0xF2),
}
_UNALIGNED_38: Final = frozenset((*range(0x20, 0x26), *range(0x30, 0x36), *range(0x80, 0x83), *range(0xF0, 0x100)))
"""PMOVSX, PMOVZX; INVEPT, INVVPID, INVPCID; CRC32, MOVBE."""
_ALIGNED_3A: Final = frozenset((0x08, 0x09, 0x0C, 0x0D, 0x0E, 0x0F, 0x40, 0x41, 0x42, 0x44, 0xCC, 0xDF))


def _is_aligned(found: Encoding) -> bool:
    """Whether a legacy SSE instruction has an operand of 16 bytes in memory that must be aligned (volume 1, 10.6 and 12.6)."""
    if not found.memory:
        return False
    prefix = found.mandatory
    if found.map == "0f38":
        return found.opcode not in _UNALIGNED_38 and (prefix == 0x66 or found.opcode in range(0xC8, 0xCE))
    if found.map == "0f3a":
        return found.opcode in _ALIGNED_3A and (prefix == 0x66 or found.opcode == 0xCC)
    if found.map != "0f":
        return False
    if found.opcode in _ALIGNED_WITH:
        return prefix in _ALIGNED_WITH[found.opcode]
    if found.opcode not in _ALIGNED_0F:
        return False
    if found.opcode in _SCALAR or found.opcode < 0x60 or found.opcode == 0xC6:
        return prefix in (0, 0x66)
    return prefix == 0x66  # without it these are MMX


def _is_movups_store(found: Encoding) -> bool:
    return (
        found.map == "0f"
        and found.memory
        and (found.opcode, found.mandatory) in ((0x11, 0), (0x11, 0x66), (0x7F, 0xF3))
    )


_X87_STORES: Final = {(0xDB, 7): 10, (0xDF, 6): 10, (0xD9, 6): 28, (0xDD, 6): 108}  # FSTP m80, FBSTP, FNSTENV, FNSAVE


def _stored(found: Encoding) -> int:
    """Bytes that an instruction stores in several steps, 0 if it does not."""
    if not found.memory:
        return 0
    if found.map == "":
        return _X87_STORES.get((found.opcode, found.reg), 0)
    if _is_movups_store(found):
        return 16
    if found.map == "0f" and not found.mandatory:
        if found.opcode == 0xAE and found.reg == 0:
            return 512
        if found.opcode == 0x01 and found.reg in (0, 1):
            return 10 if found.bits == 64 else 6
    return 0


def _group(name: str, opcode: int, *members: int, memory: bool | None = None) -> Callable[[Encoding], bool]:
    """An opcode of a group (volume 2, table A-6)."""

    def applies(found: Encoding) -> bool:
        return (
            found.map == name
            and found.opcode == opcode
            and found.reg in (members or range(8))
            and memory in (None, found.memory)
        )

    return applies


def _is_base_write(found: Encoding) -> bool:
    return _group("0f", 0xAE, 2, 3, memory=False)(found) and found.mandatory == 0xF3 and bool(found.rex & 8)


def _is_cmpxchg32(found: Encoding) -> bool:
    is_32 = found.bits == 64 and not found.rex & 8 and 0x66 not in found.prefixes
    return found.map == "0f" and found.opcode == 0xB1 and is_32


def _high_registers(found: Encoding) -> tuple[int, int]:
    target = Gpr.RAX if found.memory else Gpr(found.modrm & 7 | (found.rex & 1) << 3)
    return Gpr.RAX, target


def _base_register(found: Encoding) -> tuple[int, int]:
    register = found.modrm & 7 | (found.rex & 1) << 3
    return register, register


# --- what happens then


class CarriedOut(Exception):
    """The instruction is carried out by its handler (vm.hw.instructions)."""


def _carried_out(_cpu: Cpu, _: Instruction, __: Encoding) -> Native:
    raise CarriedOut


def _sse_can_run(cpu: Cpu) -> bool:
    """Whether neither #UD nor #NM comes first."""
    registers = cpu.registers
    return not registers.cr[0] & (Cr0.EM | Cr0.TS) and bool(registers.cr[4] & _CR4_OSFXSR)


def _misaligned(cpu: Cpu, _: Instruction, __: Encoding) -> Native:
    if not _sse_can_run(cpu):
        return Native()
    raise GuestFault(GP)


def _loads(cpu: Cpu, address: int, size: int) -> int:
    registers = cpu.registers
    return cpu.linear.read(address, size, user=registers.cpl == 3, smap=not registers.rflags & Flags.AC)


def _stores_whole(cpu: Cpu, instruction: Instruction, found: Encoding) -> Native:
    """Both pages are looked at before anything is stored."""
    address, size = effective_address(instruction, cpu.registers), _stored(found)
    if size < 512 or address % 16 == 0:  # FXSAVE is aligned first
        _probe(cpu, address, size)
    return Native()


def _loads_whole(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    """As `_stores_whole`: QEMU loads the last two bytes first."""
    _loads(cpu, effective_address(instruction, cpu.registers), _TEN)
    return Native()


def _probe(cpu: Cpu, address: int, size: int) -> None:
    registers = cpu.registers
    cpu.linear.probe(address, size, user=registers.cpl == 3, smap=not registers.rflags & Flags.AC)


def _probe_stack(cpu: Cpu, found: Encoding, top: int, size: int) -> None:
    """The same of `size` bytes from the stack pointer `top` upwards."""
    base = 0 if found.bits == 64 else cpu.registers.segment(Seg.SS).base
    if found.bits == 64 and not is_canonical(top):
        raise GuestFault(SS)
    _probe(cpu, base + top, size)


def _cmpxchg(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
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


def _clflush(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    """It is a load of a byte, as far as faults and Accessed go."""
    _loads(cpu, effective_address(instruction, cpu.registers), 1)
    return Native()


def _ldmxcsr(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    if _sse_can_run(cpu) and _loads(cpu, effective_address(instruction, cpu.registers), 4) & _MXCSR_RESERVED:
        raise GuestFault(GP)
    return Native()


def _fxrstor(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    address = effective_address(instruction, cpu.registers)
    if (
        not cpu.registers.cr[0] & (Cr0.EM | Cr0.TS)
        and address % 16 == 0
        and _loads(cpu, address + 24, 4) & _MXCSR_RESERVED
    ):
        raise GuestFault(GP)
    return Native()


def _far_stack_segment(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    """LSS, as MOV SS."""
    registers = cpu.registers
    if registers.bits == 64:
        width = GPR_NAMES[instruction.registers[0]][1]
        selector = _loads(cpu, effective_address(instruction, registers) + width, 2)
        if not selector & ~3 and selector & 3 != registers.cpl:
            raise GuestFault(GP)
    return Native()


def _descriptor_table(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    registers = cpu.registers
    if registers.bits == 64 and not registers.cpl:
        value = _loads(cpu, effective_address(instruction, registers), 10)
        if not is_canonical(value >> 16):
            raise GuestFault(GP)
    return Native()


def _selector(cpu: Cpu, instruction: Instruction) -> int:
    if instruction.memory is not None:
        return _loads(cpu, effective_address(instruction, cpu.registers), 2)
    return cpu.registers.gpr[GPR_NAMES[instruction.registers[-1]][0]] & 0xFFFF


def _system_segment(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    """LTR of a null selector, and a base of LTR or LLDT that is not canonical."""
    registers = cpu.registers
    if registers.cpl or not registers.cr[0] & Cr0.PE:
        return Native()
    selector = _selector(cpu, instruction)
    if not selector & ~3:
        if instruction.name == "ltr":
            raise GuestFault(GP)
        return Native()
    table = registers.segment(Seg.GDTR)
    at = selector & ~7
    if registers.efer & Efer.LMA and not selector & 4 and at + 15 <= table.limit:
        low, high = cpu.linear.read(table.base + at, 8, smap=False), cpu.linear.read(table.base + at + 8, 8, smap=False)
        base = low >> 16 & 0xFFFFFF | low >> 56 << 24 | (high & _MASK32) << 32
        if not is_canonical(base):
            raise GuestFault(GP, selector & ~3)
    return Native()


def _segment_base(cpu: Cpu, _: Instruction, __: Encoding) -> Native:
    if not cpu.registers.cr[4] & Cr4.FSGSBASE:
        return Native()
    raise GuestFault(GP)


def _stack_segment(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    """A null selector in SS, which 64-bit code may have below CPL 3, has the RPL of the CPL."""
    registers = cpu.registers
    if registers.bits == 64:
        selector = _selector(cpu, instruction)
        if not selector & ~3 and selector & 3 != registers.cpl:
            raise GuestFault(GP)
    return Native()


def _far_return(cpu: Cpu, _: Instruction, found: Encoding) -> Native:
    """A return to an outer ring takes selectors away, and leaves the bases of FS and GS (volume 2, IRET).

    QEMU reads the frame with the rights of ring 0, in ring 3 too.
    """
    registers = cpu.registers
    if registers.cpl == 3:
        words = 2 if found.opcode != _IRET else 5 if found.bits == 64 else 3
        base = 0 if found.bits == 64 else registers.segment(Seg.SS).base
        width = _operand_bytes(found)
        top = registers.gpr[Gpr.RSP] & (1 << registers.stack_bits) - 1
        for number in range(words):
            _loads(cpu, base + top + width * number, width)
    return Native(keep_bases(registers))


def _far_call(cpu: Cpu, _: Instruction, found: Encoding) -> Native:
    """Both words are looked at before one is pushed, with the rights of the ring that the program is in."""
    registers = cpu.registers
    width = _operand_bytes(found)
    top = registers.gpr[Gpr.RSP] - 2 * width & (1 << registers.stack_bits) - 1
    if registers.cr[0] & Cr0.PE:
        _probe_stack(cpu, found, top, 2 * width)
    return Native()


def _operand_bytes(found: Encoding) -> int:
    """Of far transfers, whose operands are of 32 bits in 64-bit code, too."""
    if found.rex & 8:
        return 8
    return 2 if (0x66 in found.prefixes) != (found.bits == 16) else 4


def keep_bases(registers: Registers) -> Callable[[], None]:
    """What puts the bases of FS and GS back where a return has taken their selectors away."""
    before = [(which, registers.segment(which)) for which in (Seg.FS, Seg.GS)]

    def after() -> None:
        for which, segment in before:
            if segment.selector & ~3 and not registers.segment(which).selector & ~3:
                registers.set_base(which, segment.base)

    return after


def _lock_neg(cpu: Cpu, instruction: Instruction, _: Encoding) -> Native:
    """QEMU takes the flags of the old value for those of the new one."""
    registers = cpu.registers
    assert instruction.memory is not None
    width = instruction.memory.width
    value = -_loads(cpu, effective_address(instruction, registers), width) & (1 << 8 * width) - 1

    def after() -> None:
        sign = 1 << 8 * width - 1
        flags = registers.rflags & ~int(CC_FLAGS)
        flags |= Flags.CF if value else Flags.ZF
        flags |= (Flags.SF if value & sign else 0) | (Flags.OF if value == sign else 0)
        flags |= (Flags.AF if value & 0xF else 0) | (0 if (value & 0xFF).bit_count() & 1 else Flags.PF)
        registers.rflags = flags

    return Native(after)


def _sysret(cpu: Cpu, _: Instruction, __: Encoding) -> Native:
    """A return address that is not canonical faults in ring 0 (volume 2, SYSRET)."""
    registers = cpu.registers
    if registers.cpl or registers.bits != 64 or not registers.efer & Efer.SCE:
        return Native()
    raise GuestFault(GP)


def _horizontal(cpu: Cpu, instruction: Instruction, found: Encoding) -> Native:
    """PHADDW and kin of a register with itself: QEMU has overwritten the source by the time it reads it."""
    if not _sse_can_run(cpu):
        return Native()
    is_mmx = found.mandatory != 0x66
    number = found.modrm & 7 | (0 if is_mmx else (found.rex & 1) << 3)
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


def _string_lengths(cpu: Cpu, _: Instruction, found: Encoding) -> Native:
    """QEMU takes long lengths for short or negative ones, and then reads far outside of the registers."""
    gpr = cpu.registers.gpr
    bits = 64 if found.rex & 8 else 32
    before = gpr[Gpr.RAX], gpr[Gpr.RDX]
    for register in (Gpr.RAX, Gpr.RDX):
        length = gpr[register] & (1 << bits) - 1
        if min(length, (1 << bits) - length) > _LONGEST:
            gpr[register] = _LONGEST  # a register has no more elements

    def restore() -> None:
        gpr[Gpr.RAX], gpr[Gpr.RDX] = before

    return Native(restore=restore)


def _enters_mmx(cpu: Cpu, _: Instruction, found: Encoding) -> Native:
    """SSSE3's instructions on MMX registers and EMMS leave TOP where it is, in QEMU."""
    return Native(lambda: cpu.registers.enter_mmx(found.opcode != _EMMS))


def _is_late_mmx(found: Encoding) -> bool:
    if found.mandatory:
        return False
    ssse3 = found.map == "0f38" and found.opcode in (*range(0x0C), 0x1C, 0x1D, 0x1E)
    return ssse3 or (found.map, found.opcode) in (("0f3a", 0x0F), ("0f", _EMMS))


def _is_horizontal(found: Encoding) -> bool:
    if found.map != "0f38" or found.opcode not in (0x01, 0x02, 0x03, 0x05, 0x06, 0x07) or found.memory:
        return False
    same = found.reg == found.modrm & 7
    return same and (found.mandatory != 0x66 or found.rex >> 2 & 1 == found.rex & 1)


def _enter(cpu: Cpu, instruction: Instruction, found: Encoding) -> Native:
    """The last word that the new stack pointer could take is looked at before anything is pushed."""
    registers = cpu.registers
    size, level = instruction.immediates
    short = (0x66 in found.prefixes) != (found.bits == 16)
    width = 2 if short else 8 if found.bits == 64 else 4
    top = registers.gpr[Gpr.RSP] - width * (1 + level % 32) - (size & 0xFFFF) & (1 << registers.stack_bits) - 1
    _probe_stack(cpu, found, top, width)
    return Native()


def _always(
    test: Callable[[Encoding], bool], name: str, act: Callable[[Cpu, Instruction, Encoding], Native] | None = None
) -> Rule:
    return Rule(name, CheckKind.ALWAYS, test, act)


_LONGEST: Final = 16  # elements of a string of PCMPESTRI
_UD2: Final = b"\x0f\x0b"
_EMMS: Final = 0x77
_TEN: Final = 10  # bytes of the x87's widest operands
_IRET: Final = 0xCF
_LOCK_NEG: Final = (("", 0xF6, 3), ("", 0xF7, 3))


def _is_no_instruction(found: Encoding) -> bool:
    """What processors refuse (tried on one, in ring 3) and the engine takes for something."""
    prefix, opcode, reg = found.mandatory, found.opcode, found.reg
    if found.map == "":
        return (opcode == 0x8F or opcode in (0xC6, 0xC7)) and reg > 0
    if found.map in ("0f38", "0f3a"):
        crc32 = found.map == "0f38" and opcode in (0xF0, 0xF1)
        return prefix == 0xF3 or (prefix == 0xF2 and not crc32)
    if found.map != "0f":
        return False
    if opcode in (0x20, 0x22):
        return reg | (found.rex & 4) << 1 not in (0, 2, 3, 4, 8)
    if opcode in (0x21, 0x23):
        return bool(found.rex & 4)
    if opcode == 0x50:
        return found.memory
    if opcode in (0x71, 0x72, 0x73):
        return found.memory or bool(prefix & 0xF0 == 0xF0)
    if opcode in (0x12, 0x16):
        return prefix == 0x66 and not found.memory
    if opcode in (0x78, 0x79):
        return prefix in (0x66, 0xF2)
    if opcode == 0xAE:
        return bool(prefix) and reg in ((0, 1, 2, 3) if found.memory else (5, 6, 7))
    if opcode == 0xC3:
        return bool(prefix)
    return opcode == 0xD6 and prefix in (0xF2, 0xF3) and found.memory


RULES: Final = (
    _always(_is_no_instruction, "encodings of nothing"),
    _always(_cannot_be_locked, "LOCK where nothing can be locked"),
    _always(lambda found: found.map == "vex", "VEX, though CPUID has no AVX"),
    _always(
        lambda found: found.map == "0f" and found.opcode in (0x34, 0x35),
        "SYSENTER and SYSEXIT, though CPUID has no SEP",
    ),
    _always(
        lambda found: (
            found.map == "0f38" and found.opcode in (0xF0, 0xF1) and not found.memory and 0xF2 not in found.prefixes
        ),
        "MOVBE of a register",
    ),
    Rule("an operand of SSE that is not aligned", CheckKind.MISALIGNED, _is_aligned, _misaligned),
    Rule(
        "a store in steps over a page's end",
        CheckKind.CROSSES,
        lambda found: bool(_stored(found)),
        _stores_whole,
        size=_stored,
    ),
    Rule(
        "a load in steps over a page's end",
        CheckKind.CROSSES,
        lambda found: found.map == "" and found.memory and (found.opcode, found.reg) in ((0xDB, 5), (0xDF, 4)),
        _loads_whole,
        size=lambda _: _TEN,
    ),
    Rule("CMPXCHG of 32 bits", CheckKind.HIGH, _is_cmpxchg32, _cmpxchg, registers=_high_registers),
    Rule(
        "a base of FS or GS that is not canonical",
        CheckKind.NOT_CANONICAL,
        _is_base_write,
        _segment_base,
        registers=_base_register,
    ),
    Rule(
        "far returns",
        CheckKind.RETURN,
        lambda found: found.map == "" and found.opcode in (0xCA, 0xCB, _IRET),
        _far_return,
    ),
    _always(_group("", 0xFF, 3, memory=True), "far CALL", _far_call),
    _always(lambda found: found.map == "" and found.opcode == 0x9A and found.bits != 64, "far CALL", _far_call),
    _always(_group("0f", 0x01, 2, 3, memory=True), "a base of LGDT or LIDT that is not canonical", _descriptor_table),
    _always(_group("0f", 0x00, 2, 3), "LTR and LLDT", _system_segment),
    _always(_group("", 0x8E, 2), "MOV SS of a null selector", _stack_segment),
    _always(
        lambda found: found.map == "0f" and found.opcode == 0xB2 and found.memory,
        "LSS of a null selector",
        _far_stack_segment,
    ),
    _always(lambda found: found.map == "" and found.opcode == 0xC8, "ENTER", _enter),
    _always(
        lambda found: found.locked and found.memory and (found.map, found.opcode, found.reg) in _LOCK_NEG,
        "flags of LOCK NEG",
        _lock_neg,
    ),
    _always(_is_horizontal, "PHADDW and kin of a register with itself", _horizontal),
    _always(
        lambda found: found.map == "0f3a" and found.opcode in (0x60, 0x61) and found.mandatory == 0x66,
        "PCMPESTRI, PCMPESTRM",
        _string_lengths,
    ),
    _always(_is_late_mmx, "TOP behind MMX of SSSE3 and EMMS", _enters_mmx),
    Rule(
        "SYSRET to where no code can be",
        CheckKind.NOT_CANONICAL,
        lambda found: found.map == "0f" and found.opcode == 0x07 and bool(found.rex & 8),
        _sysret,
        registers=lambda _: (Gpr.RCX, Gpr.RCX),
    ),
    _always(lambda found: found.map == "" and found.opcode in range(0x6C, 0x70), "INS and OUTS", _carried_out),
    _always(_group("0f", 0xAE, 1, memory=True), "FXRSTOR of reserved bits of MXCSR", _fxrstor),
    _always(_group("0f", 0xAE, 2, memory=True), "LDMXCSR of reserved bits", _ldmxcsr),
    _always(_group("0f", 0xAE, 7, memory=True), "CLFLUSH", _clflush),
)


@lru_cache(maxsize=4096)
def rule_of(found: Encoding) -> Rule | None:
    """The rule for an instruction, if there is one."""
    return next((rule for rule in RULES if rule.applies(found)), None)


_ASKED: Final = {
    "": (
        108,
        109,
        110,
        111,
        142,
        143,
        154,
        196,
        197,
        198,
        199,
        200,
        202,
        203,
        207,
        217,
        219,
        221,
        223,
        240,
        246,
        247,
        255,
    ),
    "0f": (
        0,
        1,
        7,
        *range(16, 25),
        *range(32, 36),
        *range(40, 48),
        52,
        53,
        *range(80, 128),
        174,
        177,
        178,
        *range(194, 199),
        *range(208, 256),
    ),
    "0f38": tuple(range(256)),
    "0f3a": tuple(range(256)),
}
"""Opcodes by map that a rule, or `taken_as`, may have something to say of: all, and a few more."""


def tables() -> bytes:
    """Which instructions are looked at as they are translated, for the engine: by the bytes that come first."""
    maps = {name: bytearray(256) for name in _ASKED}
    for byte in sorted(_PREFIXES):
        maps[""][byte] = PREFIX
    maps[""][0x40:0x50] = bytes([REX]) * 16
    for name, opcodes in _ASKED.items():
        for opcode in opcodes:
            maps[name][opcode] = ASK
    maps[""][0x0F], maps["0f"][0x38], maps["0f"][0x3A] = MAP_0F, MAP_0F38, MAP_0F3A
    return b"".join(maps.values())


def taken_as(code: bytes, bits: int) -> bytes:
    """The code with the instruction at its start as the engine has to see it to do what processors do; of the same length.

    66 beside F2 or F3 does not select among SSE's instructions, as the engine has it; CMPPS and kin look at three bits of
    their immediate; /1 of F6 and F7 is /0; hints of a register are no operation.
    """
    found = encoding_of(code, bits)
    if found is None:
        return code
    if found.map.startswith("0f") and 0x66 in found.prefixes and found.mandatory != 0x66 and _is_sse(found):
        code = found.prefixes.replace(b"\x66", bytes([found.mandatory])) + code[len(found.prefixes) :]
    at = len(found.prefixes) + bool(found.rex) + {"": 1, "0f": 2}.get(found.map, 3)
    if found.map == "" and found.opcode in (0xF6, 0xF7) and found.reg == 1:
        return code[:at] + bytes([found.modrm & ~0x38]) + code[at + 1 :]
    if found.map == "0f" and found.opcode == 0x18 and not found.memory:
        return code[: at - 1] + b"\x1f" + code[at:]
    if found.map == "0f" and found.opcode == 0xC2:
        instruction = decode(code, bits) or decode(code[: at + 1] + bytes(15), bits)
        end = 0 if instruction is None else instruction.length
        if end and end <= len(code) and code[end - 1] > 7:
            return code[: end - 1] + bytes([code[end - 1] & 7]) + code[end:]
    return code


def _is_sse(found: Encoding) -> bool:
    if found.map != "0f":
        return found.opcode < 0xF0  # CRC32 and MOVBE have operands of 16 bits by 66
    return found.opcode in (
        *range(0x10, 0x18),
        *range(0x28, 0x30),
        *range(0x50, 0x80),
        0xC2,
        0xC4,
        0xC5,
        0xC6,
        *range(0xD0, 0x100),
    )


def _length(code: bytes, bits: int, found: Encoding) -> int:
    """Bytes of an instruction that is #UD, at least two; up to its ModRM where the decoder here knows no such instruction."""
    instruction = decode(code, bits) or decode(code.replace(b"\xf0", b"\x3e"), bits)
    if instruction is not None:
        return instruction.length
    opcode = {"": 1, "vex": 3}.get(found.map, len(found.map) // 2 + 1)
    return min(len(found.prefixes) + bool(found.rex) + opcode + 1, len(code))


def look_at(code: bytes, bits: int, address: int) -> Look | None:
    """What is to become of an instruction, if it is not simply translated; without the places of what is shown.

    Args:
        code: from its start on, up to 15 bytes.
        bits: of the code it stands in.
        address: linear, of its start.
    """
    taken = taken_as(code, bits)
    found = encoding_of(taken, bits)
    rule = None if found is None else rule_of(found)
    shown = b""
    if taken != code:
        instruction = decode(taken, bits)
        shown = taken[: len(taken) if instruction is None else instruction.length]
    if found is None or rule is None:
        return Look(None, shown) if shown else None
    if rule.act is None:
        return Look(Check(rule.kind), _UD2.rjust(_length(code, bits, found), b"\x66"))
    return Look(_check(rule, found, taken, bits, address), shown)


def _check(rule: Rule, found: Encoding, code: bytes, bits: int, address: int) -> Check | None:
    if rule.registers is not None:
        return Check(rule.kind, *rule.registers(found))
    if rule.kind in (CheckKind.ALWAYS, CheckKind.RETURN):
        return Check(rule.kind)
    instruction = decode(code, bits)
    if instruction is None or instruction.memory is None:
        return None  # the engine says what it is
    memory = instruction.memory
    displacement, base = memory.displacement, memory.base
    if base in ("rip", "eip"):
        displacement, base = displacement + address + instruction.length, None
    flat = bits == 64 and memory.segment not in (Seg.FS, Seg.GS)
    return Check(
        rule.kind,
        None if base is None else GPR_NAMES[base][0],
        None if memory.index is None else GPR_NAMES[memory.index][0],
        memory.scale,
        displacement,
        instruction.address_bits,
        None if flat else memory.segment,
        0 if rule.size is None else rule.size(found),
    )
