"""Memory by linear address, as the CPU itself reads and writes it.

Descriptor tables, event frames and the operands of instructions that the CPU carries out are
reached through the MMU like any other access, so they fill TLBs, set A and D, and fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import pack
from typing import Final

from kstack.hw.instruments import Hook, Slot
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.mmu import Mmu
from kstack.hw.mmu.walk import Attempt
from kstack.x86.vectors import GP

_MASK64: Final = (1 << 64) - 1


class GuestFault(Exception):
    """An architectural fault on its way from a helper of this package to the CPU, which delivers it."""

    def __init__(self, vector: int, error: int | None = 0, address: int | None = None) -> None:
        super().__init__(vector, error, address)
        self.vector = vector
        self.error = error
        self.address = address


class NotCanonical(GuestFault):
    """An access to an address that is not canonical: #GP(0), or #SS(0) where the stack segment is used (volume 1, 3.3.7.1)."""

    def __init__(self, linear: int) -> None:
        super().__init__(GP)
        self.linear = linear


class LinearMemory:
    """Linear addresses of one CPU.

    Args:
        mmu: its MMU.
        memory: RAM.
        mmio: read and write of physical addresses that are not RAM.
        told: hears each access (kstack.hw.cpu.hooks.CpuHooks.access).
    """

    def __init__(
        self,
        mmu: Mmu,
        memory: PhysicalMemory,
        mmio_read: Callable[[int, int], int],
        mmio_write: Callable[[int, int, int], None],
        told: Hook[[int, int, int, int, int, bool]],
    ) -> None:
        self._mmu = mmu
        self._memory = memory
        self._mmio_read = mmio_read
        self._mmio_write = mmio_write
        self._told = told
        self.hears_access: Slot[[int, int, bool], None] = Slot()
        """Of each access its address, bytes and whether it stores, while a breakpoint watches data."""

    def _physical(self, address: int, attempt: Attempt) -> int:
        translator = self._mmu.translator
        if translator is not None and translator.manages(address & _MASK64):
            translator.refuse(
                f"accesses the managed page of {address:#x} by itself (an event frame, a descriptor, an operand)"
            )
        physical = self._mmu.access(address & _MASK64, attempt)
        if physical is None:
            fault = self._mmu.take_fault()
            if fault is None or fault.vector == GP:
                raise NotCanonical(address & _MASK64)
            raise GuestFault(fault.vector, fault.error, fault.address)
        return physical

    def read(self, address: int, size: int, user: bool = False, smap: bool = True) -> int:
        """Load `size` bytes (at most 16) as a little-endian number.

        Raises:
            GuestFault: the access faults.
        """
        attempt = Attempt(False, False, user, smap and self._mmu.smap)
        if (address & 0xFFF) + size <= 4096:
            physical = self._physical(address, attempt)
            value = (
                int.from_bytes(self._memory.read(physical, size), "little")
                if self._memory.is_ram(physical)
                else self._mmio_read(physical, size)
            )
            self._tell(address, physical, size, value, False)
            return value
        data = b""
        while size:
            part = min(size, 4096 - (address & 0xFFF))
            physical = self._physical(address, attempt)
            if self._memory.is_ram(physical):
                data += self._memory.read(physical, part)
            else:
                data += self._mmio_read(physical, part).to_bytes(part, "little")
            self._tell(address, physical, part, int.from_bytes(data[-part:], "little"), False)
            address += part
            size -= part
        return int.from_bytes(data, "little")

    def write(self, address: int, size: int, value: int, user: bool = False, smap: bool = True) -> None:
        """Store `size` bytes; nothing is stored if any part of it faults.

        Raises:
            GuestFault: the access faults.
        """
        attempt = Attempt(True, False, user, smap and self._mmu.smap)
        if (address & 0xFFF) + size <= 4096:
            physical = self._physical(address, attempt)
            self._tell(address, physical, size, value, True)
            if self._memory.is_ram(physical):
                self._memory.write(physical, value.to_bytes(size, "little"))
            else:
                self._mmio_write(physical, size, value)
            return
        data = value.to_bytes(size, "little")
        parts: list[tuple[int, int, bytes]] = []
        while data:
            part = min(len(data), 4096 - (address & 0xFFF))
            parts.append((address, self._physical(address, attempt), data[:part]))
            address += part
            data = data[part:]
        for place, physical, piece in parts:
            self._tell(place, physical, len(piece), int.from_bytes(piece, "little"), True)
            if self._memory.is_ram(physical):
                self._memory.write(physical, piece)
            else:
                self._mmio_write(physical, len(piece), int.from_bytes(piece, "little"))

    def probe(self, address: int, size: int, user: bool = False, smap: bool = True, store: bool = True) -> None:
        """Find out whether `size` bytes can be stored, or loaded; Accessed and Dirty are set as by such an access.

        Raises:
            GuestFault: they cannot.
        """
        attempt = Attempt(store, False, user, smap and self._mmu.smap)
        self._physical(address, attempt)
        for page in range((address & ~0xFFF) + 4096, address + size, 4096):
            self._physical(page, attempt)

    def _tell(self, address: int, physical: int, size: int, value: int, store: bool) -> None:
        if (hear := self.hears_access.held) is not None:
            hear(address & _MASK64, size, store)
        if self._told.heard:
            self._told(self._mmu.cpu, address & _MASK64, physical, size, value, store)

    def push(self, top: int, words: list[int]) -> None:
        """Store 64-bit words downwards from `top`, as an event's frame is pushed.

        Raises:
            GuestFault: a push faults; those before it have been done.
        """
        size = 8 * len(words)
        low = top - size & _MASK64
        if low >> 12 == top - 1 >> 12:
            highest = self._physical(top - 8, Attempt(True, False, False, self._mmu.smap))
            if self._memory.is_ram(highest):
                for number, word in enumerate(words if self._told.heard else ()):
                    self._tell(top - 8 - 8 * number & _MASK64, highest - 8 * number, 8, word, True)
                self._memory.write(highest + 8 - size, pack(f"<{len(words)}Q", *reversed(words)))
                return
        for word in words:
            top = top - 8 & _MASK64
            self.write(top, 8, word)

    def places(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Where `size` bytes of code at linear `address` lie: physical address and bytes, page by page; as far as they are RAM."""
        while size:
            part = min(size, 4096 - (address & 0xFFF))
            physical = self._mmu.resolve(address & _MASK64, fetch=True)
            if physical is None or not self._memory.is_ram(physical):
                return
            yield physical, part
            address, size = address + part, size - part

    def code(self, address: int, size: int = 15) -> bytes:
        """Up to `size` bytes of code at linear `address`, without side effects."""
        data = b""
        while len(data) < size:
            at = address + len(data) & _MASK64
            physical = self._mmu.resolve(at, fetch=True)
            if physical is None:
                break
            data += self._memory.read(physical, min(size - len(data), 4096 - (at & 0xFFF)))
        return data
