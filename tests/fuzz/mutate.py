"""Inputs made from others by a seed: bytes changed, cut, doubled, joined; numbers and names of the format put in."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

MAX_BYTES: Final = 1 << 16
NUMBERS: Final = (
    *(b"0", b"-1", b"1", b"255", b"4096", b"65536", b"2147483648", b"4294967296", b"9223372036854775807"),
    *(b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"1e999", b"nan", b"-0.5"),
    b"1" * 5000,
)
WORDS: Final = (
    *(b"[]", b"{}", b'""', b"null", b"true", b"[" * 3000, b"(" * 300, b'{"a":' * 3000, b"a." * 3000),
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b'"\\ud800"', b"\xc2\xb2", b"../" * 20, b"\n", b"\r\n"),
)
INTEGERS: Final = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0xFFFE,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 64) - 1,
)
_NUMBER: Final = re.compile(rb"-?[0-9]+")
_WORD: Final = re.compile(rb'"[^"\n]{0,80}"|[A-Za-z_-]{2,40}')


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """`data` changed once or a few times; pieces may come from `others`."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = rng.choice(_WAYS)(rng, data, others)[:MAX_BYTES]
    return data


def _flip(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return rng.randbytes(4)
    changed = bytearray(data)
    at = rng.randrange(len(changed))
    changed[at] = rng.choice((changed[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 0xFF))
    return bytes(changed)


def _integer(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    width, at = rng.choice((1, 2, 4, 8)), rng.randrange(max(1, min(len(data), rng.choice((64, 512, 1 << 16)))))
    value = rng.choice(INTEGERS) & (1 << 8 * width) - 1
    return data[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def _cut(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:first] if rng.random() < 0.3 else data[:first] + data[last:]


def _double(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[first:last] * rng.choice((2, 3, 50)) + data[last:]


def _join(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    first, last = sorted(rng.randrange(len(other) + 1) for _ in range(2))
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[first:last] + data[at if rng.random() < 0.5 else min(len(data), at + last - first) :]


def _number(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return _replaced(rng, data, _NUMBER, rng.choice(NUMBERS))


def _word(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    known = _WORD.findall(rng.choice(others)) or [b"x"]
    return _replaced(rng, data, _WORD, rng.choice(known) if rng.random() < 0.5 else rng.choice((*WORDS, *NUMBERS)))


def _line(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at, what = rng.randrange(len(lines)), rng.randrange(3)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    else:
        lines.append(lines.pop(at))
    return b"".join(lines)


def _replaced(rng: random.Random, data: bytes, pattern: re.Pattern[bytes], new: bytes) -> bytes:
    places = [match.span() for match in pattern.finditer(data)]
    if not places:
        return data + new
    first, last = rng.choice(places)
    return data[:first] + new + data[last:]


_WAYS: Final = (_flip, _flip, _integer, _cut, _double, _join, _number, _number, _word, _word, _line)
