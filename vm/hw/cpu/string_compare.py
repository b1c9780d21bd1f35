"""PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM (SDM volume 2, 4.1).

The engine's take long lengths for short ones and compare ordered substrings otherwise than the manual; they are carried out here.

Not modelled: nothing of them is left to the engine.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.x86.flags import CC_FLAGS, Flags
from kstack.x86.string_compare import Aggregation, Compare, aggregation

BYTES: Final = 16
"""Of an operand."""


class Compared(NamedTuple):
    """What a comparison leaves.

    Attributes:
        place: of an element, for ECX; the number of elements if there is none.
        mask: 16 bytes, for XMM0.
        flags: CF, ZF, SF and OF as they are set; AF and PF are cleared.
    """

    place: int
    mask: bytes
    flags: int


def compare(
    control: int, first: bytes, second: bytes, first_length: int | None = None, second_length: int | None = None
) -> Compared:
    """Compare two strings.

    Args:
        control: the immediate operand.
        first: 16 bytes of the first operand: a set, ranges, or the substring that is looked for.
        second: 16 bytes of the second, which is searched.
        first_length: elements, as EAX or RAX has them, signed; None if a zero ends the string.
        second_length: as EDX or RDX has them.
    """
    size = 2 if control & Compare.WORDS else 1
    one, other = (_elements(operand, size, bool(control & Compare.SIGNED)) for operand in (first, second))
    count = BYTES // size
    valid_one, valid_other = _valid(one, first_length), _valid(other, second_length)
    found = _aggregate(aggregation(control), one[:valid_one], other[:valid_other], count)
    if control & Compare.NEGATIVE:
        masked = bool(control & Compare.MASKED)
        found = [bit if masked and at >= valid_other else not bit for at, bit in enumerate(found)]
    flags = (Flags.CF if any(found) else 0) | (Flags.OF if found[0] else 0)
    flags |= (Flags.SF if valid_one < count else 0) | (Flags.ZF if valid_other < count else 0)
    return Compared(
        _index(found, bool(control & Compare.MOST_SIGNIFICANT)),
        _mask(found, size, bool(control & Compare.MOST_SIGNIFICANT)),
        int(flags),
    )


def with_flags(rflags: int, compared: Compared) -> int:
    """RFLAGS behind a comparison."""
    return rflags & ~CC_FLAGS | compared.flags


def _elements(operand: bytes, size: int, signed: bool) -> list[int]:
    return [int.from_bytes(operand[at : at + size], "little", signed=signed) for at in range(0, BYTES, size)]


def _valid(elements: list[int], length: int | None) -> int:
    if length is not None:
        return min(abs(length), len(elements))
    return elements.index(0) if 0 in elements else len(elements)


def _aggregate(how: Aggregation, one: list[int], other: list[int], count: int) -> list[bool]:
    """IntRes1; `one` and `other` are as long as they are valid (tables 4-6 and 4-7)."""
    if how is Aggregation.EQUAL_ANY:
        found = [element in one for element in other]
    elif how is Aggregation.RANGES:
        pairs = list(zip(one[::2], one[1::2], strict=False))
        found = [any(low <= element <= high for low, high in pairs) for element in other]
    elif how is Aggregation.EQUAL_EACH:
        both = min(len(one), len(other))
        found = [one[at] == other[at] for at in range(both)] + [False] * (max(len(one), len(other)) - both)
        return found + [True] * (count - len(found))
    else:
        return [other[at : at + len(one[: count - at])] == one[: count - at] for at in range(count)]
    return found + [False] * (count - len(found))


def _index(found: list[bool], highest: bool) -> int:
    places = [at for at, bit in enumerate(found) if bit]
    return len(found) if not places else places[-1 if highest else 0]


def _mask(found: list[bool], size: int, expanded: bool) -> bytes:
    if expanded:
        return b"".join((b"\xff" if bit else b"\0") * size for bit in found)
    return sum(1 << at for at, bit in enumerate(found) if bit).to_bytes(BYTES, "little")
