"""Operands of instructions: registers, immediates, memory, branch targets.

Everything symbolic is evaluated here, so that Keystone only ever sees numbers: its handling of
symbols in Intel syntax is what most of its silently wrong code comes from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kstack.guest.asm import registers
from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.expr import Linear, Lookup, Parser, Token, evaluate, tokenize

SIZES = {"byte": 1, "word": 2, "dword": 4, "fword": 6, "qword": 8, "tbyte": 10, "xmmword": 16, "ymmword": 32}
"""Intel's size keywords and their sizes in bytes."""

_SIZE = re.compile(rf"({'|'.join(SIZES)})\s+ptr\b\s*(.*)$", re.IGNORECASE)
_SEGMENT = re.compile(r"([cdefgs]s)\s*:\s*(.*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Reg:
    """A register operand, by its lower-case name."""

    name: str


@dataclass(frozen=True)
class Imm:
    """An immediate, or the target of a branch; ``offset`` when written with ``offset``."""

    value: Linear
    offset: bool = False


@dataclass(frozen=True)
class Mem:
    """A memory operand; ``size`` in bytes, 0 when the source gives none."""

    size: int
    segment: str
    base: str
    index: str
    scale: int
    disp: Linear


Operand = Reg | Imm | Mem


@dataclass
class _Address:
    """Parts of an address found so far: each register with its factor and whether it had one."""

    found: list[tuple[str, int, bool]] = field(default_factory=list)


class _AddressParser(Parser):
    """An expression in which registers may appear, added up or times a constant."""

    def __init__(self, tokens: list[Token], lookup: Lookup, place: Place) -> None:
        self._plain = lookup
        super().__init__(tokens, self._name, place)

    def _name(self, name: str, place: Place) -> Linear:
        lower = name.lower()
        if lower in registers.NAMES:
            return Linear(0, ((f"%{lower}", 1),))
        return self._plain(name, place)

    def combine(self, operator: str, left: Linear, right: Linear) -> Linear:
        """As for any expression, but a register times a constant stays apart from one alone."""
        if operator == "*" and any(name.startswith("%") for name, _ in left.terms + right.terms):
            return self._scaled(left, right)
        return super().combine(operator, left, right)

    def _scaled(self, left: Linear, right: Linear) -> Linear:
        value, factor = (left, right) if right.is_const else (right, left)
        _refuse_pseudo(value.terms[0][0].lstrip("%"), self.place)
        if not factor.is_const or len(value.terms) != 1 or value.const or factor.const not in (2, 4, 8):
            raise AsmError(self.place, "an index register is multiplied by 2, 4 or 8 and nothing else")
        name = value.terms[0][0].lstrip("%")
        return Linear(0, ((f"%%{name}", factor.const),))


def _refuse_pseudo(register: str, place: Place) -> None:
    if register in registers.PSEUDO:
        raise AsmError(place, f"{register} is a symbol for GNU as; write the absolute address alone, as in gs:[8]")


def parse(text: str, lookup: Lookup, place: Place) -> Operand:
    """Read one operand.

    Raises AsmError on what Keystone or GNU as would misread; the message says what to write.
    """
    size = 0
    if match := _SIZE.match(text):
        size, text = SIZES[match[1].lower()], match[2]
    lower = text.lower()
    if lower in registers.NAMES and not size:
        if lower not in registers.OPERAND:
            raise AsmError(place, f"{lower} cannot be an operand; write lea reg, [rip] to read it")
        return Reg(lower)
    segment = ""
    if match := _SEGMENT.match(text):
        segment, text = match[1].lower(), match[2]
        if "[" not in text:
            raise AsmError(place, f"write {segment}:[{text}] with brackets")
    if text.startswith("["):
        if not text.endswith("]") or "]" in text[:-1]:
            raise AsmError(place, f"write the whole address inside one pair of brackets, not {text!r}")
        return _memory(text[1:-1], size, segment, lookup, place)
    _refuse_distance(text, place)
    if "[" in text:
        raise AsmError(place, f"write the whole address inside brackets, such as [rip+label], not {text!r}")
    if size:
        raise AsmError(place, f"{text!r} after 'ptr' is not in brackets; write [{text}]")
    return _immediate(text, lookup, place)


def _refuse_distance(text: str, place: Place) -> None:
    if match := re.match(r"(short|near|far)\b", text, re.IGNORECASE):
        raise AsmError(
            place,
            f"'{match[1]}' is rejected by Keystone; write the bare target (its size is found), "
            "or a far jump as .byte 0xea, .long target, .word selector",
        )


def _immediate(text: str, lookup: Lookup, place: Place) -> Imm:
    if match := re.match(r"offset\b\s*(.*)$", text, re.IGNORECASE):
        return Imm(evaluate(match[1], lookup, place), offset=True)
    tokens = tokenize(text, place)
    if any(t.text == ":" for t in tokens):
        raise AsmError(place, "write a far jump as .byte 0xea, .long target, .word selector")
    return Imm(evaluate(text, lookup, place))


def _memory(text: str, size: int, segment: str, lookup: Lookup, place: Place) -> Mem:
    if match := _SEGMENT.match(text.strip()):
        raise AsmError(place, f"write the segment before the bracket: {match[1]}:[{match[2]}]")
    parser = _AddressParser(tokenize(text, place), lookup, place)
    value = parser.parse()
    if parser.peek():
        raise AsmError(place, f"unexpected {parser.peek()!r} in an address")
    base, index, scale = "", "", 1
    for name, factor in value.terms:
        if not name.startswith("%"):
            continue
        register = name.lstrip("%")
        _refuse_pseudo(register, place)
        if factor < 0:
            raise AsmError(place, f"{register} cannot be subtracted in an address")
        if name.startswith("%%"):
            if index:
                raise AsmError(place, "an address has one index register")
            index, scale = register, factor
        elif factor == 2 and not base and not index:
            base, index = register, register
        elif factor > 1 or (base and index):
            raise AsmError(place, "an address has at most two registers")
        elif base:
            index = register
        else:
            base = register
    disp = Linear(value.const, tuple(t for t in value.terms if not t[0].startswith("%")))
    return _checked(Mem(size, segment, base, index, scale, disp), place)


def _checked(mem: Mem, place: Place) -> Mem:
    """Refuse what no address can be, and put the stack pointer where it can be encoded."""
    if mem.index in ("rsp", "esp"):
        if mem.scale != 1 or mem.base in ("rsp", "esp"):
            raise AsmError(place, f"{mem.index} cannot be an index")
        mem = Mem(mem.size, mem.segment, mem.index, mem.base, 1, mem.disp)
    for register in (mem.base, mem.index):
        if register and register not in registers.GENERAL and register not in registers.POINTERS:
            raise AsmError(place, f"{register} cannot be part of an address")
    if (mem.base in registers.POINTERS and mem.index) or mem.index in registers.POINTERS:
        raise AsmError(place, "rip takes no index register")
    return mem
