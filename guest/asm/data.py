"""Directives that emit data: numbers, strings, files, space, alignment.

None of it goes through Keystone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kstack.guest.asm.encode import Slot
from kstack.guest.asm.errors import AsmError, Place
from kstack.guest.asm.expr import Linear
from kstack.guest.asm.layout import Access
from kstack.guest.asm.section import Align, Chunk, Item, Section, Space
from kstack.guest.asm.source import split_commas

_SIZES = {
    ".byte": 1, ".short": 2, ".word": 2, ".hword": 2, ".2byte": 2,
    ".long": 4, ".int": 4, ".4byte": 4, ".quad": 8, ".8byte": 8,
}  # fmt: skip
_STRINGS = {".ascii": b"", ".asciz": b"\0", ".string": b"\0"}
_SPACES = frozenset({".zero", ".skip", ".space", ".fill"})
_ALIGNS = frozenset({".align", ".balign", ".p2align"})
_ESCAPES = {"n": 10, "t": 9, "r": 13, "b": 8, "f": 12, "\\": 92, '"': 34}
_MOST = 64 << 20

NAMES = frozenset(_SIZES) | frozenset(_STRINGS) | _SPACES | _ALIGNS | {".octa", ".incbin"}
"""The directives that `emit` knows."""


@dataclass(frozen=True)
class Context:
    """What a data directive needs from the assembler."""

    section: Section
    value: Callable[[str, Place], Linear]
    constant: Callable[[str, Place], int]
    find: Callable[[str, Place], Path]


def emit(name: str, rest: str, context: Context, place: Place) -> None:
    """Append what one data directive says to the current section.

    Raises AsmError on arguments that are missing, too many, too large or not of their kind.
    """
    arguments = split_commas(rest)
    if name in _ALIGNS:
        item: Item = _align(name, arguments, context, place)
    elif name in _SPACES:
        item = _space(name, arguments, context, place)
    elif name in _STRINGS:
        data = b"".join(string(a, place) + _STRINGS[name] for a in arguments)
        item = Chunk(data, (), place)
    elif name == ".octa":
        item = Chunk(b"".join(_octa(a, place) for a in arguments), (), place)
    elif name == ".incbin":
        item = Chunk(_incbin(arguments, context, place), (), place)
    else:
        _numbers(_SIZES[name], arguments, context, place)
        return
    context.section.append(item)


def _numbers(size: int, arguments: list[str], context: Context, place: Place) -> None:
    """Append numbers, each by itself: ``.`` in one is the address of that number, as in GNU as."""
    if not arguments:
        raise AsmError(place, "nothing to emit: give one value or more")
    for argument in arguments:
        value = context.value(argument, place)
        if not value.is_const:
            context.section.append(Chunk(bytes(size), (Slot(0, size, value),), place))
            continue
        if not -(1 << (8 * size - 1)) <= value.const < 1 << (8 * size):
            raise AsmError(place, f"{value.const:#x} does not fit {size} bytes")
        number = (value.const % (1 << (8 * size))).to_bytes(size, "little")
        context.section.append(Chunk(number, (), place))


def _octa(argument: str, place: Place) -> bytes:
    try:
        return (int(argument, 0) % (1 << 128)).to_bytes(16, "little")
    except ValueError:
        raise AsmError(place, f".octa takes numbers; split {argument!r} into two .quad") from None


def string(text: str, place: Place) -> bytes:
    """The bytes of a quoted string with GNU as's escapes.

    Raises AsmError when it is not quoted or an escape is unknown.
    """
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise AsmError(place, f"{text} is not a string; write it in double quotes")
    out = bytearray()
    for match in re.finditer(r"\\([0-7]{1,3})|\\x([0-9A-Fa-f]+)|\\(.)|([^\\]+)", text[1:-1]):
        octal, hexadecimal, escape, plain = match.groups()
        if octal is not None:
            out.append(int(octal, 8) & 0xFF)
        elif hexadecimal is not None:
            out.append(int(hexadecimal, 16) & 0xFF)
        elif escape is None:
            out += plain.encode()
        elif escape in _ESCAPES:
            out.append(_ESCAPES[escape])
        else:
            raise AsmError(place, f"unknown escape \\{escape} in a string")
    return bytes(out)


def _incbin(arguments: list[str], context: Context, place: Place) -> bytes:
    if not 1 <= len(arguments) <= 3:
        raise AsmError(place, 'write .incbin "file"[, skip[, count]]')
    path = context.find(string(arguments[0], place).decode(), place)
    skip = context.constant(arguments[1], place) if len(arguments) > 1 and arguments[1] else 0
    data = path.read_bytes()[skip:]
    return data[: context.constant(arguments[2], place)] if len(arguments) > 2 else data


def _space(name: str, arguments: list[str], context: Context, place: Place) -> Item:
    most = 3 if name == ".fill" else 2
    if not 1 <= len(arguments) <= most:
        raise AsmError(place, f"{name} takes 1 to {most} arguments")
    numbers = [context.constant(a, place) for a in arguments[1:]]
    count = context.value(arguments[0], place)
    size, fill = 1, numbers[-1] if numbers else 0
    if name == ".fill":
        size, fill = (numbers[0] if numbers else 1), (numbers[1] if len(numbers) > 1 else 0)
        if not 1 <= size <= 8 or not -(1 << 31) <= fill < 1 << 32:
            raise AsmError(place, ".fill takes a size of 1 to 8 bytes and a value of at most 32 bits")
    if not count.is_const:
        if size != 1:
            raise AsmError(place, f"{name} by a count that depends on addresses has a size of 1 byte")
        return Space(count, fill & 0xFF, place)
    if not 0 <= count.const * size <= _MOST:
        raise AsmError(place, f"{name} of {count.const} is not between 0 and {_MOST} bytes")
    unit = (fill % (1 << 32)).to_bytes(8, "little")[:size]
    return Chunk(unit * count.const, (), place)


def _align(name: str, arguments: list[str], context: Context, place: Place) -> Align:
    if not 1 <= len(arguments) <= 3:
        raise AsmError(place, f"{name} takes 1 to 3 arguments")
    boundary = context.constant(arguments[0], place)
    if name == ".p2align":
        boundary = 1 << boundary if 0 <= boundary < 31 else 0
    if boundary < 1 or boundary & (boundary - 1) or boundary > 1 << 30:
        raise AsmError(place, f"{name} {arguments[0]} is not a power of two")
    given = len(arguments) > 1 and arguments[1] != ""
    if Access.X in context.section.access and not given:
        raise AsmError(place, f"{name} among code needs its fill: write {name} {arguments[0]}, 0x90 (or 0xcc)")
    fill = context.constant(arguments[1], place) & 0xFF if given else 0
    most = context.constant(arguments[2], place) if len(arguments) > 2 else boundary
    return Align(boundary, bytes([fill]), most, place)
