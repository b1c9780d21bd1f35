"""One instruction as written: prefixes, mnemonic, operands; and its canonical text.

The canonical text is what Keystone is given.  It holds numbers only, and spells absolute
addresses in the one form that Keystone encodes as written (``[riz*1+8]``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kstack.guest.asm import registers
from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.expr import Lookup
from kstack.guest.asm.operand import SIZES, Imm, Mem, Operand, Reg, parse
from kstack.guest.asm.source import split_commas

PREFIXES = frozenset({"lock", "rep", "repe", "repz", "repne", "repnz"})
_CONDITIONS = "o no b c nae nb nc ae z e nz ne be na nbe a s ns p pe np po l nge nl ge le ng nle g"
CONDITIONAL = frozenset(f"j{c}" for c in _CONDITIONS.split())
RELAXABLE = CONDITIONAL | {"jmp"}
"""Branches that have a short and a near form."""
SHORT_ONLY = frozenset({"loop", "loope", "loopne", "loopz", "loopnz", "jcxz", "jecxz", "jrcxz"})
NEAR_ONLY = frozenset({"call", "xbegin"})
BRANCHES = RELAXABLE | SHORT_ONLY | NEAR_ONLY

_KEYWORD = {size: word for word, size in SIZES.items()}


@dataclass(frozen=True)
class Instruction:
    """An instruction whose operands have been read."""

    prefixes: tuple[str, ...]
    mnemonic: str
    operands: tuple[Operand, ...]

    @property
    def is_branch(self) -> bool:
        """Whether it is a branch to a target given directly."""
        return self.mnemonic in BRANCHES and len(self.operands) == 1 and isinstance(self.operands[0], Imm)

    def operand_bits(self, bits: int) -> int:
        """Width in bits that a register or a sized memory operand gives to an immediate; or 0."""
        if self.mnemonic == "push":
            return bits
        first = self.operands[0] if self.operands else None
        if isinstance(first, Reg):
            return registers.width(first.name) or 0
        return first.size * 8 if isinstance(first, Mem) else 0

    def text(self, bits: int) -> str:
        """The canonical text; every expression in it must be constant."""
        shown = ", ".join(self._show(operand, bits) for operand in self.operands)
        return " ".join([*self.prefixes, self.mnemonic, shown]).strip()

    def _show(self, operand: Operand, bits: int) -> str:
        if isinstance(operand, Reg):
            return operand.name
        if isinstance(operand, Imm):
            return str(operand.value.const)
        size = f"{_KEYWORD[operand.size]} ptr " if operand.size else ""
        segment = f"{operand.segment}:" if operand.segment else ""
        return f"{size}{segment}[{self._address(operand, bits)}]"

    def _address(self, mem: Mem, bits: int) -> str:
        disp = mem.disp.const
        parts = [mem.base] if mem.base else []
        if mem.index:
            parts.append(mem.index if mem.scale == 1 else f"{mem.index}*{mem.scale}")
        if not parts and bits == 64 and self.mnemonic != "movabs":
            parts = ["riz*1"]
        if not parts:
            return str(disp)
        sign = "-" if disp < 0 else "+"
        return "+".join(parts) + (f"{sign}{abs(disp)}" if disp or parts == ["riz*1"] else "")


def read(name: str, rest: str, lookup: Lookup, place: Place) -> Instruction:
    """Read an instruction statement from its first word and what follows it.

    Raises AsmError where an operand cannot be read.
    """
    prefixes: list[str] = []
    word = name.lower()
    while word in PREFIXES:
        prefixes.append(word)
        match = re.match(r"([A-Za-z][A-Za-z0-9]*)\s*(.*)$", rest)
        if match is None:
            raise AsmError(place, f"prefix {word} without an instruction")
        word, rest = match[1].lower(), match[2]
    operands = tuple(parse(text, lookup, place) for text in split_commas(rest))
    return Instruction(tuple(prefixes), word, operands)
