"""Instructions that the engine executes, but not always as the manual says: each is looked at as it is translated.

An instruction that a `InstructionRule` here is for is given a check (kstack.hw.engine.checks), which leaves the engine before it has any
effect, always or where the engine would do wrong; what happens then is the rule's `act`: a fault, or the instruction
carried out here, or let run after all, with something put right behind it. SDM volume 2 for each.

The engine's decoder takes more than the manual has: what CPUID does not announce, LOCK where nothing can be locked. These are
#UD by rules of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from kstack.hw.cpu.corrections import (
    EMMS,
    IRET,
    Native,
    carried_out,
    clflush,
    cmpxchg,
    compares_strings,
    descriptor_table,
    enter,
    enters_mmx,
    far_call,
    far_return,
    far_stack_segment,
    fxrstor,
    horizontal,
    ldmxcsr,
    loads_whole,
    lock_neg,
    misaligned,
    seen_behind,
    segment_base,
    stack_segment,
    stores_whole,
    string_flags,
    sysret,
    system_segment,
)
from kstack.hw.cpu.decode import Instruction, decode
from kstack.hw.cpu.encoding import Encoding, encoding_of, loaded_in_steps, stored_in_steps, taken_as
from kstack.hw.cpu.processor import Processor
from kstack.hw.engine import Check, CheckKind, Look
from kstack.hw.engine.checks import ASK, BANK, BEHIND_66, MAP_0F, MAP_0F3A, MAP_0F38, PREFIX, REX
from kstack.x86.prefixes import OPERAND_SIZE, PREFIXES, REP, REPNE, Rex, high_bit
from kstack.x86.registers import GPR_NAMES, Gpr, Seg


class InstructionRule(NamedTuple):
    """What is done about an instruction that the engine takes for another.

    Attributes:
        name: what is wrong.
        kind: when its check leaves the engine.
        applies: to which instructions, by encoding.
        act: what happens then: it raises GuestFault, lets the instruction run, or raises CarriedOut; None for #UD.
        registers: those that HIGH, NOT_CANONICAL and SYSRET look at, by encoding; of the others the operand is looked at.
        size: bytes of the operand, by encoding, for CROSSES.
    """

    name: str
    kind: CheckKind
    applies: Callable[[Encoding], bool]
    act: Callable[[Processor, Instruction, Encoding], Native] | None
    registers: Callable[[Encoding], tuple[int | None, int | None]] | None = None
    size: Callable[[Encoding], int] | None = None


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
    return _group("0f", 0xAE, 2, 3, memory=False)(found) and found.mandatory == 0xF3 and bool(found.rex & Rex.W)


def _is_cmpxchg32(found: Encoding) -> bool:
    is_32 = found.bits == 64 and not found.rex & Rex.W and OPERAND_SIZE not in found.prefixes
    return found.map == "0f" and found.opcode == 0xB1 and is_32


_POP_SEGMENT: Final = (("", 0x07), ("", 0x17), ("", 0x1F), ("0f", 0xA1), ("0f", 0xA9))
_FAR_POINTER: Final = (("", 0xC4), ("", 0xC5), ("0f", 0xB4), ("0f", 0xB5))


def _loads_data_segment(found: Encoding) -> bool:
    """MOV and POP of one, LDS and kin; in 64-bit code they have no limits."""
    where = found.map, found.opcode
    if found.bits == 64:
        return False
    if where == ("", 0x8E):
        return found.reg in (0, 3, 4, 5)
    return where in _POP_SEGMENT or (where in _FAR_POINTER and found.memory)


def _high_registers(found: Encoding) -> tuple[int, int]:
    target = Gpr.RAX if found.memory else Gpr(found.modrm & 7 | high_bit(found.rex, Rex.B))
    return Gpr.RAX, target


def _base_register(found: Encoding) -> tuple[int, int]:
    register = found.modrm & 7 | high_bit(found.rex, Rex.B)
    return register, register


# --- what happens then


def _is_late_mmx(found: Encoding) -> bool:
    if found.mandatory:
        return False
    ssse3 = found.map == "0f38" and found.opcode in (*range(0x0C), 0x1C, 0x1D, 0x1E)
    return ssse3 or (found.map, found.opcode) in (("0f3a", 0x0F), ("0f", EMMS))


def _is_horizontal(found: Encoding) -> bool:
    if found.map != "0f38" or found.opcode not in (0x01, 0x02, 0x03, 0x05, 0x06, 0x07) or found.memory:
        return False
    same = found.reg == found.modrm & 7
    return same and (found.mandatory != 0x66 or bool(found.rex & Rex.R) == bool(found.rex & Rex.B))


def _is_repeated_compare(found: Encoding) -> bool:
    return found.map == "" and found.opcode in (0xA6, 0xA7, 0xAE, 0xAF) and found.mandatory in (REP, REPNE)


def _always(
    test: Callable[[Encoding], bool], name: str, act: Callable[[Processor, Instruction, Encoding], Native] | None = None
) -> InstructionRule:
    return InstructionRule(name, CheckKind.ALWAYS, test, act)


_UD2: Final = b"\x0f\x0b"
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
        return reg | high_bit(found.rex, Rex.R) not in (0, 2, 3, 4, 8)
    if opcode in (0x21, 0x23):
        return bool(found.rex & Rex.R)
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
    InstructionRule("an operand of SSE that is not aligned", CheckKind.MISALIGNED, _is_aligned, misaligned),
    InstructionRule(
        "a store in steps over a page's end",
        CheckKind.CROSSES,
        lambda found: bool(stored_in_steps(found)),
        stores_whole,
        size=stored_in_steps,
    ),
    InstructionRule(
        "a load in steps over a page's end",
        CheckKind.CROSSES,
        lambda found: bool(loaded_in_steps(found)),
        loads_whole,
        size=loaded_in_steps,
    ),
    InstructionRule("CMPXCHG of 32 bits", CheckKind.HIGH, _is_cmpxchg32, cmpxchg, registers=_high_registers),
    InstructionRule(
        "a base of FS or GS that is not canonical",
        CheckKind.NOT_CANONICAL,
        _is_base_write,
        segment_base,
        registers=_base_register,
    ),
    _always(
        lambda found: found.map == "" and found.opcode == IRET and found.bits == 64 and not found.rex & Rex.W,
        "IRET of 32 bits in 64-bit code",
        far_return,
    ),
    InstructionRule(
        "far returns",
        CheckKind.RETURN,
        lambda found: found.map == "" and found.opcode in (0xCA, 0xCB, IRET),
        far_return,
    ),
    _always(_group("", 0xFF, 3, memory=True), "far CALL", far_call),
    _always(lambda found: found.map == "" and found.opcode == 0x9A and found.bits != 64, "far CALL", far_call),
    _always(_group("0f", 0x01, 2, 3, memory=True), "a base of LGDT or LIDT that is not canonical", descriptor_table),
    _always(_group("0f", 0x00, 2, 3), "LTR and LLDT", system_segment),
    _always(_group("", 0x8E, 2), "MOV SS of a null selector", stack_segment),
    _always(
        lambda found: found.map == "0f" and found.opcode == 0xB2 and found.memory,
        "LSS of a null selector",
        far_stack_segment,
    ),
    _always(lambda found: found.map == "" and found.opcode == 0xC8, "ENTER", enter),
    _always(
        lambda found: found.locked and found.memory and (found.map, found.opcode, found.reg) in _LOCK_NEG,
        "flags of LOCK NEG",
        lock_neg,
    ),
    _always(_is_horizontal, "PHADDW and kin of a register with itself", horizontal),
    _always(
        lambda found: found.map == "0f3a" and found.opcode in range(0x60, 0x64) and found.mandatory == 0x66,
        "PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM",
        compares_strings,
    ),
    _always(_is_late_mmx, "TOP behind MMX of SSSE3 and EMMS", enters_mmx),
    InstructionRule(
        "SYSRET to where no code can be, or with VM or RF",
        CheckKind.SYSRET,
        lambda found: found.map == "0f" and found.opcode == 0x07,
        sysret,
        registers=lambda found: (Gpr.RCX if found.rex & Rex.W else None, Gpr.R11),
    ),
    _always(lambda found: found.map == "" and found.opcode in range(0x6C, 0x70), "INS and OUTS", carried_out),
    InstructionRule(
        "flags of a repeated CMPS or SCAS that is cut", CheckKind.STRING, _is_repeated_compare, string_flags
    ),
    InstructionRule("a segment with a limit", CheckKind.PROTECTED, _loads_data_segment, seen_behind),
    InstructionRule(
        "RFLAGS.AC in ring 3",
        CheckKind.ALIGNED_USER,
        lambda found: found.map == "" and found.opcode == 0x9D,
        seen_behind,
    ),
    _always(_group("0f", 0xAE, 1, memory=True), "FXRSTOR of reserved bits of MXCSR", fxrstor),
    _always(_group("0f", 0xAE, 2, memory=True), "LDMXCSR of reserved bits", ldmxcsr),
    _always(
        lambda found: _group("0f", 0xAE, 7, memory=True)(found) and not found.mandatory,
        "CLFLUSH",
        clflush,
    ),
)


@lru_cache(maxsize=4096)
def rule_of(found: Encoding) -> InstructionRule | None:
    """The rule for an instruction, if there is one."""
    return next((rule for rule in RULES if rule.applies(found)), None)


_ASKED: Final = {
    "": (
        7,
        23,
        31,
        108,
        109,
        110,
        111,
        142,
        143,
        154,
        157,
        *range(0xA6, 0xA8),
        *range(0xAE, 0xB0),
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
        161,
        169,
        174,
        177,
        178,
        180,
        181,
        *range(194, 199),
        *range(208, 256),
    ),
    "0f38": tuple(range(256)),
    "0f3a": tuple(range(256)),
}
"""Opcodes by map that a rule, or `taken_as`, may have something to say of: all, and a few more."""


_ASKED_BEHIND_66: Final = {
    "": (*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE8, 0xE9, 0xEB, 0xC2, 0xC3),
    "0f": range(0x80, 0x90),
}
"""Near branches."""


def tables() -> bytes:
    """Which instructions are looked at as they are translated, for the engine: by the bytes that come first."""
    return _bank(0, BEHIND_66, {}) + _bank(BANK, PREFIX, _ASKED_BEHIND_66)


def _bank(first: int, behind_66: int, more: Mapping[str, Iterable[int]]) -> bytes:
    maps = {name: bytearray(256) for name in _ASKED}
    for byte in sorted(PREFIXES):
        maps[""][byte] = PREFIX
    maps[""][0x66] = behind_66
    maps[""][0x40:0x50] = bytes([REX]) * 16
    for asked in (_ASKED, more):
        for name, opcodes in asked.items():
            for opcode in opcodes:
                maps[name][opcode] = ASK
    maps[""][0x0F], maps["0f"][0x38], maps["0f"][0x3A] = (first + code for code in (MAP_0F, MAP_0F38, MAP_0F3A))
    return b"".join(maps.values())


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


_OF_OPERANDS: Final = (CheckKind.MISALIGNED, CheckKind.CROSSES)


def _check(rule: InstructionRule, found: Encoding, code: bytes, bits: int, address: int) -> Check | None:
    if rule.registers is not None:
        return Check(rule.kind, *rule.registers(found))
    if rule.kind not in _OF_OPERANDS:
        return Check(rule.kind, address_bits=found.address_bits)
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
