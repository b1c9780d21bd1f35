"""What is refused before Keystone sees it, and what is put right, each with its reason.

Most of Keystone's traps cannot be reached any more because operands are read and evaluated
here (`guest.asm.operand`).  What is left are instructions that it encodes differently from
what their text says, or that GNU as reads differently; every entry was measured against
GNU as 2.40 (see ``tests/guest/asm/test_traps.py``).
"""

from __future__ import annotations

from dataclasses import replace

from kstack.guest.asm import registers
from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.instruction import Instruction
from kstack.guest.asm.operand import Imm, Mem, Operand, Reg

_SHIFTS = frozenset(("shl", "sal", "shr", "sar", "rol", "ror", "rcl", "rcr"))
_NEEDS_SIZE = _SHIFTS | frozenset(
    (
        "mov",
        "add",
        "adc",
        "sub",
        "sbb",
        "and",
        "or",
        "xor",
        "cmp",
        "test",
        "not",
        "neg",
        "inc",
        "dec",
        "mul",
        "imul",
        "div",
        "idiv",
        "push",
        "pop",
        "bt",
        "bts",
        "btr",
        "btc",
        "movzx",
        "movsx",
    )
)
_TABLES = frozenset({"lgdt", "lidt", "sgdt", "sidt"})

_AS_BYTES = {
    "endbr64": "0xf3, 0x0f, 0x1e, 0xfa",
    "endbr32": "0xf3, 0x0f, 0x1e, 0xfb",
    "serialize": "0x0f, 0x01, 0xe8",
    "invlpgb": "0x0f, 0x01, 0xfe",
    "tlbsync": "0x0f, 0x01, 0xff",
    "eretu": "0xf3, 0x0f, 0x01, 0xca",
    "erets": "0xf2, 0x0f, 0x01, 0xca",
    "setssbsy": "0xf3, 0x0f, 0x01, 0xe8",
    "stui": "0xf3, 0x0f, 0x01, 0xef",
    "clui": "0xf3, 0x0f, 0x01, 0xee",
    "testui": "0xf3, 0x0f, 0x01, 0xed",
    "uiret": "0xf3, 0x0f, 0x01, 0xec",
    "sysexit": "0x0f, 0x35",
    "sysretl": "0x0f, 0x07",
}
_OTHER_NAME = {
    "cqto": "cqo",
    "cltq": "cdqe",
    "cwtl": "cwde",
    "cltd": "cdq",
    "lretq": "retfq",
    "icebp": "int1",
    "movzbl": "movzx",
    "movslq": "movsxd",
}
_NO_KEYSTONE = frozenset(
    (
        "rdpid",
        "tpause",
        "umwait",
        "umonitor",
        "lkgs",
        "senduipi",
        "incsspq",
        "incsspd",
        "rdsspq",
        "rdsspd",
        "wrssq",
        "wrssd",
        "saveprevssp",
        "rstorssp",
        "clrssbsy",
        "ptwrite",
    )
)


def without_keystone(mnemonic: str, place: Place) -> AsmError:
    """The error for an instruction that Keystone does not have."""
    if other := _OTHER_NAME.get(mnemonic):
        return AsmError(place, f"{mnemonic} is not Intel's name or not GNU as's; write {other}")
    if code := _AS_BYTES.get(mnemonic):
        return AsmError(place, f"Keystone has no {mnemonic}; write .byte {code}")
    return AsmError(
        place,
        f"Keystone has no instruction {mnemonic}, and no macro of that name is defined above; "
        "define the macro first, or write the encoding with .byte",
    )


def _refuse_unsized(instruction: Instruction, place: Place) -> None:
    if instruction.mnemonic not in _NEEDS_SIZE:
        return
    extends = instruction.mnemonic in ("movzx", "movsx")
    operands = instruction.operands[:1] if instruction.mnemonic in _SHIFTS else instruction.operands
    if not extends and any(isinstance(o, Reg) for o in operands):
        return
    if any(isinstance(o, Mem) and not o.size for o in operands):
        raise AsmError(place, "the memory operand has no size; write byte, word, dword or qword ptr [...]")


def _refuse_bare_label(instruction: Instruction, place: Place) -> None:
    """GNU as reads a label, or a constant not yet defined, as memory; Keystone does not agree."""
    if instruction.is_branch:
        return
    for operand in instruction.operands:
        if not isinstance(operand, Imm) or operand.offset or operand.value.is_const:
            continue
        if sum(factor for _, factor in operand.value.terms):
            name = operand.value.terms[0][0].split("\0")[0] or "label"
            raise AsmError(
                place,
                f"{name} alone is read as memory by GNU as; write [rip+{name}] or [{name}] for memory, "
                f"offset {name} for the address, or define the constant above its use",
            )


def _refuse(instruction: Instruction, bits: int, place: Place) -> None:
    mnemonic, operands = instruction.mnemonic, instruction.operands
    if mnemonic in _AS_BYTES or mnemonic in _NO_KEYSTONE or mnemonic in _OTHER_NAME:
        raise without_keystone(mnemonic, place)
    if mnemonic in ("ljmp", "lcall", "jmpf", "callf"):
        raise AsmError(place, "write a far jump as .byte 0xea, .long target, .word selector")
    if any(isinstance(o, Mem) and o.size == 6 for o in operands):
        raise AsmError(place, "Keystone has no far pointers in memory (fword ptr); write .byte")
    if mnemonic == "nop" and operands:
        raise AsmError(place, "Keystone encodes nop with an operand wrongly; write .byte 0x0f, 0x1f, ...")
    if mnemonic in ("sysret", "sysexit") or (mnemonic in ("iret", "retf") and bits == 64):
        names = {"sysret": "sysretq", "sysexit": "sysexitq", "iret": "iretq", "retf": "retfq"}
        raise AsmError(place, f"{mnemonic} has no size; write {names[mnemonic]}")
    if mnemonic == "push" and bits == 16 and operands and isinstance(operands[0], Imm):
        raise AsmError(place, "Keystone pushes 4 bytes here; write mov ax, value and push ax")
    if mnemonic in ("lss", "lfs", "lgs") and any(
        isinstance(o, Reg) and registers.width(o.name) == 64 for o in operands
    ):
        raise AsmError(place, f"GNU as has no 64-bit {mnemonic}; write .byte")
    if mnemonic == "movsx" and bits == 64 and _width(operands[-1]) == 32:
        raise AsmError(place, "from 32 bits the instruction is movsxd; write movsxd")
    for operand in operands:
        if isinstance(operand, Mem) and bits == 64:
            _refuse_far_address(operand, mnemonic, place)
        if isinstance(operand, Imm) and operand.value.is_const and not instruction.is_branch:
            _refuse_wide(operand.value.const, instruction.operand_bits(bits), place)


def _width(operand: Operand) -> int:
    if isinstance(operand, Reg):
        return registers.width(operand.name) or 0
    return operand.size * 8 if isinstance(operand, Mem) else 0


def _refuse_wide(value: int, width: int, place: Place) -> None:
    if width and not -(1 << (width - 1)) <= value < 1 << width:
        raise AsmError(place, f"{value:#x} does not fit the {width} bits of the operand")


def _refuse_far_address(mem: Mem, mnemonic: str, place: Place) -> None:
    if mnemonic == "movabs":
        if mem.base or mem.index or mem.disp.terms:
            raise AsmError(place, "movabs takes a constant address; load the address into a register first")
    elif mem.disp.is_const and not -(1 << 31) <= mem.disp.const < 1 << 31:
        raise AsmError(place, f"address {mem.disp.const:#x} does not fit 32 signed bits; load it into a register first")


def _segment_moves(instruction: Instruction, bits: int, place: Place) -> Instruction:
    """``mov ds, ax`` gets a needless prefix from Keystone; ``mov ds, eax`` is the same without."""
    if instruction.mnemonic != "mov" or len(instruction.operands) != 2:
        return instruction
    to, of = instruction.operands
    if isinstance(of, Reg) and of.name in registers.SEGMENT and isinstance(to, Mem):
        raise AsmError(place, f"Keystone adds a prefix; write mov ax, {of.name} and store ax")
    if not (isinstance(to, Reg) and to.name in registers.SEGMENT and isinstance(of, Reg)):
        return instruction
    if bits != 16 and registers.width(of.name) == 16:
        wide = f"{of.name[:-1]}d" if of.name[-1] == "w" else f"e{of.name}"
        return replace(instruction, operands=(to, Reg(wide)))
    return instruction


_RENAMED = {
    ("pushf", 64): "pushfq",
    ("popf", 64): "popfq",
    ("pushf", 32): "pushfd",
    ("popf", 32): "popfd",
    ("iret", 32): "iretd",
    ("pusha", 32): "pushad",
    ("popa", 32): "popad",
    ("sysretq", 64): "sysret",
    ("sysexitq", 64): "sysexit",
}


def checked(instruction: Instruction, bits: int, place: Place) -> Instruction:
    """The instruction as Keystone must be asked for it.

    Parameters: the instruction as written, the mode's width in bits, its place.
    Raises AsmError for what cannot be put right.
    """
    _refuse(instruction, bits, place)
    _refuse_unsized(instruction, place)
    _refuse_bare_label(instruction, place)
    name = _RENAMED.get((instruction.mnemonic, bits), instruction.mnemonic)
    return _segment_moves(replace(instruction, mnemonic=name), bits, place)


def without_size_prefix(instruction: Instruction, bits: int) -> bool:
    """Whether Keystone puts an operand-size prefix where none belongs.

    In 32-bit code ``lgdt`` would load a 24-bit base; in 16-bit code ``ret`` would pop 4 bytes.
    """
    mnemonic, operands = instruction.mnemonic, instruction.operands
    if bits == 32 and mnemonic in ("push", "pop"):
        return bool(operands) and isinstance(operands[0], Reg) and operands[0].name in registers.SEGMENT
    if bits == 16 and mnemonic in ("ret", "retf"):
        return True
    return bits == 32 and mnemonic in _TABLES
