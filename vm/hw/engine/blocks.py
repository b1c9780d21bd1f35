"""Unicorn's translated blocks: where their instructions lie, and how a block is made cheap to count.

Every translation begins with a call of the block hook, and has a call of helper_check_exit_request
behind that and behind each access to memory, so that a hook can stop the engine there. Ours are
stopped by the budget alone, at block starts; so a block that is worth it is rewritten in place:

    store RIP                             head (stubs.py): pay, or ask
    call the block hook             ->    no-operations
    call helper_check_exit_request
    ...                                   ...
    access; call check_exit_request       access; no-operations

Nothing is rewritten unless every value in the code is the one expected: the engine's handle, the
hook's data, the functions' addresses. A block that is not as expected keeps its calls and stays exact.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from bisect import bisect_left
from typing import Final

from kstack.base.errors import EngineError
from kstack.hw.engine import layout
from kstack.hw.engine.stubs import Control, head

TCG_BUFFER_BYTES: Final = 64 << 20
_DATA_BYTES: Final = 10 + 2 + 4  # of search data at most, an instruction: its address, cc_op, and the size of its code
_LOW: Final = 0xFFFFFFFF
_CALL: Final = rb"(?:\xe8.{4}|\xff\x15.{4})"


def _load(register: int) -> bytes:
    """A pattern of what TCG writes to put a constant into a register (of the first eight)."""
    to, rip, imm = (re.escape(bytes([base])) for base in (0xB8 + register, 0x05 + 8 * register, 0xC0 + register))
    forms = (rb"\x48" + to + rb".{8}", rb"\x48\x8d" + rip + rb".{4}", rb"\x48\xc7" + imm + rb".{4}", to + rb".{4}")
    return b"(" + b"|".join(forms) + b")"


_RCX, _RDX, _RSI, _RDI = 1, 2, 6, 7
_CHECK: Final = re.compile(_load(_RDI) + rb"\x33\xf6(" + _CALL + b")", re.DOTALL)
_START: Final = re.compile(
    rb"\x48\xc7\x85\x80\x00\x00\x00.{4}"
    + _load(_RDI)
    + b"(?:"
    + _load(_RSI)
    + rb"|\x33\xf6)"
    + _load(_RDX)
    + _load(_RCX)
    + b"("
    + _CALL
    + b")",
    re.DOTALL,
)
_NOPS: Final = (
    b"",
    b"\x90",
    b"\x66\x90",
    b"\x0f\x1f\x00",
    b"\x0f\x1f\x40\x00",
    b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00",
    b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
)


class Blocks:
    """The translations of one engine.

    Args:
        library: Unicorn's.
        tcg: host address of its TCGContext.
        handle: host address of its uc_struct.
        control: of the engine.
    """

    def __init__(self, library: layout.Library, tcg: int, handle: int, control: Control) -> None:
        self._lookup = library["tcg_tb_lookup_x86_64"]
        self._check_exit = library.address("helper_check_exit_request_x86_64")
        self._tcg, self._handle, self._shared = tcg, handle, control
        self._control = ctypes.addressof(control)
        self._anchor = layout.u64(tcg + layout.TCG_CODE_GEN_BUFFER).value
        if layout.u64(tcg + layout.TCG_CODE_GEN_BUFFER + 8).value != TCG_BUFFER_BYTES:
            raise EngineError("unicorn's buffer for translations has not the size that it was to have")
        self._end = self._anchor + TCG_BUFFER_BYTES - mmap.PAGESIZE  # behind that lies a page that nobody may read
        self._starts: dict[int, list[int]] = {}

    def forget(self) -> None:
        """Every translation has been flushed."""
        self._starts.clear()

    def starts(self, low: int) -> list[int]:
        """Linear addresses of the instructions of a block.

        Read from the search data that QEMU keeps behind each translation (encode_search in
        accel/tcg/translate-all.c): per instruction the differences of pc, cc_op and code offset.

        Args:
            low: low half of a host address in its translation.

        Returns:
            Nothing of a block that is gone: QEMU translates an instruction on a page that it may not keep (a breakpoint on
            data watches it) alone and for once, and forgets it as soon as it has gone back to it (cpu_restore_state).
        """
        starts = self._starts.get(low)
        if starts is None:
            offset = low - self._anchor & _LOW  # the buffer lies above its start and is below 4 GiB
            block = self._lookup(self._tcg, self._anchor + offset)
            if block is None:
                return []
            pc = layout.u64(block + layout.TB_PC).value
            count = ctypes.c_uint16.from_address(block + layout.TB_ICOUNT).value
            data = layout.u64(block + layout.TB_TC_PTR).value + layout.u64(block + layout.TB_TC_SIZE).value
            size = min(_DATA_BYTES * count, self._end - data)
            starts = self._starts[low] = _search_data(ctypes.string_at(data, size), pc, count)
        return starts

    def paid(self) -> list[int]:
        """Linear addresses of the instructions of the block paid for last."""
        paid: int = self._shared.paid_block
        return self.starts(paid) if paid else []

    def unexecuted(self, linear: int) -> int:
        """How many instructions of that block lie at or after a linear address, to which QEMU has gone back."""
        if not self._shared.paid_block:
            return 0
        starts = self.paid()
        if not starts:
            return 1  # it was of one instruction
        return len(starts) - bisect_left(starts, linear) if starts[0] <= linear <= starts[-1] else 0

    def give_head(self, address: int) -> int:
        """Rewrite a whole block that called the block hook.

        Args:
            address: the host address that the hook returns to.

        Returns:
            Where the block begins now, and is to go on; 0 if it was left as it is.
        """
        block = self._lookup(self._tcg, address)
        start = layout.u64(block + layout.TB_TC_PTR).value
        count = ctypes.c_uint16.from_address(block + layout.TB_ICOUNT).value
        code = ctypes.string_at(start, layout.u64(block + layout.TB_TC_SIZE).value)
        found, check = _START.match(code), _CHECK.match(code, address - start)
        if found is None or found.end() != address - start or check is None or not self._is_check(check, start):
            return 0
        values = [_constant(found, group, start) for group in (1, 3, 4)]
        if (values[0], values[2]) != (self._handle, self._control):
            return 0
        size = len(head(self._control, count, 0))
        new = head(self._control, count, start + size & _LOW)
        for inner in _CHECK.finditer(code, check.end()):
            if self._is_check(inner, start):
                _write(start + inner.start(), _no_operation(inner.end() - inner.start()))
        _write(start, new + _no_operation(check.end() - size))
        return start

    def _is_check(self, found: re.Match[bytes], start: int) -> bool:
        return _constant(found, 1, start) == self._handle and _target(found, 2, start) == self._check_exit


def _constant(found: re.Match[bytes], group: int, start: int) -> int:
    """What a load found by `_load` puts into its register, in code that begins at `start`."""
    code = found[group]
    if code[1] == 0x8D:
        return start + found.end(group) + int.from_bytes(code[3:], "little", signed=True)
    if code[1] == 0xC7:
        return int.from_bytes(code[3:], "little", signed=True)
    return int.from_bytes(code[2:] if len(code) == 10 else code[1:], "little")


def _target(found: re.Match[bytes], group: int, start: int) -> int:
    """Where a call goes."""
    code = found[group]
    place = start + found.end(group) + int.from_bytes(code[-4:], "little", signed=True)
    return place if code[0] == 0xE8 else layout.u64(place).value


def _no_operation(size: int) -> bytes:
    longest = len(_NOPS) - 1
    return _NOPS[longest] * (size // longest) + _NOPS[size % longest]


def _write(address: int, code: bytes) -> None:
    ctypes.memmove(address, code, len(code))


def _search_data(data: bytes, pc: int, count: int) -> list[int]:
    """Where instructions start: of three signed LEB128 numbers each the first is what its address adds."""
    starts: list[int] = []
    at = 0
    for _ in range(count):
        byte = data[at]
        delta, shift, at = byte & 0x7F, 7, at + 1
        while byte & 0x80:
            byte = data[at]
            delta, shift, at = delta | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte & 0x40:
            delta -= 1 << shift
        pc = (pc + delta) & 0xFFFFFFFFFFFFFFFF
        starts.append(pc)
        for _ in range(2):
            while data[at] & 0x80:
                at += 1
            at += 1
    return starts
