"""Records of what an engine does, written by machine code: each instruction and each access to memory.

Two stubs of a few instructions, called by the translated code, append records of three 64-bit words to a buffer; Python
reads them when the engine has stopped. When the buffer is nearly full the engine is asked to stop before the
next block, which is no different from a slice that ends there.

    an instruction    RIP             1 | bytes << 8 | CPL << 16    RSP before it
    a load, a store   physical        25 or 17 | bytes << 8         value

Accesses follow the record of their instruction. An instruction that was not retired (it faulted, or stored into
its own block and runs again) has left its records too: whoever reads has to know how many were retired.

With a code hook Unicorn computes the flags that the instruction before has left, into cc_src, behind the point for which
QEMU has noted how they are kept (cc_op). Whenever QEMU goes back to an instruction it takes what it noted, and the flags
would be wrong: `Engine` puts that right.
"""

from __future__ import annotations

import ctypes
from mmap import mmap
from typing import Final

from vm.hw.engine import layout
from vm.hw.engine.stubs import CodePage, Control

INSTRUCTION, LOAD, STORE = 1, 25, 17
"""Kinds of records; of accesses Unicorn's own (UC_MEM_READ_AFTER, UC_MEM_WRITE)."""
WORDS: Final = 3  # of a record
RECORD_BYTES: Final = 8 * WORDS
BUFFER_RECORDS: Final = 1 << 20
SPARE_RECORDS: Final = 1 << 16  # for what a block can still do once the engine has been asked to stop
_HOOK_CODE, _HOOK_READ_AFTER, _HOOK_WRITE = 1 << 2, 1 << 13, 1 << 11
_CONTROL: Final = {name: getattr(Control, name).offset for name, _ in Control._fields_}


class _Cursor(ctypes.Structure):
    """What the stubs and Python share."""

    _fields_ = (
        ("next", ctypes.c_uint64),  # 0: host address of the next record
        ("enough", ctypes.c_uint64),  # 8: beyond this the engine is asked to stop
        ("control", ctypes.c_uint64),  # 16: the engine's `Control`
        ("env", ctypes.c_uint64),  # 24
    )


# void code(uc, address, size, user_data)
_CODE = f"""
    mov rax, [rcx]
    mov [rax], rsi
    mov r8, [rcx + 24]
    mov r9d, [r8 + {layout.ENV_HFLAGS}]
    and r9d, {layout.HF_CPL}
    shl r9d, 16
    shl edx, 8
    lea r9d, [r9 + rdx + {INSTRUCTION}]
    mov [rax + 8], r9
    mov r9, [r8 + {layout.ENV_REGS + 4 * 8}]
    mov [rax + 16], r9
    add rax, {RECORD_BYTES}
    mov [rcx], rax
    cmp rax, [rcx + 8]
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
    mov rax, [r9]
    mov [rax], rdx
    shl ecx, 8
    lea ecx, [rcx + rsi]
    mov [rax + 8], rcx
    mov [rax + 16], r8
    add rax, {RECORD_BYTES}
    mov [r9], rax
    ret
"""


class Recorder:
    """The records of one engine.

    Args:
        library: Unicorn's.
        handle: host address of its uc_struct.
        env: host address of the CPU's state.
        control: of the engine.
    """

    def __init__(self, library: layout.Library, handle: int, env: int, control: Control) -> None:
        size = RECORD_BYTES * (BUFFER_RECORDS + SPARE_RECORDS)
        self._buffer = (ctypes.c_uint64 * (size // 8)).from_buffer(
            mmap(-1, size)
        )  # goes back to the host when it is dropped
        self._first = ctypes.addressof(self._buffer)
        self._cursor = cursor = _Cursor(control=ctypes.addressof(control), env=env)
        cursor.enough = self._first + BUFFER_RECORDS * RECORD_BYTES
        self._code = code = CodePage()
        data, access = ctypes.addressof(cursor), code.add(_ACCESS)
        library.hook(handle, _HOOK_CODE, code.add(_CODE), data)
        library.hook(handle, _HOOK_READ_AFTER, access, data)
        library.hook(handle, _HOOK_WRITE, access, data)
        self.clear()

    @property
    def written(self) -> int:
        """Records in the buffer."""
        written: int = (self._cursor.next - self._first) // RECORD_BYTES
        return written

    def read(self) -> bytes:
        """All records."""
        return ctypes.string_at(self._first, self._cursor.next - self._first)

    def clear(self) -> None:
        """Begin again at the buffer's start."""
        self._cursor.next = self._first

    def take_back(self) -> None:
        """The instruction that was begun last runs again: drop its records."""
        word = self.written * WORDS
        while word:
            word -= WORDS
            if self._buffer[word + 1] & 0xFF == INSTRUCTION:
                break
        self._cursor.next = self._first + 8 * word
