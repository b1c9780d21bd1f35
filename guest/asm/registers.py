"""The names that are registers, by what they can be used for.

Names are lower case.  AVX-512 masks and bound registers are not listed: a kernel that needs
them writes ``.byte``.
"""

from __future__ import annotations

_LOW = ("a", "c", "d", "b")
_POINTER = ("sp", "bp", "si", "di")

GENERAL: dict[str, int] = {}
"""General-purpose registers and their width in bits."""

for _n in _LOW:
    GENERAL |= {f"{_n}l": 8, f"{_n}h": 8, f"{_n}x": 16, f"e{_n}x": 32, f"r{_n}x": 64}
for _n in _POINTER:
    GENERAL |= {f"{_n}l": 8, _n: 16, f"e{_n}": 32, f"r{_n}": 64}
for _i in range(8, 16):
    GENERAL |= {f"r{_i}b": 8, f"r{_i}w": 16, f"r{_i}d": 32, f"r{_i}": 64}

SEGMENT = frozenset({"cs", "ds", "es", "fs", "gs", "ss"})
CONTROL = frozenset(f"{kind}{i}" for kind in ("cr", "dr") for i in range(16))
VECTOR = frozenset(f"{kind}{i}" for kind in ("xmm", "ymm") for i in range(16)) | frozenset(f"mm{i}" for i in range(8))
POINTERS = frozenset({"rip", "eip"})
PSEUDO = frozenset({"riz", "eiz"})

OPERAND = frozenset(GENERAL) | SEGMENT | CONTROL | VECTOR | {"st"}
"""Registers that can be an operand by themselves: the instruction pointer cannot."""

NAMES = OPERAND | POINTERS | PSEUDO
"""Every name that no symbol may have."""


RESERVED = frozenset(("and", "or", "xor", "not", "mod", "shl", "shr", "eq", "ne", "lt", "le", "gt", "ge")) | frozenset(
    ("offset", "ptr", "short", "near", "far", "flat", "byte", "word", "dword", "fword", "qword")
)
"""Words that GNU as reads as operators in Intel syntax: no symbol may have them either."""


def width(name: str) -> int | None:
    """Width of a general-purpose register in bits, or None for any other register."""
    return GENERAL.get(name)
