"""Records of what an engine does, written by machine code: each instruction and each access to memory.

Two stubs of a few instructions, called by the translated code, append records to a buffer, column by column; Python
reads them when the engine has stopped. When the buffer is nearly full the engine is asked to stop before the
next block, which is no different from a slice that ends there.

    an instruction    RIP with the base of CS, bytes | (CPL and how wide the code is) << 8, RSP before it
    a load, a store   physical address, 25 or 17 | bytes << 8, value, how many instructions were recorded
    a block begins    how many instructions were recorded, RAX to R15: what the block before has left

An instruction that was not retired (it faulted, or stored into its own block and runs again) has left its records too:
whoever reads has to know how many were retired.

With a code hook Unicorn computes the flags that the instruction before has left, into cc_src, behind the point for which
QEMU has noted how they are kept (cc_op). Whenever QEMU goes back to an instruction it takes what it noted, and the flags
would be wrong: `Engine` puts that right. With a hook on accesses Unicorn goes back so before each of them, to have RIP right,
and on again: unless it is told to skip that, which each instruction does.
"""

from __future__ import annotations

import ctypes
from mmap import mmap
from typing import Final, NamedTuple

from kstack.hw.engine import layout
from kstack.hw.engine.stubs import CodePage, Control
from kstack.x86.registers import Gpr

LOAD, STORE = 25, 17
"""Kinds of accesses: Unicorn's own (UC_MEM_READ_AFTER, UC_MEM_WRITE)."""
BUFFER_RECORDS: Final = 1 << 19  # of instructions, and of accesses
SPARE_RECORDS: Final = 1 << 16  # for what a block can still do once the engine has been asked to stop
_COLUMN: Final = 8 * (BUFFER_RECORDS + SPARE_RECORDS)  # bytes of a column; a record has a 64-bit word in each
_OF_INSTRUCTIONS, _OF_ACCESSES, _OF_BLOCKS = 3, 4, 1 + len(Gpr)  # columns
TAG_CPL: Final = layout.HF_CPL << 8
TAG_CS32, TAG_CS64 = layout.HF_CS32 << 8, layout.HF_CS64 << 8
"""Bits of the second word of an instruction: its ring, and whether the code is of 32 or 64 bits."""
_NOTHING: Final = 1 << 63  # no budget is that
_HOOK_READ_AFTER, _HOOK_WRITE = 1 << 13, 1 << 11
_CONTROL: Final = {name: getattr(Control, name).offset for name, _ in Control._fields_}


class _Cursor(ctypes.Structure):
    """What the stubs and Python share."""

    _fields_ = (
        ("next", ctypes.c_uint64),  # 0: host address of the next instruction's record, in the first column
        ("enough", ctypes.c_uint64),  # 8: beyond this the engine is asked to stop
        ("control", ctypes.c_uint64),  # 16: the engine's `Control`
        ("env", ctypes.c_uint64),  # 24
        ("next_access", ctypes.c_uint64),  # 32: the same of accesses
        ("enough_accesses", ctypes.c_uint64),  # 40
        ("remaining", ctypes.c_uint64),  # 48: of the budget at the last block: each pays for itself as it begins
        ("next_block", ctypes.c_uint64),  # 56
    )


_REGISTERS = (
    f"""
    mov r9, [rcx + 16]
    mov r9, [r9 + {_CONTROL["remaining"]}]
    cmp r9, [rcx + 48]
    je within
    mov [rcx + 48], r9
    mov r10, [rcx + 56]
    mov [r10], rax
"""
    + "".join(
        f"""
    mov r9, [r8 + {layout.ENV_REGS + 8 * register}]
    mov [r10 + {(1 + register) * _COLUMN}], r9
"""
        for register in Gpr
    )
    + """
    add r10, 8
    mov [rcx + 56], r10
within:
"""
)

# void code(uc, address, size, user_data): _BEGIN, perhaps _REGISTERS, _END
_BEGIN = f"""
    mov byte ptr [rdi + {layout.UC_SKIP_SYNC_PC}], 1
    mov rax, [rcx]
    mov [rax], rsi
    mov r8, [rcx + 24]
    mov r9d, [r8 + {layout.ENV_HFLAGS}]
    and r9d, {layout.HF_CPL | layout.HF_CS32 | layout.HF_CS64}
    shl r9d, 8
    or r9d, edx
    mov [rax + {_COLUMN}], r9
    mov r9, [r8 + {layout.ENV_REGS + 8 * Gpr.RSP}]
    mov [rax + {2 * _COLUMN}], r9
"""
_END = f"""
    add rax, 8
    mov [rcx], rax
    cmp rax, [rcx + 8]
    jae full
    mov rax, [rcx + 32]
    cmp rax, [rcx + 40]
    jae full
    ret
full:
    mov r8, [rcx + 16]
    mov qword ptr [r8 + {_CONTROL["stop"]}], 1
    mov r9, [r8 + {_CONTROL["remaining"]}]
    add [r8 + {_CONTROL["withheld"]}], r9
    mov qword ptr [r8 + {_CONTROL["remaining"]}], 0
    ret
"""

# void access(uc, type, address, size, value, user_data)
_ACCESS = f"""
    mov rax, [r9 + 32]
    mov [rax], rdx
    shl ecx, 8
    or ecx, esi
    mov [rax + {_COLUMN}], rcx
    mov [rax + {2 * _COLUMN}], r8
    mov rdx, [r9]
    mov [rax + {3 * _COLUMN}], rdx
    add rax, 8
    mov [r9 + 32], rax
    ret
"""


class Records(NamedTuple):
    """Columns of what was recorded, each of 64-bit words; they are the buffer itself, and change with it.

    Attributes:
        rip, tag, rsp: of instructions; a tag is bytes | hflags << 8, of which CPL, CS32 and CS64 are kept.
        physical, kind, value, owner: of accesses; a kind is LOAD or STORE | bytes << 8, an owner `first` + 8 times
            the number of instructions that were recorded before, its own among them.
        first: what owners count from.
        blocks: as `owner`, of the first instruction of a block and without it, and RAX to R15; empty if not asked for.
    """

    rip: memoryview
    tag: memoryview
    rsp: memoryview
    physical: memoryview
    kind: memoryview
    value: memoryview
    owner: memoryview
    first: int
    blocks: tuple[memoryview, ...]


class Recorder:
    """The records of one engine.

    Args:
        library: Unicorn's.
        handle: host address of its uc_struct.
        env: host address of the CPU's state.
        control: of the engine.
        registers: record them where blocks begin, too.
    """

    def __init__(
        self, library: layout.Library, handle: int, env: int, control: Control, registers: bool = False
    ) -> None:
        self._registers = registers
        size = _COLUMN * (_OF_INSTRUCTIONS + _OF_ACCESSES + (_OF_BLOCKS if registers else 0))
        self._buffer = (ctypes.c_uint64 * (size // 8)).from_buffer(mmap(-1, size))  # goes back to the host when dropped
        words = memoryview(self._buffer).cast("B").cast("Q")
        self._columns = [words[at // 8 : (at + _COLUMN) // 8] for at in range(0, size, _COLUMN)]
        self._first = ctypes.addressof(self._buffer)
        self._first_access = self._first + _OF_INSTRUCTIONS * _COLUMN
        self._first_block = self._first_access + _OF_ACCESSES * _COLUMN
        self._cursor = cursor = _Cursor(control=ctypes.addressof(control), env=env)
        cursor.enough = self._first + 8 * BUFFER_RECORDS
        cursor.enough_accesses = self._first_access + 8 * BUFFER_RECORDS
        self._code = code = CodePage()
        data, access = ctypes.addressof(cursor), code.add(_ACCESS)
        stub = code.add(_BEGIN + (_REGISTERS if registers else "") + _END)
        control.recorder, control.cursor = stub, data
        library.hook(handle, _HOOK_READ_AFTER, access, data)
        library.hook(handle, _HOOK_WRITE, access, data)
        self.clear()

    @property
    def instructions(self) -> int:
        """Instructions in the buffer."""
        written: int = (self._cursor.next - self._first) // 8
        return written

    @property
    def accesses(self) -> int:
        """Accesses in the buffer."""
        written: int = (self._cursor.next_access - self._first_access) // 8
        return written

    @property
    def blocks(self) -> int:
        """Beginnings of blocks in the buffer."""
        written: int = (self._cursor.next_block - self._first_block) // 8
        return written

    @property
    def full(self) -> bool:
        """Whether the engine is asked to stop at each block."""
        return self.instructions >= BUFFER_RECORDS or self.accesses >= BUFFER_RECORDS

    def read(self) -> Records:
        """All records."""
        rip, tag, rsp = (column[: self.instructions] for column in self._columns[:_OF_INSTRUCTIONS])
        physical, kind, value, owner = (
            column[: self.accesses] for column in self._columns[_OF_INSTRUCTIONS:][:_OF_ACCESSES]
        )
        blocks = tuple(column[: self.blocks] for column in self._columns[_OF_INSTRUCTIONS + _OF_ACCESSES :])
        return Records(rip, tag, rsp, physical, kind, value, owner, self._first, blocks)

    def clear(self) -> None:
        """Begin again at the buffer's start."""
        cursor = self._cursor
        cursor.next, cursor.next_access, cursor.next_block = self._first, self._first_access, self._first_block
        self.begin()

    def begin(self) -> None:
        """The engine begins a run."""
        self._cursor.remaining = _NOTHING

    def take_back(self) -> None:
        """The instruction that was begun last runs again: drop its records."""
        if not self.instructions:
            return
        self._cursor.next -= 8
        owners = self._columns[_OF_INSTRUCTIONS + _OF_ACCESSES - 1]
        while self.accesses and owners[self.accesses - 1] > self._cursor.next:
            self._cursor.next_access -= 8
        while self.blocks and self._columns[-_OF_BLOCKS][self.blocks - 1] >= self._cursor.next:
            self._cursor.next_block -= 8
