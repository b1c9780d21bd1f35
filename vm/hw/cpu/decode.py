"""Decoding of the few instructions that the CPU carries out itself, by Capstone.

Gives the length, the operands and the effective address of an instruction's memory operand
(SDM volume 2, chapter 2). Decoded forms are remembered by their bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from kstack.hw.engine import Registers
from kstack.x86.registers import GPR_NAMES, SEGMENT_NAMES, Seg

if TYPE_CHECKING:
    from capstone import Cs

_MASK64: Final = (1 << 64) - 1
_UNKNOWN_TO_CAPSTONE: Final = {
    b"\x0f\x01\xfe": "invlpgb",
    b"\x0f\x01\xff": "tlbsync",
    b"\xf2\x0f\x01\xca": "erets",
    b"\xf3\x0f\x01\xca": "eretu",
}
STACK_INSTRUCTIONS: Final = frozenset(
    "push pop call ret leave enter iret iretd iretq retf retfq lcall int int3".split()
    + "pushf pushfq pushfd popf popfq popfd pushal pushaw popal popaw".split()
)
"""Names of those that reach the stack without naming it."""


class MemoryOperand(NamedTuple):
    """base + index * scale + displacement in a segment; names as in the manual, None where absent."""

    segment: Seg
    base: str | None
    index: str | None  # type: ignore[assignment] # hides tuple.index, which nobody calls on an operand
    scale: int
    displacement: int
    width: int


class Instruction(NamedTuple):
    """A decoded instruction.

    Attributes:
        name: the mnemonic in lower case, without prefixes.
        length: bytes.
        registers: names of the register operands, in order.
        immediates: immediate operands.
        memory: the memory operand, if there is one.
        repeat: a REP prefix is present.
        address_bits: width of addresses: 16, 32 or 64.
    """

    name: str
    length: int
    registers: tuple[str, ...]
    immediates: tuple[int, ...]
    memory: MemoryOperand | None
    repeat: bool
    address_bits: int


@lru_cache(maxsize=4)
def disassembler(bits: int) -> Cs:
    """Capstone for code of 16, 32 or 64 bits, with details of operands."""
    from capstone import CS_ARCH_X86, CS_MODE_16, CS_MODE_32, CS_MODE_64, Cs

    made = Cs(CS_ARCH_X86, {16: CS_MODE_16, 32: CS_MODE_32, 64: CS_MODE_64}[bits])
    made.detail = True
    return made


@lru_cache(maxsize=4096)
def decode(code: bytes, bits: int) -> Instruction | None:
    """The instruction at the start of `code` (up to 15 bytes) in `bits`-wide code, or None."""
    from capstone.x86_const import X86_OP_IMM, X86_OP_MEM, X86_OP_REG

    for opcode, name in _UNKNOWN_TO_CAPSTONE.items():
        if code.startswith(opcode):
            return Instruction(name, len(opcode), (), (), None, False, bits)
    for found in disassembler(bits).disasm(code, 0, 1):
        registers: list[str] = []
        immediates: list[int] = []
        memory = None
        for operand in found.operands:
            if operand.type == X86_OP_REG:
                registers.append(found.reg_name(operand.reg))
            elif operand.type == X86_OP_IMM:
                immediates.append(operand.imm)
            elif operand.type == X86_OP_MEM and memory is None:
                memory = _memory_operand(found, operand, bits)
        name = found.mnemonic.split()[-1]
        repeat = found.mnemonic.startswith("rep")
        return Instruction(name, found.size, tuple(registers), tuple(immediates), memory, repeat, found.addr_size * 8)
    return None


def _memory_operand(found: object, operand: object, bits: int) -> MemoryOperand:
    name = found.reg_name  # type: ignore[attr-defined] # capstone has no types
    mem = operand.mem  # type: ignore[attr-defined] # as above
    base, index = name(mem.base) or None, name(mem.index) or None
    named = SEGMENT_NAMES.get(name(mem.segment)) if mem.segment else None
    if named in (Seg.FS, Seg.GS) or (named is not None and bits != 64):  # the other prefixes are ignored in 64-bit code
        segment = named
    else:
        segment = Seg.SS if base in ("rsp", "esp", "sp", "rbp", "ebp", "bp") else Seg.DS
    if index in ("riz", "eiz"):
        index = None
    return MemoryOperand(segment, base, index, mem.scale, mem.disp, operand.size)  # type: ignore[attr-defined]


def effective_address(instruction: Instruction, registers: Registers) -> int:
    """The linear address of the memory operand; RIP still at the instruction.

    In 64-bit code only FS and GS have a base.
    """
    memory = instruction.memory
    assert memory is not None
    value = memory.displacement
    if memory.base in ("rip", "eip"):
        value += registers.rip + instruction.length
    elif memory.base is not None:
        gpr, width = GPR_NAMES[memory.base]
        value += registers.gpr[gpr] & (1 << 8 * width) - 1
    if memory.index is not None:
        gpr, width = GPR_NAMES[memory.index]
        value += (registers.gpr[gpr] & (1 << 8 * width) - 1) * memory.scale
    value &= (1 << instruction.address_bits) - 1
    if registers.bits != 64:
        return value + registers.segment(memory.segment).base & 0xFFFFFFFF
    if memory.segment in (Seg.FS, Seg.GS):
        value += registers.segment(memory.segment).base
    return value & _MASK64


def disassemble(code: bytes, address: int, bits: int) -> tuple[int, str]:
    """Length and text of the instruction at the start of `code`, as if it stood at `address`."""
    for found in disassembler(bits).disasm(code, address, 1):
        return found.size, f"{found.mnemonic} {found.op_str}".rstrip()
    return 1, "(bad) " + code[:4].hex(" ")
