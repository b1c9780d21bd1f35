"""From source files to sections and symbols: labels, constants, directives, instructions."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kstack.guest.asm import data, instruction, registers
from kstack.guest.asm.encode import Branch, Encoder, Slot
from kstack.guest.asm.errors import NOWHERE, AsmError, Place
from kstack.guest.asm.expand import Expander, Statement
from kstack.guest.asm.expr import Linear, evaluate
from kstack.guest.asm.layout import Access, Layout
from kstack.guest.asm.section import Chunk, Jump, Label, Section
from kstack.guest.asm.source import Line, find

_R, _W, _X = Access.R, Access.W, Access.X
_KNOWN = {
    ".boot": _R | _W | _X,
    ".note": _R,
    ".text": _R | _X,
    ".rodata": _R,
    ".data": _R | _W,
    ".bss": _R | _W,
}
_SECTION = re.compile(r'([A-Za-z0-9_.$-]+)\s*(?:,\s*"([a-zA-Z]*)"\s*(?:,\s*[@%](\w+))?)?$')
_IGNORED = frozenset({".globl", ".global", ".extern", ".local", ".file", ".ident", ".hidden"})
_REFUSED = {
    ".org": "write .skip TARGET-(.-start)",
    ".weak": "every symbol of a program is strong; leave it out",
    ".comm": "reserve the space in .bss with .skip",
    ".lcomm": "reserve the space in .bss with .skip",
    ".att_syntax": "write Intel syntax",
    ".equiv": "write .equ",
    ".altmacro": "write \\@ and \\()",
    ".subsection": "write .section NAME",
}
_TYPES = {"function": "func", "object": "object", "notype": "notype"}


@dataclass(frozen=True)
class Constant:
    """A symbol defined by ``.equ``."""

    value: Linear
    place: Place


@dataclass
class Attributes:
    """What ``.type``, ``.size`` and ``.globl`` say of a symbol."""

    type: str = "notype"
    size: Linear | None = None
    place: Place = NOWHERE


@dataclass
class Program:
    """Everything assembled, ready to be linked."""

    sections: dict[str, Section] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    redefined: set[str] = field(default_factory=set)
    attributes: dict[str, Attributes] = field(default_factory=dict)


class Assembler:
    """Assembles the files of one program, one after the other."""

    def __init__(self, layout: Layout, include: Sequence[Path], defines: Mapping[str, int], bits: int) -> None:
        self.program = Program()
        self._layout, self._include, self._first_bits = layout, include, bits
        self._encoder = Encoder()
        self._expander = Expander(self._constant, self._defined)
        self._unit = 0
        self._bits = bits
        self._previous = ".text"
        self._stack: list[str] = []
        for name, value in defines.items():
            self.program.constants[name] = Constant(Linear(value), NOWHERE)
        self._section = self._get(".text", NOWHERE, None, False)

    def saved(self) -> bytes:
        """All that later files depend on, for `restore`."""
        return pickle.dumps((self.program, self._unit, self._expander.saved()), pickle.HIGHEST_PROTOCOL)

    def restore(self, saved: bytes) -> None:
        """Go on behind the files after which another assembler of the same layout was saved."""
        self.program, self._unit, macros = pickle.loads(saved)
        self._expander.restore(macros)

    def file(self, lines: Iterator[Line]) -> None:
        """Assemble one file, which begins in ``.text`` and in the program's first mode.

        Raises AsmError at the first statement that is wrong.
        """
        self._unit += 1
        self._bits = self._first_bits
        self._enter(".text", NOWHERE)
        for statement in self._expander.statements(lines):
            self._statement(statement)

    def _statement(self, s: Statement) -> None:
        if s.kind == "label":
            self._label(s.name, s.place)
        elif s.kind == "assign":
            self._assign(s.name, s.rest, s.place)
        elif s.kind == "directive":
            self._directive(s.name, s.rest, s.place)
        else:
            self._instruction(s)

    # symbols

    def _key(self, name: str) -> str:
        """Labels that begin with ``.L`` belong to their file."""
        return f"{name}\0{self._unit}" if name.startswith(".L") else name

    def _here(self) -> Linear:
        section = self._section
        self.program.labels.setdefault(section.run_name, Label(section.name, section.run_index))
        return Linear(section.run_offset, ((section.run_name, 1),))

    def _label(self, name: str, place: Place) -> None:
        key = self._key(name)
        self._fresh(name, key, place)
        self.program.labels[key] = Label(self._section.name, len(self._section.items))
        self.program.constants[f"\0at {key}"] = Constant(self._here(), place)
        self.program.places[key] = place

    def _fresh(self, name: str, key: str, place: Place) -> None:
        if name.lower() in registers.NAMES:
            raise AsmError(place, f"{name} is a register; choose another name")
        if name.lower() in registers.RESERVED:
            raise AsmError(place, f"{name} is an operator of Intel syntax; choose another name")
        before = self.program.places.get(key)
        if key in self.program.constants:
            before = self.program.constants[key].place
        if before is not None:
            raise AsmError(place, f"{name} is already defined at {before}")

    def _assign(self, name: str, text: str, place: Place) -> None:
        key = self._key(name)
        if name == ".":
            raise AsmError(place, "'.' cannot be set; write .skip")
        if key in self.program.labels or name.lower() in registers.NAMES | registers.RESERVED:
            self._fresh(name, key, place)
        value = self._value(text, place)
        if key in self.program.constants:
            self.program.redefined.add(key)
        self.program.constants[key] = Constant(value, place)

    def _lookup(self, name: str, place: Place) -> Linear:
        if name == ".":
            return self._here()
        if name.lower() in registers.NAMES:
            raise AsmError(place, f"register {name} cannot be part of this expression")
        key = self._key(name)
        known = self.program.constants.get(f"\0at {key}") or self.program.constants.get(key)
        return known.value if known is not None else Linear(0, ((key, 1),))

    def _operand_lookup(self, name: str, place: Place) -> Linear:
        value = self._lookup(name, place)
        if value.terms and not sum(f for _, f in value.terms):
            raise AsmError(place, f"{name} is not a number yet here; define it after the labels it measures")
        return value

    def _value(self, text: str, place: Place) -> Linear:
        return evaluate(text, self._lookup, place)

    def _constant(self, text: str, place: Place) -> int:
        value = self._value(text, place)
        if not value.is_const:
            name = value.terms[0][0].split("\0")[0] or "an address"
            raise AsmError(place, f"{text.strip()!r} must be known here, but {name} is not a constant yet")
        return value.const

    def _defined(self, name: str) -> bool:
        key = self._key(name)
        return key in self.program.constants or key in self.program.labels

    # statements

    def _instruction(self, s: Statement) -> None:
        self._refuse_nobits(s.place)
        read = instruction.read(s.name, s.rest, self._operand_lookup, s.place)
        encoded = self._encoder.encode(read, self._bits, s.place)
        if isinstance(encoded, Branch):
            self._branch(encoded, s.place)
        else:
            self._section.append(Chunk(encoded.code, encoded.slots, s.place, code=True))

    def _branch(self, branch: Branch, place: Place) -> None:
        """A branch with one form, or to a constant, has its size now, as in GNU as."""
        if branch.short and branch.near and not branch.target.is_const:
            self._section.append(Jump(branch, place))
            return
        code, size = (branch.near, branch.near_size) if branch.near else (branch.short, 1)
        slot = Slot(len(code), size, branch.target, relative=True)
        self._section.append(Chunk(code + bytes(size), (slot,), place, code=True))

    def _refuse_nobits(self, place: Place) -> None:
        if self._section.nobits:
            raise AsmError(place, f"{self._section.name} holds no bytes; reserve space with .skip")

    def _directive(self, name: str, rest: str, place: Place) -> None:
        if name in data.NAMES:
            self._data(name, rest, place)
        elif name in (".text", ".data", ".bss", ".section", ".pushsection", ".popsection", ".previous"):
            self._switch(name, rest, place)
        elif name in (".code16", ".code32", ".code64"):
            self._bits = int(name[5:])
        elif name in (".equ", ".set"):
            symbol, comma, text = rest.partition(",")
            if not comma:
                raise AsmError(place, f"write {name} NAME, value")
            self._assign(symbol.strip(), text, place)
        elif name == ".type":
            symbol, _, kind = rest.partition(",")
            self._attributes(symbol, place).type = _TYPES.get(kind.strip().lstrip("@%").lower(), "notype")
        elif name == ".size":
            symbol, _, text = rest.partition(",")
            self._attributes(symbol, place).size = self._value(text, place)
        elif name == ".intel_syntax" and rest == "noprefix":
            return
        elif name == ".error":
            raise AsmError(place, rest.strip('"') or ".error")
        elif name in _REFUSED:
            raise AsmError(place, f"{name} is not accepted here; {_REFUSED[name]}")
        elif name not in _IGNORED:
            raise AsmError(place, f"unknown directive {name}; see the dialect in guest/asm/__init__.py")

    def _attributes(self, symbol: str, place: Place) -> Attributes:
        found = self.program.attributes.setdefault(self._key(symbol.strip()), Attributes())
        found.place = place
        return found

    def _data(self, name: str, rest: str, place: Place) -> None:
        section = self._section
        before = len(section.items)
        context = data.Context(section, self._value, self._constant, self._find)
        data.emit(name, rest, context, place)
        if section.nobits:
            for item in section.items[before:]:
                if isinstance(item, Chunk) and (any(item.data) or item.slots):
                    self._refuse_nobits(place)

    def _find(self, name: str, place: Place) -> Path:
        return find(name, Path(place.file).parent, self._include, place)

    def _switch(self, name: str, rest: str, place: Place) -> None:
        if name in (".popsection", ".previous"):
            if name == ".popsection" and not self._stack:
                raise AsmError(place, ".popsection without .pushsection")
            self._enter(self._stack.pop() if name == ".popsection" else self._previous, place)
            return
        if name == ".pushsection":
            self._stack.append(self._section.name)
        match = _SECTION.match(rest if name in (".section", ".pushsection") else name)
        if match is None:
            raise AsmError(place, 'write .section NAME or .section NAME, "flags", @progbits')
        self._enter(match[1], place, match[2], match[3] == "nobits")

    def _enter(self, name: str, place: Place, flags: str | None = None, nobits: bool = False) -> None:
        self._previous = self._section.name
        self._section = self._get(name, place, flags, nobits)

    def _get(self, name: str, place: Place, flags: str | None, nobits: bool) -> Section:
        if name not in self.program.sections:
            access, zeros = self._access(name, flags)
            self.program.sections[name] = Section(name, access, nobits or zeros, place)
        return self.program.sections[name]

    def _access(self, name: str, flags: str | None) -> tuple[Access, bool]:
        """What a section allows, and whether it is without bytes."""
        placed = next((p for p in self._layout.placements if p.takes(name)), None)
        if flags is not None:
            access = _R | (_W if "w" in flags else _R) | (_X if "x" in flags else _R)
            return access, placed is not None and placed.nobits
        known = next((a for k, a in _KNOWN.items() if name == k or name.startswith(k + ".")), None)
        if known is None:
            known = placed.access if placed is not None else _R | _W
        zeros = placed.nobits if placed is not None else name.startswith(".bss")
        return known, zeros
