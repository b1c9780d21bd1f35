"""The Capstone round trip, which asks whether what was encoded is what was written.

Independent of the lints: given an instruction and bytes, it disassembles the bytes and
compares mnemonic, operand count, registers, immediates, and each part of an address.
"""

from __future__ import annotations

import re
from typing import Any

import capstone
from capstone import x86_const

from kstack.guest.asm import registers
from kstack.guest.asm.instruction import Instruction
from kstack.guest.asm.operand import Imm, Mem, Operand, Reg

_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
_CONDITIONS = {
    "c": "b", "nae": "b", "nb": "ae", "nc": "ae", "z": "e", "nz": "ne", "na": "be", "nbe": "a",
    "pe": "p", "po": "np", "nge": "l", "nl": "ge", "ng": "le", "nle": "g",
}  # fmt: skip
_ALIASES = {
    "movabs": "mov",
    "sal": "shl",
    "xlat": "xlatb",
    "retq": "ret",
    "sysretq": "sysret",
    "sysexitq": "sysexit",
    "loopz": "loope",
    "loopnz": "loopne",
    "wait": "fwait",
    "icebp": "int1",
    "pushad": "pushal",
    "popad": "popal",
}
_PREFIX = {"repe": "rep", "repz": "rep", "repnz": "repne"}
_SYMMETRIC = frozenset({"test", "xchg"})
_SIZE_FREE = frozenset(
    (
        "lgdt",
        "lidt",
        "sgdt",
        "sidt",
        "invlpg",
        "invpcid",
        "lea",
        "fxsave",
        "fxrstor",
        "fxsave64",
        "fxrstor64",
        "xsave",
        "xrstor",
        "xsave64",
        "xrstor64",
    )
)
_SELECTOR = frozenset(("ltr", "lldt", "str", "sldt", "verr", "verw", "lmsw", "smsw", "lar", "lsl"))


def canonical(mnemonic: str) -> str:
    """One name for all names of the same instruction."""
    match = re.fullmatch(r"(j|set|cmov)(\w+)", mnemonic)
    if match and match[2] in _CONDITIONS:
        return match[1] + _CONDITIONS[match[2]]
    return _ALIASES.get(mnemonic, mnemonic)


class Checker:
    """Disassemblers for the three modes, opened when first needed."""

    def __init__(self) -> None:
        self._open: dict[int, Any] = {}

    def difference(self, instruction: Instruction, code: bytes, bits: int) -> str:
        """What the bytes say that the instruction does not; the empty string when they agree.

        Parameters: an instruction whose expressions are all constant, its bytes, the mode.
        A branch's immediate is compared with the target as seen from address 0.
        """
        if bits not in self._open:
            self._open[bits] = capstone.Cs(capstone.CS_ARCH_X86, _MODES[bits])
            self._open[bits].detail = True
        found = list(self._open[bits].disasm(code, 0))
        if len(found) != 1 or found[0].size != len(code):
            return f"{code.hex(' ')} is not one instruction"
        got = found[0]
        shown = f"{got.mnemonic} {got.op_str}".strip()
        if not _same_name(instruction, got.mnemonic):
            return f"{shown!r}, another instruction"
        reason = _compare(instruction, got, bits)
        return f"{shown!r}, {reason}" if reason else ""


def _same_name(instruction: Instruction, mnemonic: str) -> bool:
    *prefixes, name = mnemonic.split()
    wanted = [_PREFIX.get(p, p) for p in instruction.prefixes]
    return canonical(name) == canonical(instruction.mnemonic) and sorted(wanted) == sorted(
        _PREFIX.get(p, p) for p in prefixes
    )


def _compare(instruction: Instruction, got: Any, bits: int) -> str:
    wanted = list(instruction.operands)
    if not wanted:
        return ""  # implicit operands only
    operands = list(got.operands)
    if len(operands) == len(wanted) + 1 and instruction.mnemonic == "imul":
        wanted = [wanted[0], *wanted]
    if len(operands) == len(wanted) + 1 and operands[-1].type == x86_const.X86_OP_IMM:
        operands = operands[:-1]  # shl rax is shl rax, 1
    if len(operands) != len(wanted):
        return f"{len(operands)} operands instead of {len(wanted)}"
    reasons = [_operand(instruction, w, o, got, bits) for w, o in zip(wanted, operands, strict=True)]
    if any(reasons) and instruction.mnemonic in _SYMMETRIC:
        swapped = zip(reversed(wanted), operands, strict=True)
        reasons = [_operand(instruction, w, o, got, bits) for w, o in swapped]
    return next((r for r in reasons if r), "")


def _operand(instruction: Instruction, wanted: Operand, operand: Any, got: Any, bits: int) -> str:
    if isinstance(wanted, Reg):
        if operand.type != x86_const.X86_OP_REG:
            return f"no register where {wanted.name} was"
        return _register(instruction, wanted.name, got.reg_name(operand.reg))
    if isinstance(wanted, Imm):
        if operand.type != x86_const.X86_OP_IMM:
            return "no immediate where one was"
        return _immediate(instruction, wanted, operand, bits)
    if operand.type != x86_const.X86_OP_MEM:
        return "no memory where there was some"
    return _memory(instruction, wanted, operand, got, bits)


def _register(instruction: Instruction, wanted: str, name: str) -> str:
    same = wanted == name or (wanted == "st" and name.startswith("st"))
    widths = registers.width(wanted), registers.width(name)
    selector = instruction.mnemonic in _SELECTOR or any(
        isinstance(o, Reg) and o.name in registers.SEGMENT for o in instruction.operands
    )
    if not same and selector and 16 in widths and 32 in widths:
        # mov ds, eax and mov ds, ax are one encoding
        same = wanted.lstrip("e").rstrip("wd") == name.lstrip("e").rstrip("wd")
    return "" if same else f"{name} instead of {wanted}"


def _immediate(instruction: Instruction, wanted: Imm, operand: Any, bits: int) -> str:
    width = instruction.operand_bits(bits) or operand.size * 8
    value = wanted.value.const
    if instruction.is_branch:
        width = bits
    elif not -(1 << (width - 1)) <= value < 1 << width:
        return f"{value:#x} does not fit {width} bits"
    if (operand.imm - value) % (1 << width):
        return f"{operand.imm:#x} instead of {value:#x}"
    return ""


def _memory(instruction: Instruction, wanted: Mem, operand: Any, got: Any, bits: int) -> str:
    mem = operand.mem
    names = [(got.reg_name(r) or "") if r else "" for r in (mem.base, mem.index, mem.segment)]
    names = ["" if n in registers.PSEUDO else n for n in names]
    if (names[0], names[1]) != (wanted.base, wanted.index):
        return f"[{names[0]}+{names[1]}] instead of [{wanted.base}+{wanted.index}]"
    if wanted.index and mem.scale != wanted.scale:
        return f"scale {mem.scale} instead of {wanted.scale}"
    if names[2] != wanted.segment and not _implied(wanted, names[2]):
        return f"segment {names[2] or 'none'} instead of {wanted.segment or 'none'}"
    if (mem.disp - wanted.disp.const) % (1 << bits):
        return f"displacement {mem.disp:#x} instead of {wanted.disp.const:#x}"
    if wanted.size and operand.size != wanted.size and instruction.mnemonic not in _SIZE_FREE:
        return f"{operand.size} bytes of memory instead of {wanted.size}"
    return ""


def _implied(wanted: Mem, segment: str) -> bool:
    """Whether a segment override says what the base register says anyway."""
    default = "ss" if wanted.base in ("rsp", "esp", "rbp", "ebp", "bp") else "ds"
    return {wanted.segment, segment} == {"", default}
