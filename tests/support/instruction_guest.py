"""A guest that executes single instructions in ring 3 and prints a hash of what each has left: to run here and on QEMU.

One flat multiboot image, made by Python from seeds: boot code, a table of cases, and descriptor and page tables that are in the
image as they are used. A case is an instruction of random_instructions.py with its registers; its two pages of data are filled
from a number, and XMM0 to XMM15 from their first 256 bytes. Behind the instruction stands INT 80H.

    0x100000 code    0x110000 GDT, TSS    0x111000 IDT    0x112000 page tables    0x11a000 to 0x120000 stacks
    0x120000 the page of code    0x121000 the pages of data    0x124000 cases, 256 bytes each
    linear CODE, DATA (host_processor.py): the pages of code and data, for ring 3
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kstack.guest.asm import assemble
from kstack.hw.cpu.checked import rule_of
from kstack.hw.cpu.encoding import encoding_of, taken_as
from kstack.x86.flags import Flags
from tests.support.differential import SKIPPED, undefined_flags
from tests.support.host_processor import AT, CODE, DATA
from tests.support.random_instructions import Drawn, drawn

BASE, GDT, TSS, IDT, TABLES = 0x100000, 0x110000, 0x110800, 0x111000, 0x112000
MAIN_STACK, RSP0, PAGE, PAGES, CASES, CASE_BYTES = 0x11C000, 0x11E000, 0x120000, 0x121000, 0x124000, 256
KCODE, KDATA, UDATA, UCODE, TASK = 0x08, 0x10, 0x18 | 3, 0x20 | 3, 0x28
FRESH: Final = bytes.fromhex("7f03") + bytes(22) + bytes.fromhex("801f") + bytes(486)
SAVED: Final = 0x110C00
_COMPARED: Final = int(Flags.CF | Flags.PF | Flags.AF | Flags.ZF | Flags.SF | Flags.OF | Flags.DF)
NOT_ON_QEMU: Final = frozenset(
    (
        "pushfq popfq ret call jmp int int3 syscall sysret clflush maskmovdqu ldmxcsr stmxcsr vmcall invlpga monitor mwait xgetbv"
    ).split()
)
"""What QEMU 7.2 does otherwise, or what depends on the system around it; x87 begins with an empty stack, and is left out."""
_DESCRIPTORS: Final = ("lar", "lsl", "verr", "verw", "mov ds", "mov es", "mov fs", "mov gs", "mov ss")
"""What the system's descriptors decide."""


class Case(NamedTuple):
    """An instruction, and which flags of it are compared."""

    one: Drawn
    flags: int


def case(seed: int) -> Case | None:
    """The case of a seed; None if it is none for QEMU: what is put right here is not right there."""
    one = drawn(seed, FRESH)
    name = one.text.removeprefix("lock ").split()[0]
    found = encoding_of(taken_as(one.code.ljust(15, b"\x90"), 64), 64)
    if (
        name.startswith("f")
        or name in NOT_ON_QEMU
        or any(one.text.startswith(skipped) for skipped in (*SKIPPED, *_DESCRIPTORS))
    ):
        return None
    if found is None or rule_of(found) is not None or taken_as(one.code, 64) != one.code:
        return None
    return Case(one, _COMPARED & ~undefined_flags(name))


_BOOT: Final = f"""
.code32
    .long 0x1badb002, 0x10000, {-(0x1BADB002 + 0x10000) & 0xFFFFFFFF}
    .long {BASE}, {BASE}, 0, 0, {BASE + 32}
    cli
    lgdt [gdtr]
    mov eax, 0x620
    mov cr4, eax
    mov eax, {TABLES}
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x900
    xor edx, edx
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0xea
    .long boot64
    .short {KCODE}
gdtr:
    .short 0x3f
    .quad {GDT}
idtr:
    .short 0xfff
    .quad {IDT}
.code64
boot64:
    mov eax, {KDATA}
    mov ds, eax
    mov es, eax
    mov ss, eax
    lidt [rip+idtr]
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov eax, {TASK}
    ltr ax
    xor r15d, r15d
next:
    mov esp, {MAIN_STACK}
    cmp r15d, COUNT
    jae finish
    mov eax, {UDATA}
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ebx, r15d
    shl ebx, 8
    add ebx, {CASES}
    inc r15d
    mov [{SAVED + 0x100}], r15
    mov [{SAVED + 0x108}], rbx
    cld
    mov rax, [rbx]
    mov [{PAGE + AT - CODE}], rax
    mov rax, [rbx+8]
    mov [{PAGE + AT - CODE + 8}], rax
    mov rax, [rbx+16]
    mov [{PAGE + AT - CODE + 16}], rax
    mov rax, [rbx+168]
    movabs rdx, 6364136223846793005
    movabs rcx, 1442695040888963407
    mov edi, {PAGES}
    mov ebp, 1024
.Lfill:
    imul rax, rdx
    add rax, rcx
    mov [rdi], rax
    add rdi, 8
    dec ebp
    jnz .Lfill
    fninit
    mov edi, {PAGES}
XMM_LOADS
    push {UDATA}
    push qword ptr [rbx+56]
    push qword ptr [rbx+152]
    push {UCODE}
    mov eax, {AT}
    push rax
    mov rax, [rbx+24]
    mov rcx, [rbx+32]
    mov rdx, [rbx+40]
    mov rbp, [rbx+64]
    mov rsi, [rbx+72]
    mov rdi, [rbx+80]
    mov r8, [rbx+88]
    mov r9, [rbx+96]
    mov r10, [rbx+104]
    mov r11, [rbx+112]
    mov r12, [rbx+120]
    mov r13, [rbx+128]
    mov r14, [rbx+136]
    mov r15, [rbx+144]
    mov rbx, [rbx+48]
    iretq
finish:
    mov eax, 0x10
    out 0xf4, al
    hlt
    jmp finish
handler:
    mov [{SAVED}], rax
    mov [{SAVED + 8}], rcx
    mov [{SAVED + 16}], rdx
    mov [{SAVED + 24}], rbx
    mov [{SAVED + 40}], rbp
    mov [{SAVED + 48}], rsi
    mov [{SAVED + 56}], rdi
    mov [{SAVED + 64}], r8
    mov [{SAVED + 72}], r9
    mov [{SAVED + 80}], r10
    mov [{SAVED + 88}], r11
    mov [{SAVED + 96}], r12
    mov [{SAVED + 104}], r13
    mov [{SAVED + 112}], r14
    mov [{SAVED + 120}], r15
    mov rax, [rsp+40]
    mov [{SAVED + 32}], rax
    cld
    mov edi, {SAVED + 0x80}
XMM_STORES
    mov rbx, [{SAVED + 0x108}]
    movabs r9, 0xcbf29ce484222325
    movabs r10, 0x100000001b3
    mov rax, [rsp+32]
    and rax, [rbx+160]
    call mix
    mov rax, cr2
    shr rax, 12
    cmp qword ptr [rsp], 14
    je .Lpage
    xor eax, eax
.Lpage:
    call mix
    mov edi, {SAVED}
    mov ebp, 16
    call mixes
    mov edi, {SAVED + 0x180}
    mov ebp, 32
    call mixes
    mov edi, {PAGES}
    mov ebp, 1024
    call mixes
    mov rax, [rsp+8]
    call mix
    mov rax, [rsp+16]
    call mix
    mov rdi, r9
    mov dil, [rsp]
    mov esp, {MAIN_STACK}
    call hex
    mov al, 10
    call put
    mov r15, [{SAVED + 0x100}]
    jmp next
mixes:
    mov rax, [rdi]
    call mix
    add rdi, 8
    dec ebp
    jnz mixes
    ret
mix:
    xor r9, rax
    imul r9, r10
    ret
hex:
    mov r11d, 16
.Lhex:
    rol rdi, 4
    mov eax, edi
    and eax, 15
    cmp eax, 10
    jb .Ldigit
    add eax, 39
.Ldigit:
    add eax, 48
    call put
    dec r11d
    jnz .Lhex
    mov al, 32
put:
    mov r10d, eax
.Lbusy:
    mov edx, 0x3fd
    in al, dx
    test al, 0x20
    jz .Lbusy
    mov eax, r10d
    mov edx, 0x3f8
    out dx, al
    ret
.p2align 4, 0x90
""".replace("XMM_LOADS", "\n".join(f"    movups xmm{n}, [rdi+{16 * n}]" for n in range(16))).replace(
    "    mov edi, " + str(SAVED + 0x80) + "\nXMM_STORES",
    f"    mov edi, {SAVED + 0x180}\n" + "\n".join(f"    movups [rdi+{16 * n}], xmm{n}" for n in range(16)),
)
_WITH_ERROR: Final = (8, 10, 11, 12, 13, 14, 17)


def image(cases: list[Case]) -> bytes:
    """The multiboot image that runs `cases` one after the other.

    Each prints a number: its last two digits are the vector, the others a hash of error code, RIP, registers, flags that are
    defined, page that faulted, XMM and data.
    """
    stubs = "".join(
        f".p2align 4, 0x90\n{'' if vector in _WITH_ERROR else 'push 0' + chr(10)}push {vector}\njmp handler\n"
        for vector in range(129)
    )
    program = assemble(_BOOT + "stubs:\n" + stubs, BASE, bits=32, defines={"COUNT": len(cases)})
    whole = bytearray(CASES - BASE + CASE_BYTES * len(cases))
    whole[: len(program)] = program
    assert BASE + len(program) < GDT
    first = next(at for at in range(0, len(program), 16) if program[at : at + 4] == b"\x6a\0\x6a\0")
    _tables(whole, BASE + first)
    for number, one in enumerate(cases):
        code = (one.one.code + b"\xcd\x80").ljust(24, b"\xcc")
        words = (*one.one.state.gpr, one.one.state.flags, one.flags, one.one.state.gpr[0] ^ number)
        struct.pack_into("<24s19Q", whole, CASES - BASE + CASE_BYTES * number, code, *words)
    return bytes(whole)


def _tables(whole: bytearray, stubs: int) -> None:
    def put(address: int, layout: str, *values: int) -> None:
        struct.pack_into(layout, whole, address - BASE, *values)

    task = (TSS & 0xFFFFFF) << 16 | 0x67 | 0x89 << 40
    put(GDT, "<7Q", 0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xCFF3000000FFFF, 0xAFFB000000FFFF, task, 0)
    put(TSS + 4, "<Q", RSP0)
    put(TSS + 0x66, "<H", 0x68)  # no I/O permission bitmap
    for vector in range(129):
        target = stubs + 16 * vector
        kind = 0xEE if vector == 0x80 else 0x8E
        put(IDT + 16 * vector, "<HHBBHII", target & 0xFFFF, KCODE, 0, kind, target >> 16, 0, 0)
    no_execute = 1 << 63
    put(TABLES, "<Q", TABLES + 0x1000 | 7)
    put(TABLES + 0x1000, "<3Q", TABLES + 0x2000 | 7, 0, TABLES + 0x3000 | 7)
    for number in range(4):
        put(TABLES + 0x2000 + 8 * number, "<Q", number << 21 | 0x83)
    put(TABLES + 0x3000 + 8 * (CODE >> 21 & 511), "<Q", TABLES + 0x4000 | 7)
    put(TABLES + 0x3000 + 8 * (DATA >> 21 & 511), "<Q", TABLES + 0x5000 | 7)
    put(TABLES + 0x4000, "<Q", PAGE | 7)
    put(TABLES + 0x5000, "<2Q", PAGES | 7 | no_execute, PAGES + 4096 | 7 | no_execute)
