"""The machine code that runs between Unicorn's translated blocks and Python.

Three stubs, assembled by Keystone into one executable mapping per process:

- `fill` replaces the CPU class's tlb_fill: it hands a softmmu miss to Python with everything the
  public hook lacks (full address, size, mmu index, probe, return address), and lets a refusal's
  longjmp start in C, so that it never crosses a Python frame.
- `block` runs at the start of each translated block. It keeps the instruction budget exactly: a
  block that fits is paid for and runs; a block that is longer than what is left is run as a
  shorter translation (cflags_next_tb); with nothing left, or a stop asked for, the engine stops.
  How many instructions a block has is read from its TranslationBlock, found by return address.
  It is remembered in a table that a flush of the translations voids; and in a whole block's own
  code, where the stub overwrites the size that the block passes (`mov edx, size`) and lets its call
  go to `fast`, five instructions, from then on.
- `trap` turns IN, OUT and SYSCALL, for which Unicorn has hooks only, into exits before the
  instruction: it leaves by the engine's own longjmp, which the public hook cannot.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from typing import Final

from vm.hw.engine import layout

TABLE_ENTRIES: Final = 1 << 14
TAIL: Final = 2
"""Instructions to translate of a block that will not run: the budget ends with the one before.

Not 1, which is how QEMU asks for the instruction that changed its own block.
"""
SHORT_BIT: Final = 62
"""In a table entry: a short translation. So high that no budget pays for it, and the fast path need not ask."""
TAIL_BIT: Final = 61
"""In a table entry: one of a length other than 1."""


class Control(ctypes.Structure):
    """What the block stub and Python share, one per engine."""

    _fields_ = (
        ("remaining", ctypes.c_int64),  # 0: instructions left in the budget
        ("to_fast", ctypes.c_int64),  # 8: what a call's distance grows by to reach `fast` instead
        ("slow", ctypes.c_uint64),  # 16: address of the block stub
        ("block_return", ctypes.c_uint64),  # 24: in the block that was paid for last; 0 for none
        ("stop", ctypes.c_uint64),  # 32: Python asks for a stop at the next block
        ("stopped", ctypes.c_uint64),  # 40: the stub has stopped
        ("table", ctypes.c_uint64),  # 48: pairs (return address, instructions)
        ("tcg_ctx", ctypes.c_uint64),  # 56
        ("cpu", ctypes.c_uint64),  # 64
        ("icount_decr", ctypes.c_uint64),  # 72
        ("lookup", ctypes.c_uint64),  # 80: tcg_tb_lookup
        ("cpu_exit", ctypes.c_uint64),  # 88
        ("requested", ctypes.c_uint64),  # 96: the short translation that comes was asked for by us
        ("rewind", ctypes.c_uint64),  # 104: Python: a store changed its own block, which starts again
        ("flushes", ctypes.c_uint64),  # 112: translations' flush count the table was made under
        ("flush_count", ctypes.c_uint64),  # 120: address of Unicorn's own flush count
        ("clear", ctypes.c_uint64),  # 128: Python: void the table
        ("leave", ctypes.c_uint64),  # 136: cpu_loop_exit_noexc
        ("trapped", ctypes.c_uint64),  # 144: an IN, OUT or SYSCALL left the engine before its effect
        ("eflags", ctypes.c_uint64),  # 152: address of RFLAGS, whose RF ends with the block that set it
        ("withheld", ctypes.c_int64),  # 160: budget taken away to force a stop
    )


# rdi uc, rsi linear address, edx bytes of the block (instructions where `fast` is called), rcx Control.
_BLOCK = f"""
entry:
    mov rax, [rsp]
    mov r10, [rcx + 120]
    mov r10d, [r10]
    cmp r10, [rcx + 112]
    jne flushed
look:
    lea r8d, [rax + rax]
    and r8d, {(TABLE_ENTRIES - 1) << 4}
    add r8, [rcx + 48]
    cmp [r8], rax
    jne miss
    mov r9, [r8 + 8]
hit:
    cmp qword ptr [rcx + 32], 0
    jne stop
    mov r8, [rcx + 152]
    test byte ptr [r8 + 2], 1
    jnz resume
pay:
    mov r10, [rcx]
    sub r10, r9
    jl not_paid
    mov [rcx], r10
    mov [rcx + 24], rax
    jz last
    ret
last:
    mov rax, [rcx + 64]
    mov dword ptr [rax + {layout.CPU_CFLAGS_NEXT_TB}], {TAIL}
    ret
resume:
    btr dword ptr [r8], 16
    jmp pay
not_paid:
    btr r9, {SHORT_BIT}
    jnc short_block
    btr r9, {TAIL_BIT}
    jc expected
    cmp qword ptr [rcx + 96], 0
    jne expected
    push rdi
    push rsi
    push rdx
    push rcx
    push r9
    mov rdi, rsi
    call qword ptr [rcx + 104]
    pop r9
    pop rcx
    pop rdx
    pop rsi
    pop rdi
expected:
    mov qword ptr [rcx + 96], 0
    mov rax, [rsp]
    jmp pay
short_block:
    mov r8, [rcx]
    test r8, r8
    jle stop
    mov rax, [rcx + 64]
    mov dword ptr [rax + {layout.CPU_CFLAGS_NEXT_TB}], r8d
    mov rax, [rcx + 72]
    mov word ptr [rax + 2], 0xffff
    mov qword ptr [rcx + 96], 1
    ret
stop:
    mov r8, [rcx + 160]
    add [rcx], r8
    mov qword ptr [rcx + 160], 0
    mov qword ptr [rcx + 40], 1
    mov byte ptr [rdi + {layout.UC_STOP_REQUEST}], 1
    mov rdi, [rcx + 64]
    sub rsp, 8
    call qword ptr [rcx + 88]
    add rsp, 8
    ret
flushed:
    push rdi
    push rsi
    push rdx
    push rcx
    push r10
    call qword ptr [rcx + 128]
    pop r10
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    mov [rcx + 112], r10
    mov rax, [rsp]
    jmp look
miss:
    push rdi
    push rsi
    push rdx
    push rcx
    push r8
    mov rdi, [rcx + 56]
    mov rsi, rax
    call qword ptr [rcx + 80]
    pop r8
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    movzx r9d, word ptr [rax + {layout.TB_ICOUNT}]
    mov r10d, [rax + {layout.TB_CFLAGS}]
    and r10d, {layout.CF_COUNT_MASK}
    jz mark
    bts r9, {SHORT_BIT}
    cmp r10d, 1
    je plain
    bts r9, {TAIL_BIT}
    jmp plain
mark:
    test dword ptr [rax + {layout.TB_FLAGS}], {layout.TB_FLAG_RF}
    jnz plain
    mov rax, [rsp]
    mov r10d, 16
    cmp word ptr [rax - 12], 0x8d48
    je patch
    mov r10d, 19
    cmp word ptr [rax - 15], 0xb948
    jne plain
patch:
    cmp byte ptr [rax - 5], 0xe8
    jne plain
    movsxd r11, dword ptr [rax - 4]
    add r11, rax
    cmp r11, [rcx + 16]
    jne plain
    neg r10
    cmp byte ptr [rax + r10 - 1], 0xba
    jne plain
    cmp [rax + r10], edx
    jne plain
    mov [rax + r10], r9d
    mov r10, [rcx + 8]
    add [rax - 4], r10d
plain:
    mov rax, [rsp]
    mov [r8], rax
    mov [r8 + 8], r9
    jmp hit
"""

# The same for a block that is known to be whole and how many instructions it has (edx).
_FAST = """
    sub [rcx], rdx
    jle undo
    mov rax, [rsp]
    mov [rcx + 24], rax
    ret
undo:
    add [rcx], rdx
    jmp {slow}
"""

# bool tlb_fill(cs, address, size, access, mmu_idx, probe, retaddr)
_FILL = """
    push rdi
    push rsi
    push rdx
    push rcx
    push r8
    push r9
    sub rsp, 8
    mov rax, [rsp + 64]
    push rax
    push rax
    mov rax, {callback}
    call rax
    add rsp, 24
    pop r9
    pop r8
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    test al, al
    jz refuse
    mov eax, 1
    ret
refuse:
    mov rax, {original}
    jmp rax
"""

_REFUSE = "xor eax, eax\nret"

# A UC_HOOK_INSN callback: leave the engine with RIP at the instruction, which has no effect.
# {control} is the register that carries the hook's user data.
_TRAP = f"""
    mov rcx, {{control}}
    mov qword ptr [rcx + 144], 1
    mov byte ptr [rdi + {layout.UC_STOP_REQUEST}], 1
    push rcx
    mov rdi, [rcx + 64]
    call qword ptr [rcx + 88]
    pop rcx
    mov rdi, [rcx + 64]
    mov rax, [rcx + 136]
    sub rsp, 8
    call rax
"""


class CodePage:
    """An executable anonymous mapping into which stubs are assembled.

    Args:
        size: bytes of the mapping.
    """

    def __init__(self, size: int = 4096) -> None:
        self._map = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._used = 0

    def add(self, source: str) -> int:
        """Assemble `source` at the next free place; its host address."""
        from keystone import KS_ARCH_X86, KS_MODE_64, Ks

        address = self._base + self._used
        # Keystone takes its default radix from memory it never set: 10 on one day, 16 on another.
        source = re.sub(r"\b[1-9][0-9]+\b", lambda number: hex(int(number[0])), source)
        code, _ = Ks(KS_ARCH_X86, KS_MODE_64).asm(source, address, as_bytes=True)
        self._map[self._used : self._used + len(code)] = code
        self._used = (self._used + len(code) + 15) & ~15
        return address

    def fill(self, callback: int, original: int) -> int:
        """The fill stub that asks `callback` and falls back on `original` to refuse."""
        return self.add(_FILL.format(callback=callback, original=original))

    def block(self) -> int:
        """The block stub; its user data is the address of a `Control`."""
        return self.add(_BLOCK)

    def fast(self, slow: int) -> int:
        """What a block's call goes to once the block stub at `slow` knows the block."""
        return self.add(_FAST.format(slow=slow))

    def trap(self, user_data: str) -> int:
        """A UC_HOOK_INSN callback that leaves the engine; `user_data` is its argument's register."""
        return self.add(_TRAP.format(control=user_data))

    def refuse(self) -> int:
        """A UC_HOOK_TLB_FILL callback that refuses every fill."""
        return self.add(_REFUSE)
