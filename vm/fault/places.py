"""Places of instructions: what a trigger names, and whether an instruction can begin there at all.

Code below 4 GiB may be of 16, 32 or 64 bits, by how the guest gets there; only a run can tell where its instructions
begin (`Injector` looks at each that is executed near a place). Code above is of 64 bits: nothing else can reach it
(SDM volume 1, 3.3.7). It is followed here from the symbols before the place, along jumps and calls, as it lies in memory.
A place that is inside an instruction found so, and is the beginning of none, is refused. What is only reached through a
pointer, or is written later, is not found, and not refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from kstack.base.errors import ConfigError
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.decode import decode, disassemble
from kstack.load import Symbols
from kstack.x86.addresses import is_canonical

LONG_CODE: Final = 1 << 32
"""From this linear address on code is of 64 bits."""
LONGEST: Final = 15
"""Bytes of an instruction, at most (SDM volume 2, 2.3.11)."""
MOST: Final = 20_000
"""Instructions that are followed for a place."""
_MASK64: Final = (1 << 64) - 1
_NEVER_ON: Final = frozenset(
    {"jmp", "ljmp", "ret", "retf", "retfq", "iret", "iretd", "iretq", "sysret", "sysretq", "ud2"}
)
"""What does not go on behind itself."""


def resolved(symbols: Symbols, place: str) -> int:
    """The linear address of a place.

    Args:
        symbols: of the image.
        place: `symbol`, `symbol+offset` or an address as 0x...

    Raises:
        ConfigError: it is none of these, there is no such symbol, or no instruction can be there.
    """
    name, _, offset = place.partition("+")
    try:
        base = int(name, 16) if name.startswith("0x") else symbols.address(name)
        more = int(offset, 0) if offset else 0
        if base is not None and not 0 <= base + more < 1 << 64:
            raise ValueError
    except ValueError:
        raise ConfigError(f"place {place!r}: give symbol, symbol+offset or 0x...") from None
    if base is None:
        raise ConfigError(f"place {place!r}: the image has no symbol {name!r}")
    if not is_canonical(base + more):
        raise ConfigError(f"place {place!r}: {base + more:#x} is no canonical address, so no instruction can be there")
    return base + more


def check(processor: Cpu, symbols: Symbols, place: str, address: int) -> None:
    """Refuse a place that is inside an instruction, as far as the code says so before it runs.

    Args:
        processor: through whose translations code is read.
        symbols: of the image.
        place: as it was given.
        address: linear.

    Raises:
        ConfigError: no instruction begins there; the nearest that do are named.
    """
    if address < LONG_CODE:
        return
    found = followed(processor.linear.code, symbols.near(address))
    around = [start for start in found if start < address < start + found[start]]
    if address in found or not around:
        return
    raise ConfigError(inside(processor, symbols, place, (max(around), found[max(around)]), 64))


def inside(processor: Cpu, symbols: Symbols, place: str, around: tuple[int, int], bits: int) -> str:
    """What to say of a place inside an instruction.

    Args:
        processor: through whose translations code is read.
        symbols: of the image.
        place: as it was given.
        around: the instruction's linear address, and its length (bytes).
        bits: width of the code.
    """
    start, length = around
    _, text = disassemble(processor.linear.code(start), start, bits)
    before, after = symbols.name(start), symbols.name(start + length)
    return f"place {place!r} is inside an instruction ({text}): the nearest begin at {before} and {after}"


def followed(code: Callable[[int], bytes], roots: Iterable[int]) -> dict[int, int]:
    """Instructions of 64-bit code that can be reached from some addresses: where they begin, and their lengths (bytes).

    Args:
        code: bytes from a linear address on.
        roots: where instructions begin.
    """
    found: dict[int, int] = {}
    left = list(roots)
    while left:
        at = left.pop()
        while at not in found and len(found) < MOST:
            instruction = decode(code(at), 64)
            if instruction is None:
                break
            found[at] = instruction.length
            branches = instruction.name[0] == "j" or instruction.name.startswith(("call", "loop"))
            if branches and instruction.immediates and is_canonical(target := at + instruction.immediates[0] & _MASK64):
                left.append(target)  # decoded as if it stood at 0
            if instruction.name in _NEVER_ON:
                break
            at = at + instruction.length & _MASK64
    return found
