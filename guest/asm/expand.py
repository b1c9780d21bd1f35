"""From lines to statements: labels split off, macros and repetitions expanded, ``.if`` decided.

Statements come out one at a time, because ``.if`` and ``.rept`` ask for constants that the
statements before them define.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.macro import Macro, define, plain, substitute
from kstack.guest.asm.source import Line, split_commas

_NAME = r"[A-Za-z_.$][A-Za-z0-9_.$]*"
_LABEL = re.compile(rf"({_NAME}|\d+):(?!:)\s*(.*)$")
_ASSIGN = re.compile(rf"({_NAME})\s*=(?!=)\s*(.*)$")
_WORD = re.compile(rf"({_NAME})\s*(.*)$")
_LIMIT = 200_000
_DEPTH = 200
_LOOPS = frozenset({".rept", ".irp", ".irpc"})


@dataclass(frozen=True)
class Statement:
    """One statement.

    ``kind`` is ``label``, ``assign``, ``directive`` or ``instruction``; ``name`` is the label,
    the symbol, the directive with its dot or the first word of the instruction; ``rest`` is what
    follows it.
    """

    kind: str
    name: str
    rest: str
    place: Place


@dataclass
class _If:
    taken: bool
    """Whether some branch has been taken already."""
    active: bool
    """Whether lines are being assembled now."""
    outer: bool
    place: Place


class Expander:
    """Expands the lines of one program; macros live as long as it does."""

    def __init__(self, constant: Callable[[str, Place], int], defined: Callable[[str], bool]) -> None:
        self._constant, self._defined = constant, defined
        self._macros: dict[str, Macro] = {}
        self._count = 0
        self._lines = 0
        self._depth = 0
        self._pending: deque[Line | None] = deque()
        self._source: Iterator[Line] = iter(())
        self._ifs: list[_If] = []

    def saved(self) -> tuple[dict[str, Macro], int, int]:
        """What there is between two files: the macros, and how much has been expanded."""
        return dict(self._macros), self._count, self._lines

    def restore(self, saved: tuple[dict[str, Macro], int, int]) -> None:
        """Become what was saved."""
        macros, self._count, self._lines = saved
        self._macros = dict(macros)

    def statements(self, source: Iterator[Line]) -> Iterator[Statement]:
        """The statements of one file.

        Raises AsmError on whatever cannot be expanded.
        """
        self._source, self._ifs = source, []
        while (line := self._next()) is not None:
            yield from self._line(line)
        if self._ifs:
            raise AsmError(self._ifs[-1].place, "this .if has no .endif")

    def _next(self) -> Line | None:
        while self._pending:
            line = self._pending.popleft()
            if line is None:  # the end of a macro's expansion
                self._depth -= 1
            else:
                self._lines += 1
                if self._lines > _LIMIT:
                    raise AsmError(line.place, f"more than {_LIMIT} lines of macro expansion: endless?")
                return line
        return next(self._source, None)

    def _line(self, line: Line) -> Iterator[Statement]:
        text, place = line.text, line.place
        if self._skipping():
            word = _WORD.match(text)
            if word:
                self._conditional(word[1], word[2], place)
            return
        while match := _LABEL.match(text):
            if match[1].isdigit():
                raise AsmError(
                    place,
                    f"numeric local label {match[1]}: Keystone has none; use a named label such as .Lretry",
                )
            if _is_segment(match[1]):
                break
            yield Statement("label", match[1], "", place)
            text = match[2]
        if not text:
            return
        if match := _ASSIGN.match(text):
            yield Statement("assign", match[1], match[2], place)
            return
        word = _WORD.match(text)
        if word is None:
            raise AsmError(place, f"cannot read {text!r}: not a label, a directive or an instruction")
        yield from self._word(word[1], word[2].strip(), place)

    def _word(self, name: str, rest: str, place: Place) -> Iterator[Statement]:
        if self._conditional(name, rest, place):
            return
        if name == ".macro":
            macro = define(rest, self._body({".macro"}, ".endm", place), place)
            if macro.name.lower() in self._macros:
                raise AsmError(place, f"macro {macro.name} is defined twice; .purgem it first")
            self._macros[macro.name.lower()] = macro
        elif name in _LOOPS:
            self._push(self._loop(name, rest, self._body(_LOOPS, ".endr", place), place))
        elif name == ".purgem":
            self._macros.pop(rest.lower(), None)
        elif name == ".exitm":
            while self._pending and self._pending[0] is not None:
                self._pending.popleft()
        elif name in (".endm", ".endr"):
            raise AsmError(place, f"{name} without a beginning")
        elif name.lower() in self._macros:
            lines = self._macros[name.lower()].expand(rest, self._count, place)
            self._count += 1
            self._depth += 1
            if self._depth > _DEPTH:
                raise AsmError(place, f"macros nest deeper than {_DEPTH}: endless?")
            self._push([*lines, None])
        elif name.startswith("."):
            yield Statement("directive", name, rest, place)
        else:
            yield Statement("instruction", name, rest, place)

    def _push(self, lines: list[Line | None] | list[Line]) -> None:
        self._pending.extendleft(reversed(lines))

    def _body(self, openers: frozenset[str] | set[str], closer: str, place: Place) -> list[Line]:
        body: list[Line] = []
        depth = 1
        while True:
            line = self._next()
            if line is None:
                raise AsmError(place, f"no {closer} for this")
            word = re.match(rf"(?:{_NAME}:\s*)*({_NAME})", line.text)
            if word and word[1] in openers:
                depth += 1
            elif word and word[1] == closer:
                depth -= 1
                if not depth:
                    return body
            body.append(line)

    def _loop(self, name: str, rest: str, body: list[Line], place: Place) -> list[Line]:
        if name == ".rept":
            count = self._constant(rest, place)
            if count < 0 or count * max(len(body), 1) > _LIMIT:
                raise AsmError(place, f".rept {count}: must be 0 or more and give under {_LIMIT} lines")
            return substitute(body, {}, ".rept") * count
        variable, *values = split_commas(rest)
        if name == ".irpc":
            values = list("".join(values))
        return [line for value in values or [""] for line in substitute(body, {variable: plain(value, place)}, name)]

    def _skipping(self) -> bool:
        return bool(self._ifs) and not self._ifs[-1].active

    def _conditional(self, name: str, rest: str, place: Place) -> bool:
        """Handle ``name`` if it is one of the ``.if`` family; whether it was."""
        if name.startswith(".if"):
            outer = not self._skipping()
            active = outer and self._decide(name, rest, place)
            self._ifs.append(_If(active, active, outer, place))
        elif name in (".else", ".elseif", ".endif"):
            if not self._ifs:
                raise AsmError(place, f"{name} without an .if")
            top = self._ifs[-1]
            if name == ".endif":
                self._ifs.pop()
            else:
                open_ = top.outer and not top.taken
                top.active = open_ and (name == ".else" or bool(self._constant(rest, place)))
                top.taken = top.taken or top.active
        else:
            return False
        return True

    def _decide(self, name: str, rest: str, place: Place) -> bool:
        if name in (".ifdef", ".ifndef", ".ifnotdef"):
            return self._defined(rest) == (name == ".ifdef")
        if name in (".ifb", ".ifnb"):
            return (rest.strip().strip('"') == "") == (name == ".ifb")
        if name in (".ifc", ".ifnc"):
            left, right = ([*split_commas(rest), "", ""])[:2]
            return (left.strip("'\"") == right.strip("'\"")) == (name == ".ifc")
        tests: dict[str, Callable[[int], bool]] = {
            ".if": lambda v: v != 0,
            ".ifne": lambda v: v != 0,
            ".ifeq": lambda v: v == 0,
            ".ifgt": lambda v: v > 0,
            ".ifge": lambda v: v >= 0,
            ".iflt": lambda v: v < 0,
            ".ifle": lambda v: v <= 0,
        }
        if name not in tests:
            raise AsmError(place, f"unknown directive {name}; write .if, .ifdef, .ifb or .ifc")
        return tests[name](self._constant(rest, place))


def _is_segment(name: str) -> bool:
    return name in ("cs", "ds", "es", "fs", "gs", "ss")
