"""How instructions are encoded (SDM volume 2, chapter 2), as far as the engine takes one for another."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from kstack.hw.cpu.decode import decode
from kstack.x86.prefixes import ADDRESS_SIZE, LOCK, OPERAND_SIZE, PREFIXES, REP, REPNE, REX

_MEMORY: Final = 3  # the `mod` of a register operand


class Encoding(NamedTuple):
    """How an instruction is encoded (SDM volume 2, chapter 2).

    Attributes:
        bits: of the code it stands in: 16, 32 or 64.
        prefixes: legacy ones, in order, and any REX that means nothing before another one.
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
        return LOCK in self.prefixes

    @property
    def memory(self) -> bool:
        """The ModRM names memory."""
        return self.modrm >> 6 != _MEMORY

    @property
    def reg(self) -> int:
        """The ModRM's middle field."""
        return self.modrm >> 3 & 7

    @property
    def address_bits(self) -> int:
        """Of its addresses and counts: 16, 32 or 64."""
        if ADDRESS_SIZE not in self.prefixes:
            return self.bits
        return 16 if self.bits == 32 else 32

    @property
    def mandatory(self) -> int:
        """The prefix that selects an opcode of SSE: F3 or F2, the last of them, else 66, else 0."""
        found = [byte for byte in self.prefixes if byte in (REPNE, REP)]
        return found[-1] if found else OPERAND_SIZE if OPERAND_SIZE in self.prefixes else 0


def _is_ignored_rex(code: bytes, at: int, bits: int) -> bool:
    """Whether a REX prefix stands before another prefix, and so means nothing (volume 2, 2.2.1)."""
    after = code[at + 1 : at + 2]
    return bits == 64 and code[at] in REX and bool(after) and (after[0] in PREFIXES or after[0] in REX)


@lru_cache(maxsize=4096)
def encoding_of(code: bytes, bits: int) -> Encoding | None:
    """How the instruction at the start of `code` is encoded; None if there is not enough of it."""
    at = 0
    while at < len(code) and (code[at] in PREFIXES or _is_ignored_rex(code, at, bits)):
        at += 1
    prefixes, rex = code[:at], 0
    if bits == 64 and at < len(code) and code[at] in REX:
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


def _is_movups_store(found: Encoding) -> bool:
    return (
        found.map == "0f"
        and found.memory
        and (found.opcode, found.mandatory) in ((0x11, 0), (0x11, 0x66), (0x7F, 0xF3))
    )


def loaded_in_steps(found: Encoding) -> int:
    """Bytes that an instruction loads in several steps, the first of which is in a register by the time the next one faults."""
    if not found.memory:
        return 0
    if found.map == "":
        return _x87_bytes(_X87_LOADS, found)
    unaligned = ((0x10, 0), (0x10, 0x66), (0x6F, 0xF3), (0xF0, 0xF2))  # MOVUPS, MOVUPD, MOVDQU, LDDQU
    return 16 if found.map == "0f" and (found.opcode, found.mandatory) in unaligned else 0


_X87_STORES: Final = {(0xDB, 7): 10, (0xDF, 6): 10, (0xD9, 6): 28, (0xDD, 6): 108}  # FSTP m80, FBSTP, FNSTENV, FNSAVE
_X87_LOADS: Final = {(0xDB, 5): 10, (0xDF, 4): 10, (0xD9, 4): 28, (0xDD, 4): 108}  # FLD m80, FBLD, FLDENV, FRSTOR
_X87_SHORT: Final = 14
"""Bytes by which the environment is shorter with operands of 16 bits."""


def _x87_bytes(sizes: dict[tuple[int, int], int], found: Encoding) -> int:
    size = sizes.get((found.opcode, found.reg), 0)
    short = (OPERAND_SIZE in found.prefixes) != (found.bits == 16)
    return size - _X87_SHORT if short and size > 10 else size


def stored_in_steps(found: Encoding) -> int:
    """Bytes that an instruction stores in several steps, 0 if it does not."""
    if not found.memory:
        return 0
    if found.map == "":
        return _x87_bytes(_X87_STORES, found)
    if _is_movups_store(found):
        return 16
    if found.map == "0f" and not found.mandatory:
        if found.opcode == 0xAE and found.reg == 0:
            return 512
        if found.opcode == 0x01 and found.reg in (0, 1):
            return 10 if found.bits == 64 else 6
    return 0


def taken_as(code: bytes, bits: int) -> bytes:
    """The code with the instruction at its start as the engine has to see it to do what processors do; of the same length.

    66 beside F2 or F3 does not select among SSE's instructions, as the engine has it; CMPPS and kin look at three bits of
    their immediate; /1 of F6 and F7 is /0; hints of a register are no operation; 66 means nothing to a near branch of 64-bit
    code (volume 2, appendix A, f64), which the engine truncates to 16 bits, as AMD's processors do.
    """
    found = encoding_of(code, bits)
    if found is None:
        return code
    if bits == 64 and OPERAND_SIZE in found.prefixes and is_near_branch(found):
        return found.prefixes.replace(b"\x66", _nothing_beside(found)) + code[len(found.prefixes) :]
    if found.map.startswith("0f") and OPERAND_SIZE in found.prefixes and found.mandatory != 0x66 and is_sse(found):
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


def is_near_branch(found: Encoding) -> bool:
    """Jcc, LOOP, JRCXZ, CALL, JMP and RET within the segment."""
    if found.map == "":
        indirect = found.opcode == 0xFF and found.reg in (2, 4)
        return indirect or found.opcode in (*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE8, 0xE9, 0xEB, 0xC2, 0xC3)
    return found.map == "0f" and found.opcode in range(0x80, 0x90)


def _nothing_beside(found: Encoding) -> bytes:
    """A prefix that changes nothing: one that is there already, or DS, which 64-bit code ignores."""
    return next((bytes([byte]) for byte in found.prefixes if byte in PREFIXES and byte != 0x66), b"\x3e")


def is_sse(found: Encoding) -> bool:
    """Whether F2, F3 and 66 select among instructions of an opcode."""
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
