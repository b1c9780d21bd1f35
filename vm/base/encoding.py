"""Values as bytes that are equal where the values are equal, of the same types: by these, states are told apart and merged.

What a state is made of is of few types: numbers, texts, bytes, enumerations, tuples, and records of these. Of anything else
nobody knows what makes two of them the same, so it is refused. No text that a class writes about itself decides.
"""

from __future__ import annotations

import dataclasses
import struct
from enum import Enum
from typing import Final

_LONG: Final = 4


def encoded(value: object) -> bytes:
    """A value as bytes; no two values have the same, and none is the beginning of another's.

    Args:
        value: None, a number, a text, bytes, a member of an enumeration, or a tuple, frozen set, dictionary or dataclass of such
            values. Of a class, its name counts too.

    Raises:
        TypeError: it is nothing of the kind.
    """
    if value is None:
        return b"n"
    if type(value) is int:
        return b"i%d;" % value
    if type(value) is tuple:
        return _of_tuple(value)
    if type(value) is str or type(value) is bytes:
        return _text(value)
    if type(value) is bool:
        return b"t" if value else b"f"
    return b"c%b%b" % (_text(type(value).__qualname__), _of_class(value))


def _of_tuple(value: tuple[object, ...]) -> bytes:
    """A tuple; a long one of addresses and the like in one go."""
    if len(value) >= _LONG and set(map(type, value)) == {int}:
        try:
            return b"q%d:%b" % (len(value), struct.pack(f"<{len(value)}Q", *value))
        except struct.error:
            pass  # a negative number, or one of more than 64 bits
    return b"(%b)" % b"".join(map(encoded, value))


def _text(value: str | bytes) -> bytes:
    """A text or bytes, with its length."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return b"%b%d:%b" % (b"s" if isinstance(value, str) else b"b", len(data), data)


def _of_class(value: object) -> bytes:
    """What tells a value from others of its class."""
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, Enum):
        return _text(value.name)
    if isinstance(value, tuple):
        return b"(%b)" % b"".join(map(encoded, value))
    if isinstance(value, str | bytes):
        return _text(value)
    if isinstance(value, float):
        return _text(value.hex())
    if isinstance(value, frozenset):
        return b"(%b)" % b"".join(sorted(map(encoded, value)))
    if type(value) is dict:
        return b"(%b)" % b"".join(sorted(encoded(item) for item in value.items()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return b"(%b)" % b"".join(encoded(getattr(value, field.name)) for field in dataclasses.fields(value))
    raise TypeError(f"a state holds a {type(value).__qualname__}, and nobody knows when two of them are the same")
