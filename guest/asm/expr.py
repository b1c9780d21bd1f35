"""Expressions: tokens, GNU as's precedence, and what they evaluate to.

A value is linear: a constant plus symbols with integer coefficients (``label + 8``,
``end - start``).  Arithmetic is on 64-bit two's complement integers as in GNU as, whose
precedence is not C's: ``* / % << >>`` bind tightest, then ``| & ^ !``, then ``+ -``, then the
comparisons (which give -1 for true), then ``&&``, then ``||``.

Not modelled: floating point, numbers with a radix suffix, numeric local labels; each is an
error that says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kstack.guest.asm.errors import AsmError, Place

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[0-9][0-9A-Za-z_]*)
  | (?P<name>[A-Za-z_.$][A-Za-z0-9_.$]*)
  | (?P<char>'(?:\\.|[^\\])'?)
  | (?P<op><<|>>|==|!=|<>|<=|>=|&&|\|\||[-+*/%&|^!~()<>:,\[\]])
  | (?P<bad>\S)
)""",
    re.VERBOSE,
)
_ESCAPES = {"n": 10, "t": 9, "r": 13, "b": 8, "f": 12, "\\": 92, "'": 39, '"': 34, "0": 0}
_MASK = (1 << 64) - 1


def signed(value: int, bits: int = 64) -> int:
    """The two's complement reading of the low ``bits`` bits of ``value``."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


@dataclass(frozen=True)
class Linear:
    """A constant plus a sum of symbols, each with its coefficient (never 0)."""

    const: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    @property
    def is_const(self) -> bool:
        """Whether no symbol is left."""
        return not self.terms

    def add(self, other: Linear, sign: int = 1) -> Linear:
        """This plus ``sign`` times the other."""
        terms = dict(self.terms)
        for name, factor in other.terms:
            terms[name] = terms.get(name, 0) + sign * factor
        kept = tuple((name, factor) for name, factor in terms.items() if factor)
        return Linear(signed(self.const + sign * other.const), kept)

    def scale(self, factor: int) -> Linear:
        """This times a constant."""
        if not factor:
            return Linear()
        return Linear(signed(self.const * factor), tuple((n, f * factor) for n, f in self.terms))


class Lookup(Protocol):
    """How a name in an expression becomes a value; ``.`` is the current location."""

    def __call__(self, name: str, place: Place) -> Linear:
        """The value of `name`, used at `place`."""
        ...


@dataclass(frozen=True)
class Token:
    """One token: kind is number, name, char or op."""

    kind: str
    text: str


def tokenize(text: str, place: Place) -> list[Token]:
    """Split an expression or an operand into tokens.

    Raises AsmError on a character that starts no token.
    """
    tokens: list[Token] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None or match.lastgroup == "bad":
            raise AsmError(place, f"cannot read {text[position:].strip()!r} in an expression")
        tokens.append(Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return tokens


def number(text: str, place: Place) -> int:
    """The value of a number as GNU as reads it: decimal, ``0x``, ``0b``."""
    lower = text.lower()
    if re.fullmatch(r"\d+[bf]", lower) and not lower.startswith("0x"):
        raise AsmError(place, f"numeric local label {text}: Keystone has none; use a named label such as .Lretry")
    if re.fullmatch(r"0[0-7]+", lower):
        raise AsmError(place, f"{text} is octal for assemblers; write {int(lower, 8):#x} or drop the 0")
    try:
        return int(lower, 0)
    except ValueError:
        raise AsmError(place, f"{text} is not a number; write decimal, 0x... or 0b...") from None


def character(text: str, place: Place) -> int:
    """The code of a character constant such as ``'a'`` or ``'\\n'``."""
    body = text[1:-1] if len(text) > 2 and text.endswith("'") else text[1:]
    if body.startswith("\\"):
        if body[1:] not in _ESCAPES:
            raise AsmError(place, f"unknown escape {body} in a character constant")
        return _ESCAPES[body[1:]]
    if ord(body) > 127:
        raise AsmError(place, f"{text} is not ASCII; write its bytes as numbers")
    return ord(body)


_LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"==", "!=", "<>", "<", "<=", ">", ">="}),
    frozenset({"+", "-"}),
    frozenset({"|", "&", "^", "!"}),
    frozenset({"*", "/", "%", "<<", ">>"}),
)


def _divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_FOLD: dict[str, Callable[[int, int], int]] = {
    "||": lambda a, b: int(bool(a or b)),
    "&&": lambda a, b: int(bool(a and b)),
    "==": lambda a, b: -int(a == b),
    "!=": lambda a, b: -int(a != b),
    "<>": lambda a, b: -int(a != b),
    "<": lambda a, b: -int(a < b),
    "<=": lambda a, b: -int(a <= b),
    ">": lambda a, b: -int(a > b),
    ">=": lambda a, b: -int(a >= b),
    "|": lambda a, b: a | b,
    "&": lambda a, b: a & b,
    "^": lambda a, b: a ^ b,
    "!": lambda a, b: a | ~b,
    "/": _divide,
    "%": lambda a, b: a - b * _divide(a, b),
    "<<": lambda a, b: a << b if 0 <= b < 64 else 0,
    ">>": lambda a, b: (a & _MASK) >> b if 0 <= b < 64 else 0,
}


class Parser:
    """Recursive descent over tokens; ``at`` is the next one."""

    def __init__(self, tokens: list[Token], lookup: Lookup, place: Place) -> None:
        self.tokens, self.lookup, self.place, self.at = tokens, lookup, place, 0

    def peek(self) -> str:
        """The next token's text, or the empty string at the end."""
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def parse(self, level: int = 0) -> Linear:
        """The value of the expression that starts here."""
        if level == len(_LEVELS):
            return self._unary()
        left = self.parse(level + 1)
        while self.peek() in _LEVELS[level]:
            operator = self.peek()
            self.at += 1
            left = self.combine(operator, left, self.parse(level + 1))
        return left

    def combine(self, operator: str, left: Linear, right: Linear) -> Linear:
        """Apply a binary operator, or say why it cannot be applied to symbols."""
        if operator in "+-":
            return left.add(right, 1 if operator == "+" else -1)
        if operator == "*" and (left.is_const or right.is_const):
            return left.scale(right.const) if right.is_const else right.scale(left.const)
        if not (left.is_const and right.is_const):
            raise AsmError(self.place, f"{operator!r} needs values known here, not addresses")
        if operator in "/%" and not right.const:
            raise AsmError(self.place, "division by zero")
        return Linear(signed(_FOLD[operator](left.const, right.const)))

    def _unary(self) -> Linear:
        text = self.peek()
        self.at += 1
        if text == "-":
            return self._unary().scale(-1)
        if text == "+":
            return self._unary()
        if text in ("~", "!"):
            value = self._unary()
            if not value.is_const:
                raise AsmError(self.place, f"{text!r} needs a value known here, not an address")
            return Linear(~value.const if text == "~" else int(not value.const))
        if text == "(":
            value = self.parse()
            if self.peek() != ")":
                raise AsmError(self.place, "missing ) in an expression")
            self.at += 1
            return value
        return self._atom()

    def _atom(self) -> Linear:
        if self.at > len(self.tokens):
            raise AsmError(self.place, "expression ends too early")
        token = self.tokens[self.at - 1]
        if token.kind == "number":
            return Linear(signed(number(token.text, self.place)))
        if token.kind == "char":
            return Linear(character(token.text, self.place))
        if token.kind == "name":
            return self.lookup(token.text, self.place)
        raise AsmError(self.place, f"unexpected {token.text!r} in an expression")


MAX_NESTING = 100
_NESTING = frozenset("(-+~!")


def _nesting(tokens: list[Token]) -> int:
    """How deep parentheses and operators in front of operands lie in each other, at the most."""
    deepest = opened = row = 0
    for token in tokens:
        opened += (token.text == "(") - (token.text == ")")
        row = row + 1 if token.text in _NESTING else 0
        deepest = max(deepest, opened + row)
    return deepest


def evaluate(text: str, lookup: Lookup, place: Place) -> Linear:
    """Evaluate a whole expression.

    Raises AsmError where it cannot be read or something is left over.
    """
    tokens = tokenize(text, place)
    if sum(token.text in _NESTING for token in tokens) > MAX_NESTING and _nesting(tokens) > MAX_NESTING:
        raise AsmError(place, f"an expression nests deeper than {MAX_NESTING}")
    parser = Parser(tokens, lookup, place)
    value = parser.parse()
    if parser.peek():
        raise AsmError(place, f"unexpected {parser.peek()!r} after {text.strip()!r}")
    return value
