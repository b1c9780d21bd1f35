"""Packets of GDB's remote serial protocol: GDB manual, appendix E.1 (Overview).

`$data#cc`, with cc the sum of the data's bytes modulo 256; `}` escapes the bytes that frame a
packet; `+` and `-` acknowledge; the byte 03 outside of a packet interrupts. Run-length encoding is
never sent, and never comes from GDB.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

MAX_PACKET: Final = 0x4000  # bytes of data, escaped, that are taken and promised (qSupported's PacketSize)
_HEX: Final = re.compile(rb"[0-9a-fA-F]{1,16}")
_ESCAPE: Final = 0x7D
_ESCAPED: Final = b"#$}*"


class ProtocolError(Exception):
    """A packet that makes no sense: answered by an error, and nothing has happened."""


class ReceivedKind(enum.Enum):
    """What can come over the line."""

    PACKET = "a packet whose checksum is right"
    DAMAGED = "a packet whose checksum is wrong, or that is longer than promised"
    ACK = "+"
    NAK = "-"
    INTERRUPT = "byte 03"


class Received(NamedTuple):
    """One of these, with the unescaped data of a packet."""

    kind: ReceivedKind
    data: bytes = b""


def frame(data: bytes) -> bytes:
    """`data`, escaped already where it need be, as a packet."""
    return b"$" + data + b"#%02x" % (sum(data) & 0xFF)


def escape(data: bytes) -> bytes:
    """Binary data as it stands in a packet (E.1, Binary Data)."""
    out = bytearray()
    for byte in data:
        out += bytes((_ESCAPE, byte ^ 0x20)) if byte in _ESCAPED else bytes((byte,))
    return bytes(out)


def unescape(data: bytes) -> bytes:
    """What `escape` escaped."""
    out, escaped = bytearray(), False
    for byte in data:
        if escaped or byte != _ESCAPE:
            out.append(byte ^ 0x20 if escaped else byte)
            escaped = False
        else:
            escaped = True
    return bytes(out)


def number(text: bytes) -> int:
    """A number in hexadecimal, of 1 to 16 digits.

    Raises:
        ProtocolError: it is none.
    """
    if _HEX.fullmatch(text) is None:
        raise ProtocolError(f"{text[:20]!r} is no number")
    return int(text, 16)


def numbers(text: bytes, separator: bytes = b",", count: int = 2) -> list[int]:
    """Exactly `count` numbers with `separator` between them.

    Raises:
        ProtocolError: they are not.
    """
    parts = text.split(separator)
    if len(parts) != count:
        raise ProtocolError(f"{text[:40]!r} are not {count} numbers")
    return [number(part) for part in parts]


def octets(text: bytes) -> bytes:
    """The bytes of pairs of hexadecimal digits.

    Raises:
        ProtocolError: it is something else.
    """
    if len(text) % 2 or not all(byte in b"0123456789abcdefABCDEF" for byte in text):
        raise ProtocolError("an odd number of digits, or other characters")
    return bytes.fromhex(text.decode())


class Receiver:
    """Takes bytes as they come and gives what they are."""

    def __init__(self) -> None:
        self._data = bytearray()  # of the packet that has begun
        self._inside = False
        self._check: bytearray | None = None  # digits of the checksum

    def feed(self, data: bytes) -> list[Received]:
        """The events that `data` completes, in order; noise between packets is none."""
        return [event for byte in data if (event := self._take(byte)) is not None]

    def _take(self, byte: int) -> Received | None:
        if not self._inside:
            self._inside = byte == 0x24
            return {
                0x2B: Received(ReceivedKind.ACK),
                0x2D: Received(ReceivedKind.NAK),
                0x03: Received(ReceivedKind.INTERRUPT),
            }.get(byte)
        if self._check is not None:
            self._check.append(byte)
            return self._end() if len(self._check) == 2 else None
        if byte == 0x24:  # the packet before was cut off
            self._data.clear()
        elif byte == 0x23:
            self._check = bytearray()
        elif len(self._data) <= MAX_PACKET:  # one byte more is kept, so that a longer one is known
            self._data.append(byte)
        return None

    def _end(self) -> Received:
        data, check = bytes(self._data), bytes(self._check or b"")
        self._data.clear()
        self._inside, self._check = False, None
        right = _HEX.fullmatch(check) is not None and int(check, 16) == sum(data) & 0xFF
        if not right or len(data) > MAX_PACKET:
            return Received(ReceivedKind.DAMAGED)
        return Received(ReceivedKind.PACKET, unescape(data))
