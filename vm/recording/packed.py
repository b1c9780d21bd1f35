"""A schedule's choices as text: base64 of deflated variable-length integers."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from typing import Final

from kstack.schedule.base import Choice

PIECE: Final = 1 << 16  # bytes inflated at once


def pack(choices: list[Choice]) -> str:
    """Choices as text: base64 of deflated variable-length integers."""
    raw = bytearray()
    for choice in choices:
        for number in choice:
            while number >= 0x80:
                raw.append(number & 0x7F | 0x80)
                number >>= 7
            raw.append(number)
    return base64.b64encode(zlib.compress(bytes(raw), 9)).decode()


def unpack(text: str) -> Iterator[Choice]:
    """What `pack` packed, piece by piece, so that little text cannot become much memory."""
    inflater = zlib.decompressobj()
    packed = base64.b64decode(text, validate=True)
    value = shift = 0
    cpu: int | None = None
    while packed:
        raw = inflater.decompress(packed, PIECE)
        packed = inflater.unconsumed_tail
        for byte in raw:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 70:
                raise ValueError("a number in it has no end")
            if byte & 0x80:
                continue
            if cpu is None:
                cpu = value
            else:
                yield Choice(cpu, value)
                cpu = None
            value = shift = 0
    if shift or cpu is not None or not inflater.eof:
        raise ValueError("it ends in the middle of a choice")
