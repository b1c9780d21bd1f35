"""Macros: their definitions, their arguments, and the text that a use of one becomes.

As GNU as does it: arguments by position or ``name=value``, defaults ``name=value``,
``name:req``, ``name:vararg``, ``\\name``, ``\\()`` as a separator and ``\\@`` for the number of
expansions so far.  Not accepted: arguments separated by spaces alone (write commas, or quote
an argument that contains spaces).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.source import Line, split_commas

_NAME = r"[A-Za-z_.$][A-Za-z0-9_.$]*"
_USE = re.compile(rf"\\(@|\(\)|{_NAME})")
_PARAMETER = re.compile(rf"({_NAME})(?::(req|vararg))?(?:=(.*))?$")
_GLUED = re.compile(r"\s*([-+*/%&|^~<>=!,:()\[\]])\s*")


@dataclass(frozen=True)
class Parameter:
    """A macro's parameter; ``default`` is the empty string when none was given."""

    name: str
    required: bool
    vararg: bool
    default: str


@dataclass(frozen=True)
class Macro:
    """A macro as defined between ``.macro`` and ``.endm``."""

    name: str
    parameters: tuple[Parameter, ...]
    body: tuple[Line, ...]

    def expand(self, arguments: str, count: int, place: Place) -> list[Line]:
        """The lines of one use.

        Parameters: the argument text, the number of expansions before this one (for ``\\@``),
        and the place of the use.  Raises AsmError on wrong arguments.
        """
        values = self._bind(split_commas(arguments), place)
        values["@"] = str(count)
        return substitute(self.body, values, self.name)

    def _bind(self, arguments: Sequence[str], place: Place) -> dict[str, str]:
        values = {p.name: p.default for p in self.parameters}
        given: set[str] = set()
        for index, argument in enumerate(arguments):
            keyword = re.match(rf"({_NAME})\s*=(?!=)\s*(.*)$", argument)
            if keyword and keyword[1] in values:
                name, value = keyword[1], keyword[2]
            elif index < len(self.parameters):
                name, value = self.parameters[index].name, argument
                if self.parameters[index].vararg:
                    values[name] = ", ".join(arguments[index:])
                    given.add(name)
                    break
            else:
                raise AsmError(place, f"macro {self.name} takes {len(self.parameters)} arguments")
            if value:
                given.add(name)
                values[name] = plain(value, place)
        for parameter in self.parameters:
            if parameter.required and parameter.name not in given:
                raise AsmError(place, f"macro {self.name} needs its argument {parameter.name}")
        return values


def plain(argument: str, place: Place) -> str:
    """A macro argument without its quotes.

    Raises AsmError where spaces would split it in GNU as.
    """
    if len(argument) > 1 and argument[0] == argument[-1] == '"':
        return argument[1:-1].replace('\\"', '"')
    if re.match(r"'", argument):
        return argument
    glued = _GLUED.sub(r"\1", argument)
    if re.search(r"\s", glued) and not glued.startswith("("):
        raise AsmError(place, f"macro argument {argument!r} contains spaces, which separate arguments: quote it")
    return glued


def substitute(body: Sequence[Line], values: Mapping[str, str], name: str) -> list[Line]:
    """Put the values in for ``\\name`` in each line; lines that become empty are dropped."""

    def replace(match: re.Match[str]) -> str:
        key = match[1]
        if key == "()":
            return ""
        return values.get(key, match[0])

    lines: list[Line] = []
    for line in body:
        text = _USE.sub(replace, line.text).strip()
        if text:
            lines.append(Line(text, Place(line.place.file, line.place.line, name)))
    return lines


def define(header: str, body: Sequence[Line], place: Place) -> Macro:
    """Make a macro of what follows ``.macro`` and of its body.

    Raises AsmError when a parameter cannot be read.
    """
    match = re.match(rf"({_NAME})\s*,?\s*(.*)$", header)
    if match is None:
        raise AsmError(place, ".macro needs a name")
    parameters = []
    texts = re.sub(r"\s*=\s*", "=", match[2])
    for text in [t for part in split_commas(texts) for t in part.split()]:
        parsed = _PARAMETER.match(text)
        if parsed is None:
            raise AsmError(place, f"cannot read the macro parameter {text!r}")
        kind, default = parsed[2], parsed[3] or ""
        parameters.append(Parameter(parsed[1], kind == "req", kind == "vararg", default.strip('"')))
    return Macro(match[1], tuple(parameters), tuple(body))
