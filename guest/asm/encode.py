"""Instructions to bytes by Keystone, one at a time, each checked by Capstone.

An expression that is not constant yet is given to Keystone as a placeholder; encoding with two
different placeholders shows which bytes hold it, and these become a `Slot` for the linker.
Branches come as templates: opcode bytes of the short and of the near form.
Equal instructions are encoded once; nothing else is remembered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import keystone

from kstack.guest.asm import lint
from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.expr import Linear
from kstack.guest.asm.instruction import NEAR_ONLY, SHORT_ONLY, Instruction
from kstack.guest.asm.operand import Imm, Mem, Operand, Reg
from kstack.guest.asm.registers import GENERAL
from kstack.guest.asm.roundtrip import Checker

_MODES = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}
_PLACEHOLDERS = {
    8: (0x7B, 0x5A),
    16: (0x7BCD, 0x5A3C),
    32: (0x7BCDEF01, 0x5A3C1E62),
    64: (0x7BCDEF0192837465, 0x5A3C1E6243516072),
}
"""Per width in bits, two values that differ in every byte and need the whole width."""


@dataclass(frozen=True)
class Slot:
    """Bytes of an instruction that hold a value the linker knows.

    ``offset`` and ``size`` in bytes; ``relative`` when the value counts from the instruction's
    end; ``signed`` when the processor extends it with its sign.
    """

    offset: int
    size: int
    value: Linear
    relative: bool = False
    signed: bool = False


@dataclass(frozen=True)
class Encoded:
    """An instruction's bytes, with zeros in its slots."""

    code: bytes
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class Branch:
    """A branch's opcode bytes, before a displacement of 1 byte (short) or ``near_size`` bytes.

    Either form can be missing (empty): ``loop`` has no near form, ``call`` no short one.
    """

    short: bytes
    near: bytes
    near_size: int
    target: Linear


_DECIMAL = re.compile(r"\b[1-9][0-9]+\b")


class Encoder:
    """Keystone and Capstone in the three modes, with what they said so far."""

    def __init__(self) -> None:
        self._engines: dict[int, keystone.Ks] = {}
        self._checker = Checker()
        self._seen: dict[tuple[int, str], bytes] = {}
        self._fields: dict[tuple[int, str], tuple[tuple[int, int], ...]] = {}

    def encode(self, written: Instruction, bits: int, place: Place) -> Encoded | Branch:
        """Encode one instruction for a mode of 16, 32 or 64 bits.

        Raises AsmError where a lint, Keystone or the round trip refuses it.
        """
        instruction = lint.checked(written, bits, place)
        if instruction.is_branch:
            return self._branch(instruction, bits, place)
        where = [i for i, operand in enumerate(instruction.operands) if _open(operand) is not None]
        if not where:
            return Encoded(self._bytes(instruction, bits, place))
        return self._with_slots(instruction, where, bits, place)

    def _with_slots(self, instruction: Instruction, where: list[int], bits: int, place: Place) -> Encoded:
        widths = [_slot_bits(instruction, i, bits, place) for i in where]
        first = _filled(instruction, where, [_PLACEHOLDERS[w][0] for w in widths])
        code = bytearray(self._bytes(first, bits, place))
        key = (bits, first.text(bits))
        if key not in self._fields:
            fields = []
            for n in range(len(where)):
                values = [_PLACEHOLDERS[w][n == k] for k, w in enumerate(widths)]
                other = self._bytes(_filled(instruction, where, values), bits, place)
                fields.append(_field(bytes(code), other, widths[n], place))
            self._fields[key] = tuple(fields)
        slots = []
        for i, (offset, size) in zip(where, self._fields[key], strict=True):
            code[offset : offset + size] = bytes(size)
            slots.append(_slot(instruction, i, offset, size, bits))
        return Encoded(bytes(code), tuple(slots))

    def _branch(self, instruction: Instruction, bits: int, place: Place) -> Branch:
        name = instruction.mnemonic
        size = 2 if bits == 16 else 4
        short = near = b""
        if name not in NEAR_ONLY:
            short = self._bytes(_to(instruction, 0x10), bits, place)[:-1]
        if name not in SHORT_ONLY:
            near = self._near(instruction, bits, place)
        target = _open(instruction.operands[0])
        operand = instruction.operands[0]
        assert isinstance(operand, Imm)
        return Branch(short, near, size, target if target is not None else operand.value)

    def _near(self, instruction: Instruction, bits: int, place: Place) -> bytes:
        """The opcode bytes of a branch's near form.

        In 16-bit code Keystone makes it 32 bits wide with a prefix: without it, the displacement
        is 16 bits wide, as the round trip confirms.
        """
        if bits != 16:
            return self._bytes(_to(instruction, 0x7BCDEF01), bits, place)[:-4]
        far = _to(instruction, 0x7BCD)
        opcode = self._bytes(far, bits, place)[:-4].removeprefix(b"\x66")
        code = opcode + (0x7BCD - len(opcode) - 2).to_bytes(2, "little")
        if reason := self._checker.difference(far, code, bits):
            raise AsmError(place, f"{far.text(bits)!r} would be encoded as {reason}; write it with .byte")
        return opcode

    def _bytes(self, instruction: Instruction, bits: int, place: Place) -> bytes:
        text = instruction.text(bits)
        if (bits, text) not in self._seen:
            code = self._ask(text, bits, instruction, place)
            if lint.without_size_prefix(instruction, bits) and code[:1] == b"\x66":
                code = code[1:]
            code = _ordered(code)
            if reason := self._checker.difference(instruction, code, bits):
                raise AsmError(place, f"{text!r} would be encoded as {reason}; write it with .byte")
            self._seen[bits, text] = code
        return self._seen[bits, text]

    def _ask(self, text: str, bits: int, instruction: Instruction, place: Place) -> bytes:
        if bits not in self._engines:
            self._engines[bits] = keystone.Ks(keystone.KS_ARCH_X86, _MODES[bits])
        try:
            # Keystone takes its default radix from memory it never set: 10 on one day, 16 on another.
            code, _ = self._engines[bits].asm(_DECIMAL.sub(lambda n: hex(int(n[0])), text), 0, True)
        except keystone.KsError as error:
            if error.errno == keystone.KS_ERR_ASM_MNEMONICFAIL:
                raise lint.without_keystone(instruction.mnemonic, place) from None
            raise AsmError(place, f"Keystone refuses {text!r}: {error}; check operand sizes, or write .byte") from None
        if not code:
            raise AsmError(place, f"Keystone gives no bytes for {text!r}; write .byte")
        return bytes(code)


def _open(operand: Operand) -> Linear | None:
    """The operand's expression when it is not constant yet."""
    if isinstance(operand, Reg):
        return None
    value = operand.value if isinstance(operand, Imm) else operand.disp
    return None if value.is_const else value


def _filled(instruction: Instruction, where: list[int], values: list[int]) -> Instruction:
    operands = list(instruction.operands)
    for i, number in zip(where, values, strict=True):
        operand = operands[i]
        if isinstance(operand, Imm):
            operands[i] = replace(operand, value=Linear(number))
        elif isinstance(operand, Mem):
            operands[i] = replace(operand, disp=Linear(number))
    return replace(instruction, operands=tuple(operands))


def _to(instruction: Instruction, target: int) -> Instruction:
    return replace(instruction, operands=(Imm(Linear(target)),))


def _slot_bits(instruction: Instruction, i: int, bits: int, place: Place) -> int:
    """Width in bits of the bytes that will hold operand ``i``'s expression."""
    operand = instruction.operands[i]
    if isinstance(operand, Mem):
        wide = any(GENERAL.get(r) == 32 for r in (operand.base, operand.index))
        return 16 if bits == 16 and not wide else 32
    width = instruction.operand_bits(bits)
    if not width:
        raise AsmError(place, "an address cannot go here; use a constant defined above")
    return width if width < 64 or instruction.mnemonic == "movabs" else 32


def _field(one: bytes, other: bytes, bits: int, place: Place) -> tuple[int, int]:
    """Offset and size in bytes of what differs between two encodings."""
    changed = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    size = bits // 8
    whole = changed == list(range(changed[0], changed[0] + size)) if changed else False
    low = _PLACEHOLDERS[bits][0].to_bytes(size, "little")
    if len(one) != len(other) or not whole or one[changed[0] : changed[0] + size] != low:
        raise AsmError(place, "cannot tell where the address goes; load it into a register first")
    return changed[0], size


def _slot(instruction: Instruction, i: int, offset: int, size: int, bits: int) -> Slot:
    operand = instruction.operands[i]
    if isinstance(operand, Mem):
        relative = operand.base in ("rip", "eip")
        return Slot(offset, size, operand.disp, relative, signed=bits == 64)
    assert isinstance(operand, Imm)
    wide = instruction.operand_bits(bits) == 64
    return Slot(offset, size, operand.value, signed=wide and size == 4)


_RANK = {0x2E: 0, 0x36: 0, 0x3E: 0, 0x26: 0, 0x64: 0, 0x65: 0, 0x67: 1, 0x66: 2, 0xF3: 3, 0xF2: 3, 0xF0: 3}


def _ordered(code: bytes) -> bytes:
    """The same instruction with its prefixes in GNU as's order: segment, address, size, repeat."""
    count = 0
    while count < len(code) - 1 and code[count] in _RANK:
        count += 1
    prefixes: list[int] = sorted(code[:count], key=_RANK.__getitem__)
    return bytes(prefixes) + code[count:]
