"""Physical memory: RAM from address 0, what lies beyond it, and which of its frames have changed.

RAM is one anonymous mapping that every CPU's engine maps at physical 0. Reads beyond RAM give all
ones and writes vanish, as on a bus where nobody answers. Frames are 4 KiB. Each store to a frame is
noted, by the MMUs for guests (a page is writable in a softmmu only after a store has filled it) and
here for the host, so that a snapshot copies only what changed and a state hash is incremental.

Not modelled: memory types, ECC, the A20 gate.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import struct
from collections.abc import Callable, Iterable
from typing import Final

from kstack.base.errors import ConfigError
from kstack.hw.instruments import Slot
from kstack.x86.addresses import PAGE

MAX_RAM: Final = 3 << 30
_Q: Final = struct.Struct("<Q")
_ZERO: Final = bytes(PAGE)

MemorySnapshot = dict[int, bytes]


class PhysicalMemory:
    """The machine's RAM.

    Args:
        size: bytes, a multiple of 4096, from 1 MiB to 3 GiB.

    Raises:
        ConfigError: the size is not one of these.
    """

    def __init__(self, size: int) -> None:
        if size % PAGE or not 1 << 20 <= size <= MAX_RAM:
            raise ConfigError(f"--ram {size} bytes: give a multiple of 4 KiB from 1M to 3G")
        self.size = size
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a forked process has its own
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.dirty: set[int] = set()
        self.on_store: Callable[[int, int], None] = lambda address, size: None
        self.hears_touch: Slot[[int, int], None] = Slot()  # the model's own loads and stores: address, bytes
        self.on_settle: Callable[[], None] = lambda: None  # the next store to any frame must be noted again
        self._base: MemorySnapshot = {}
        self._hashes: dict[int, bytes] = {}

    # --- access by physical address (bytes)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address`; beyond RAM they are 0xff."""
        if (hear := self.hears_touch.held) is not None:
            hear(address, size)
        if address >= 0 and address + size <= self.size:
            return self._map[address : address + size]
        inside = self._map[address : self.size] if 0 <= address < self.size else b""
        return inside + b"\xff" * (size - len(inside))

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`; what lies beyond RAM vanishes."""
        data = data[: max(0, self.size - address)]
        if not data:
            return
        if (hear := self.hears_touch.held) is not None:
            hear(address, len(data))
        self.on_store(address, len(data))
        self._map[address : address + len(data)] = data
        first, last = address >> 12, address + len(data) - 1 >> 12
        if first == last:
            self.dirty.add(first)
        else:
            self.dirty.update(range(first, last + 1))

    def read64(self, address: int) -> int:
        """The little-endian 64-bit word at `address` (all ones beyond RAM)."""
        if address >= 0 and address + 8 <= self.size:
            if (hear := self.hears_touch.held) is not None:
                hear(address, 8)
            value: int = _Q.unpack_from(self._map, address)[0]
            return value
        return int.from_bytes(self.read(address, 8), "little")

    def write64(self, address: int, value: int) -> None:
        """Store a 64-bit word."""
        self.write(address, _Q.pack(value))

    def read32(self, address: int) -> int:
        """The little-endian 32-bit word at `address`."""
        return int.from_bytes(self.read(address, 4), "little")

    def compare_exchange64(self, address: int, expected: int, value: int) -> int:
        """LOCK CMPXCHG: store `value` if the word is `expected`; the word as it was."""
        old = self.read64(address)
        if old == expected:
            self.write64(address, value)
        return old

    def exchange_quietly(self, address: int, expected: int, value: int) -> bool:
        """The page walker's locked update of an entry (A and D): a change, but no store event."""
        if self.read64(address) != expected:
            return False
        if address + 8 <= self.size:
            _Q.pack_into(self._map, address, value)
            self.dirty.add(address >> 12)
        return True

    def write64_quietly(self, address: int, value: int) -> None:
        """A store of A and D bits that is not locked (only a broken model does this)."""
        if address + 8 <= self.size:
            if (hear := self.hears_touch.held) is not None:
                hear(address, 8)
            _Q.pack_into(self._map, address, value)
            self.dirty.add(address >> 12)

    def patch(self, address: int, data: bytes) -> bytes:
        """Put bytes there for a moment, as if nobody had stored them: the bytes to put back."""
        if (hear := self.hears_touch.held) is not None:
            hear(address, len(data))
        place = slice(address, address + len(data))
        old = self._map[place]
        self._map[place] = data
        return old

    def is_ram(self, address: int) -> bool:
        """Whether the frame of `address` is RAM."""
        return 0 <= address < self.size

    # --- snapshots

    def snapshot(self) -> MemorySnapshot:
        """All frames that are not zero, by frame number; unchanged ones are shared with older snapshots."""
        pages = dict(self._base)
        for frame in sorted(self.dirty):
            data = self._map[frame * PAGE : (frame + 1) * PAGE]
            if data == _ZERO:
                pages.pop(frame, None)
            else:
                pages[frame] = data
        self._settle(pages, self.dirty)
        return pages

    def restore(self, pages: MemorySnapshot, differ_in: Iterable[int] | None = None) -> list[int]:
        """Make RAM what it was at `snapshot`; the frames whose contents that changes, by number.

        Args:
            pages: what `snapshot` returned.
            differ_in: all frames (numbers) in which it can differ from the last snapshot taken or restored.
        """
        changed = set(self.dirty)
        if differ_in is not None:
            changed.update(differ_in)
        elif pages is not self._base:
            frames = self._base.keys() | pages.keys()
            changed.update(f for f in frames if self._base.get(f) is not pages.get(f))
        differ = []
        for frame in sorted(changed):
            place, old = slice(frame * PAGE, (frame + 1) * PAGE), pages.get(frame, _ZERO)
            if self._map[place] != old:
                self._map[place] = old
                differ.append(frame)
        self._settle(pages, changed)
        return differ

    def _settle(self, pages: MemorySnapshot, changed: set[int]) -> None:
        for frame in changed:
            self._hashes.pop(frame, None)
        self._base = pages
        if self.dirty:
            self.dirty = set()
            self.on_settle()

    def digest(self) -> bytes:
        """A hash of all RAM (frame numbers and contents; zero frames left out)."""
        pages = self.snapshot()
        whole = hashlib.blake2b(digest_size=32)
        for frame in sorted(pages):
            value = self._hashes.get(frame)
            if value is None:
                value = self._hashes[frame] = hashlib.blake2b(pages[frame], digest_size=16).digest()
            whole.update(frame.to_bytes(8, "little") + value)
        return whole.digest()
