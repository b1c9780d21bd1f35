"""The machine code that runs between Unicorn's translated blocks and Python.

Three stubs, assembled by Keystone into one executable mapping per engine:

- `fill` replaces the CPU class's tlb_fill: it hands a softmmu miss to Python with everything the
  public hook lacks (full address, size, mmu index, probe, return address), and lets a refusal's
  longjmp start in C, so that it never crosses a Python frame.
- `block` runs at the start of each translated block. It keeps the instruction budget exactly: a
  block that fits is paid for and runs; a block that is longer than what is left is run as a
  shorter translation (cflags_next_tb); with nothing left, or a stop asked for, the engine stops.
  How many instructions a block has is read from its TranslationBlock, found by return address,
  and remembered in a table that a flush of the translations voids. A whole block that comes a
  second time is given the five instructions of `head` (see blocks.py) in place of its call, and
  comes here, at `again`, only when the budget does not pay for it.
- `trap` turns IN, OUT and SYSCALL, for which Unicorn has hooks only, into exits before the
  instruction: it leaves by the engine's own longjmp, which the public hook cannot.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from typing import Final

from kstack.hw.engine import layout

TABLE_ENTRIES: Final = 1 << 14
TAIL: Final = 2
"""Instructions to translate of a block that will not run: the budget ends with the one before.

Not 1, which is how QEMU asks for the instruction that changed its own block.
"""
AGAIN_BYTES: Final = 16
"""From the start of the block stub to `again`."""
SEEN, HEADLESS, SHORT, ALONE = 1, 2, 3, 4
"""Kinds of a table entry: a whole block that ran once; one that keeps its call; a short translation, asked
for by the stub; one of length 1, which may be QEMU's own for an instruction that changed its block."""


# Python functions that the stubs call.
FILL: Final = ctypes.CFUNCTYPE(
    ctypes.c_bool,
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_uint64,
)
VOID: Final = ctypes.CFUNCTYPE(None)
HEAD: Final = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)
TRANSLATED: Final = ctypes.CFUNCTYPE(None, ctypes.c_uint64)
LOOK: Final = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)


class Control(ctypes.Structure):
    """What the block stub and Python share, one per engine. The first 128 bytes are what `head` can reach."""

    _fields_ = (
        ("remaining", ctypes.c_int64),  # 0: instructions left in the budget
        ("again", ctypes.c_uint64),  # 8: address of `again`
        ("give_head", ctypes.c_uint64),  # 16: Python: give a block its head; where to go on, or 0
        ("paid_block", ctypes.c_uint64),  # 24: low half of an address in the block paid for last; 0 for none
        ("stop", ctypes.c_uint64),  # 32: Python asks for a stop at the next block
        ("stopped", ctypes.c_uint64),  # 40: the stub has stopped
        ("table", ctypes.c_uint64),  # 48: triples (return address, u32 instructions, u32 kind)
        ("tcg_ctx", ctypes.c_uint64),  # 56
        ("cpu", ctypes.c_uint64),  # 64
        ("icount_decr", ctypes.c_uint64),  # 72
        ("lookup", ctypes.c_uint64),  # 80: tcg_tb_lookup
        ("cpu_exit", ctypes.c_uint64),  # 88
        ("requested", ctypes.c_uint64),  # 96: the short translation that comes was asked for by us
        ("rewind", ctypes.c_uint64),  # 104: Python: a store changed its own block, which starts again
        ("flushes", ctypes.c_uint64),  # 112: translations' flush count the table was made under
        ("flush_count", ctypes.c_uint64),  # 120: address of Unicorn's own flush count
        ("void", ctypes.c_uint64),  # 128: Python: void the table
        ("leave", ctypes.c_uint64),  # 136: cpu_loop_exit_noexc
        (
            "trapped",
            ctypes.c_uint64,
        ),  # 144: an IN, OUT or SYSCALL (1), or a check (2), left the engine before its effect
        ("eflags", ctypes.c_uint64),  # 152: address of RFLAGS, whose RF ends with the block that set it
        ("withheld", ctypes.c_int64),  # 160: budget taken away to force a stop
        ("uc", ctypes.c_uint64),  # 168
        ("check_exit", ctypes.c_uint64),  # 176: helper_check_exit_request
        ("translated", ctypes.c_uint64),  # 184: Python: a block comes for the first time; 0 if nobody wants to know
        ("code_hook", ctypes.c_uint64),  # 192: the struct hook of checks
        ("tables", ctypes.c_uint64),  # 200: what checks.py says of each byte
        ("ask_all", ctypes.c_uint64),  # 208: every instruction is looked at
        ("ldub_code", ctypes.c_uint64),  # 216: cpu_ldub_code
        ("look", ctypes.c_uint64),  # 224: Python: an instruction is translated; its check's form, or 0
        ("recorder", ctypes.c_uint64),  # 232: what records an instruction, or 0
        ("cursor", ctypes.c_uint64),  # 240: of the recorder
        ("checked", ctypes.c_uint64),  # 248: linear address of the instruction that was checked last
        ("granted", ctypes.c_uint64),  # 256: of the one that is let through once
        ("restore_state", ctypes.c_uint64),  # 264: cpu_restore_state
        ("hidden", ctypes.c_uint64),  # 272: bytes of an instruction are hidden from the translator
        ("unhide", ctypes.c_uint64),  # 280: Python: put them back
        (
            "resumed",
            ctypes.c_uint64,
        ),  # 288: bit 0: RF was set when the block began that came last, bit 1: the one before
        (
            "string",
            ctypes.c_uint64,
        ),  # 296: linear address of the repeated CMPS or SCAS that was begun or gone on with last
        ("string_left", ctypes.c_int64),  # 304: of the budget, what is withheld included, as its last iteration began
        ("string_mask", ctypes.c_uint64),  # 312: of its count
        ("string_flags", ctypes.c_uint64 * 4),  # 320: cc_dst, cc_src, cc_src2 and cc_op of before its first iteration
    )


def head(control: int, instructions: int, block: int) -> bytes:
    """What a block begins with once it is known: pay, and ask `again` where the budget does not suffice.

        mov rcx, control
        sub qword ptr [rcx], instructions
        jg  paid
        call qword ptr [rcx + 8]            ; returns, rcx kept, only if the block may run
    paid:
        mov dword ptr [rcx + 24], block

    Args:
        control: host address of the `Control`.
        instructions: of the block, below 2**31.
        block: low half of a host address in it.
    """
    pay = (
        b"\x48\x83\x29" + bytes([instructions])
        if instructions < 128
        else b"\x48\x81\x29" + instructions.to_bytes(4, "little")
    )
    load = b"\x48\xb9" + control.to_bytes(8, "little")
    return load + pay + b"\x7f\x03\xff\x51\x08" + b"\xc7\x41\x18" + block.to_bytes(4, "little")


# Registers that a C function may change are free here; rcx is the Control, rbp QEMU's env. Each
# label that is called, and `block` and `again`, are entered with RSP 8 below a multiple of 16.
# A head keeps no RIP: `again` has to set it, for a stop.
_BLOCK = f"""
    jmp block
    .p2align {AGAIN_BYTES.bit_length() - 1}
again:
    mov rdi, [rcx + 56]
    mov rsi, [rsp]
    push rcx
    call qword ptr [rcx + 80]
    pop rcx
    mov rdx, [rax + {layout.TB_PC}]
    sub rdx, [rax + {layout.TB_CS_BASE}]
    mov [rbp + {layout.ENV_RIP}], rdx
    mov rax, [rsp]
    sub rsp, 8
    call find
    mov r9d, [r8 + 8]
    add [rcx], r9
    call pay
    push rcx
    sub rsp, 8
    mov rdi, [rcx + 168]
    xor esi, esi
    call qword ptr [rcx + 176]
    add rsp, 8
    pop rcx
    add rsp, 8
    ret

block:
    mov rax, [rsp]
    sub rsp, 8
    call find
    cmp dword ptr [r8 + 12], {SEEN}
    je known
    cmp dword ptr [r8 + 12], 0
    jne charge
    mov dword ptr [r8 + 12], {SEEN}
charge:
    call pay
    add rsp, 8
    ret
known:
    push rcx
    push r8
    mov rdi, rax
    call qword ptr [rcx + 16]
    pop r8
    pop rcx
    test rax, rax
    jz headless
    add rsp, 8
    mov [rsp], rax
    ret
headless:
    mov dword ptr [r8 + 12], {HEADLESS}
    mov rax, [rsp + 8]
    jmp charge

find:
    mov r10, [rcx + 120]
    mov r10d, [r10]
    cmp r10, [rcx + 112]
    jne flushed
look:
    lea r8d, [rax + rax]
    and r8d, {(TABLE_ENTRIES - 1) << 4}
    add r8, [rcx + 48]
    cmp [r8], rax
    jne describe
    ret
flushed:
    push rcx
    push rax
    push r10
    call qword ptr [rcx + 128]
    pop r10
    pop rax
    pop rcx
    mov [rcx + 112], r10
    jmp look
describe:
    push rcx
    push rax
    push r8
    mov rdi, [rcx + 56]
    mov rsi, rax
    call qword ptr [rcx + 80]
    mov rdx, rax
    mov rcx, [rsp + 16]
    cmp qword ptr [rcx + 184], 0
    je untold
    push rdx
    sub rsp, 8
    mov rdi, rdx
    call qword ptr [rcx + 184]
    add rsp, 8
    pop rdx
untold:
    pop r8
    pop rax
    pop rcx
    mov [r8], rax
    movzx r9d, word ptr [rdx + {layout.TB_ICOUNT}]
    mov [r8 + 8], r9d
    mov r11d, {HEADLESS}
    test dword ptr [rdx + {layout.TB_FLAGS}], {layout.TB_FLAG_RF}
    jnz described
    xor r11d, r11d
    mov r10d, [rdx + {layout.TB_CFLAGS}]
    and r10d, {layout.CF_COUNT_MASK}
    jz described
    mov r11d, {ALONE}
    cmp r10d, 1
    je described
    mov r11d, {SHORT}
described:
    mov [r8 + 12], r11d
    ret

pay:
    mov r9d, [r8 + 8]
    mov r11d, [r8 + 12]
    cmp qword ptr [rcx + 32], 0
    jne stop
    mov rdx, [rcx + 152]
    btr dword ptr [rdx], 16
    rcl qword ptr [rcx + 288], 1
    cmp r11d, {SHORT}
    je granted
    cmp r11d, {ALONE}
    je lone
    cmp [rcx], r9
    jl shorter
take:
    mov [rcx + 24], eax
    sub [rcx], r9
    jz last
    ret
last:
    mov rdx, [rcx + 64]
    mov dword ptr [rdx + {layout.CPU_CFLAGS_NEXT_TB}], {TAIL}
    ret
lone:
    cmp qword ptr [rcx + 96], 0
    jne granted
    push rcx
    push rax
    push r9
    call qword ptr [rcx + 104]
    pop r9
    pop rax
    pop rcx
granted:
    mov qword ptr [rcx + 96], 0
    cmp [rcx], r9
    jge take
shorter:
    mov rdx, [rcx]
    test rdx, rdx
    jle stop
    mov r8, [rcx + 64]
    mov dword ptr [r8 + {layout.CPU_CFLAGS_NEXT_TB}], edx
    mov r8, [rcx + 72]
    mov word ptr [r8 + 2], 0xffff
    mov qword ptr [rcx + 96], 1
    ret
stop:
    mov r8, [rcx + 160]
    add [rcx], r8
    mov qword ptr [rcx + 160], 0
    mov qword ptr [rcx + 40], 1
    mov rdi, [rcx + 168]
    mov byte ptr [rdi + {layout.UC_STOP_REQUEST}], 1
    mov rdi, [rcx + 64]
    push rcx
    call qword ptr [rcx + 88]
    pop rcx
    ret
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
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, size, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
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

    def fill(self, callback: int, original: int, magic: int, control: int) -> int:
        """The fill stub that asks `callback` and falls back on `original` to refuse.

        Before it lie `magic` and the address of `control`, by which an engine of ours is known.
        """
        self._map[self._used : self._used + 16] = magic.to_bytes(8, "little") + control.to_bytes(8, "little")
        self._used += 16
        return self.add(_FILL.format(callback=callback, original=original))

    def block(self) -> tuple[int, int]:
        """The block stub, whose user data is the address of a `Control`, and where a head calls it."""
        start = self.add(_BLOCK)
        return start, start + AGAIN_BYTES

    def trap(self, user_data: str) -> int:
        """A UC_HOOK_INSN callback that leaves the engine; `user_data` is its argument's register."""
        return self.add(_TRAP.format(control=user_data))

    def refuse(self) -> int:
        """A UC_HOOK_TLB_FILL callback that refuses every fill."""
        return self.add(_REFUSE)
