"""Wake-ups: a guest says where it makes a sleeper runnable, and whom is seen from the store itself.

The guest has a symbol at an instruction that stores through a register which points at the thread (`Facts.wakes_at` of its
kernel), whose first word is its id: `mov qword ptr [rbx + displacement], value`. Nothing of it takes any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from kstack.hw.cpu.decode import decode
from kstack.trace.code import Row
from kstack.trace.columns import ACCESSES, INSTRUCTIONS, Columns, Numbers

LONGEST: Final = 15  # bytes of an instruction
_COUNT, _CPU, _RIP = (INSTRUCTIONS.index(name) for name in ("count", "cpu", "rip"))
_OF, _STORE, _SIZE, _ADDRESS, _PHYSICAL, _VALUE = (
    ACCESSES.index(name) for name in ("count", "store", "size", "address", "physical", "value")
)
WORD: Final = 8


class Wake(NamedTuple):
    """At virtual time `count` a CPU makes a thread runnable."""

    count: int  # type: ignore[assignment] # hides tuple.count, which nobody calls on a wake-up
    cpu: int
    thread: int


class Wakes:
    """Finds them, part by part.

    Args:
        store: linear address of that instruction; None if there is none.
        read: bytes of memory at a physical address, as it is now.
    """

    def __init__(self, store: int | None, read: Callable[[int, int], bytes]) -> None:
        self._store, self._read = store, read
        self._displacement: int | None = None
        self._ids: dict[int, int] = {}  # linear address of a thread -> its id, when it was looked at last

    def of(self, instructions: Columns, accesses: Columns, code: list[Row]) -> list[Wake]:
        """All of one part, in order.

        Args:
            instructions: of all CPUs, by virtual time.
            accesses: the same.
            code: what was executed for the first time: count, RIP, bytes and width.
        """
        if self._store is None:
            return []
        if self._displacement is None:
            self._displacement = self._found(code)
        at = np.flatnonzero(instructions.arrays[_RIP] == np.uint64(self._store))
        if self._displacement is None or not len(at):
            return []
        counts = instructions.arrays[_COUNT][at]
        rows = np.searchsorted(accesses.arrays[_OF], counts)
        addresses = accesses.arrays[_ADDRESS][np.minimum(rows, len(accesses) - 1)] - np.uint64(self._displacement)
        looks = self._looks(accesses, np.unique(addresses))
        found = []
        for count, cpu, row, address in zip(
            counts.tolist(), instructions.arrays[_CPU][at].tolist(), rows.tolist(), addresses.tolist(), strict=True
        ):
            if row < len(accesses) and accesses.arrays[_OF][row] == count and accesses.arrays[_STORE][row]:
                thread = self._id(looks.get(address, []), row, address, int(accesses.arrays[_PHYSICAL][row]))
                found.append(Wake(count, cpu, thread))
        self._ids |= {address: seen[-1][1] for address, seen in looks.items()}
        return found

    def _found(self, code: list[Row]) -> int | None:
        """The displacement of the store, once it has been executed."""
        instruction = next((decode(data, bits) for _, rip, data, bits in code if rip == self._store), None)
        memory = None if instruction is None else instruction.memory
        return None if memory is None else memory.displacement & (1 << 64) - 1

    def _looks(self, accesses: Columns, threads: Numbers) -> dict[int, list[tuple[int, int]]]:
        """Of each thread's first word: rows of the loads and stores of it, and what it was."""
        found: dict[int, list[tuple[int, int]]] = {}
        words = (accesses.arrays[_SIZE] == WORD) & np.isin(accesses.arrays[_ADDRESS], threads)
        for row in np.flatnonzero(words).tolist():
            address, value = int(accesses.arrays[_ADDRESS][row]), int(accesses.arrays[_VALUE][row])
            found.setdefault(address, []).append((row, value))
        return found

    def _id(self, looks: list[tuple[int, int]], row: int, address: int, physical: int) -> int:
        """What a thread's first word was when it was woken."""
        before = [value for at, value in looks if at < row]
        if before:
            return before[-1]
        if address in self._ids:
            return self._ids[address]
        if looks:
            return looks[0][1]
        assert self._displacement is not None
        return int.from_bytes(self._read(physical - self._displacement & (1 << 64) - 1, WORD), "little")
