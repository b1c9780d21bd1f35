"""A guest that raises events by a random table and prints the frame of each.

One flat multiboot image, made by Python from a seed: boot code, one snippet a case, and descriptor
and page tables that are in the image as they are used. Runs here and on QEMU (`-kernel`).

    0x100000 code    0x110000 GDT, TSS    0x111000 IDT    0x112000 page tables    0x118000 snippets
    0x120000 stacks, one 4 KiB page each: 0x121000 main, 0x123000 case, 0x125000 TSS.RSP0,
             0x127000 and 0x129000 IST 1 and 2 (tops)
    0x130000 not present   0x131000 read-only   0x132000 NX   0x133000 user   0x134000 reserved bit
"""

from __future__ import annotations

import random
import struct
from typing import Final, NamedTuple

from kstack.guest.asm import assemble

BASE, GDT, TSS, IDT, TABLES, SNIPPETS, END = 0x100000, 0x110000, 0x110800, 0x111000, 0x112000, 0x118000, 0x135000
MAIN_STACK, CASE_STACK, RSP0, IST1, IST2 = 0x121000, 0x123000, 0x125000, 0x127000, 0x129000
ABSENT, READ_ONLY, NO_EXECUTE, USER, RESERVED = 0x130000, 0x131000, 0x132000, 0x133000, 0x134000
KCODE, KDATA, UDATA, UCODE, TASK, ABSENT_DATA, LAST = 0x08, 0x10, 0x18 | 3, 0x20 | 3, 0x28, 0x38, 0x40
NX: Final = 1 << 63
WITH_ERROR: Final = (8, 10, 11, 12, 13, 14, 17)
SNIPPET_BYTES: Final = 64
SPIN: Final = ".Lspin:\njmp .Lspin"


class Case(NamedTuple):
    """Code to run at a CPL with RFLAGS and RSP, and the gate (vector, IST, type and DPL byte) it needs."""

    code: str
    cpl: int
    rflags: int
    rsp: int
    gate: tuple[int, int, int]


def cases(seed: int, count: int) -> list[Case]:
    """Random cases."""
    rng = random.Random(seed)
    return [_case(rng) for _ in range(count)]


def _case(rng: random.Random) -> Case:
    cpl = rng.choice((0, 0, 3))
    rflags = 2 | rng.choice((0, 0x200)) | rng.choice((0, 1, 0x4, 0x10, 0x40, 0x80, 0x400, 0x800, 0x8D5, 0x200000))
    rsp = CASE_STACK - rng.choice((0, 8, rng.randrange(512)))
    ist, kind = rng.choice((0, 0, 1, 2)), 0x8E | rng.choice((0, 1)) | rng.choice((0, 0x60))
    choice = rng.choice(
        ("int", "int", "int3", "ud", "div", "selector", "gp", "pf", "pf", "pf", "step", "nmi", "ipi", "df")
    )
    if choice == "int":
        vector = rng.randrange(32, 256)
        if rng.random() < 0.15:
            kind &= ~0x80
        return Case(f"int {vector}", cpl, rflags, rsp, (vector, ist, kind))
    if choice == "int3":
        return Case(rng.choice(("int3", ".byte 0xcd, 3")), cpl, rflags, rsp, (3, ist, kind))
    if choice == "ud":
        return Case("nop\nud2", cpl, rflags, rsp, (6, ist, kind))
    if choice == "div":
        return Case("mov ecx, 0\ndiv ecx", cpl, rflags, rsp, (0, ist, kind))
    if choice == "selector":
        return _selector(rng, rflags, rsp, ist, kind)
    if choice == "gp":
        code = rng.choice(
            (
                "movabs rax, 0x800000000000\nmov rax, [rax]",
                "hlt" if cpl else "mov eax, 0x68\nlldt ax",
                "mov eax, 0x48\nltr ax",
            )
        )
        if cpl and rng.random() < 0.5:
            code = rng.choice(
                ("cli", "mov rax, cr3", "lgdt [rsp]", "invlpg [rsp]", "in al, 0x60", "wrmsr", "swapgs", "mov cr0, rax")
            )
        return Case(code, cpl, rflags, rsp, (13, ist, kind))
    if choice == "pf":
        page = rng.choice(
            (ABSENT, READ_ONLY, NO_EXECUTE, RESERVED)
            if not cpl
            else (ABSENT, READ_ONLY, RESERVED, 0x120000, NO_EXECUTE)
        )
        address = page + rng.randrange(0, 4080)
        code = (
            f"mov rax, [{address}]"
            if page in (ABSENT, RESERVED, 0x120000) and rng.random() < 0.5
            else f"mov [{address}], rcx"
        )
        if page == NO_EXECUTE or (page in (ABSENT, RESERVED) and rng.random() < 0.3):
            code = f"mov eax, {address}\njmp rax"
        return Case(code, cpl, rflags, rsp, (14, ist, kind))
    if choice == "step":
        code = rng.choice(
            ("nop\nnop", "inc rax\nnop", "mov eax, 5\nnop", "xor ecx, ecx\nnop", "jmp .Lnext\n.Lnext:\nnop")
        )
        return Case(code, cpl, rflags | 0x100, rsp, (1, ist, kind))
    if choice in ("nmi", "ipi"):
        vector = 2 if choice == "nmi" else rng.randrange(48, 240)
        command = 0x400 if choice == "nmi" else 0x4000 | vector
        code = f"mov eax, 0xfee00300\nmov dword ptr [rax+16], 0\nmov dword ptr [rax], {command}\n{SPIN}"
        return Case(code, 0, rflags | 0x200, rsp, (vector, ist, 0x8E))
    return Case("nop\nud2", 0, rflags, ABSENT + rng.choice((0x800, 0x808, 0x123)), (6, 0, 0x8E))


def _selector(rng: random.Random, rflags: int, rsp: int, ist: int, kind: int) -> Case:
    bad = rng.choice(
        (
            LAST + 8 * rng.randrange(100) | rng.randrange(8),
            ABSENT_DATA,
            ABSENT_DATA | 3,
            TASK,
            rng.randrange(1, 0x2000) * 8 | 4,
        )
    )
    register = rng.choice(("ds", "es", "fs", "gs", "ss"))
    if rng.random() < 0.15:
        return Case(f"mov eax, {ABSENT_DATA | 3}\nmov ss, ax", 3, rflags, rsp, (12, ist, kind))
    vector = (12 if register == "ss" else 11) if bad & ~3 == ABSENT_DATA else 13
    if rng.random() < 0.25:
        code = f"push {KDATA}\npush 0x5000\npush 2\npush {bad & ~3}\npush 0x5000\niretq"
        return Case(code, 0, rflags, rsp, (13, ist, kind))
    return Case(f"mov eax, {bad}\nmov {register}, ax", rng.choice((0, 3)), rflags, rsp, (vector, ist, kind))


_BOOT: Final = f"""
.code32
    .long 0x1badb002, 0x10000, {-(0x1BADB002 + 0x10000) & 0xFFFFFFFF}
    .long {BASE}, {BASE}, 0, 0, {BASE + 32}
    cli
    lgdt [gdtr]
    mov eax, 0x20
    mov cr4, eax
    mov eax, {TABLES}
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x900
    xor edx, edx
    wrmsr
    mov eax, 0x80010011
    mov cr0, eax
    .byte 0xea
    .long boot64
    .short {KCODE}
gdtr:
    .short {LAST - 1}
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
    xor eax, eax
    lldt ax
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov eax, {TASK}
    ltr ax
    mov eax, 0xfee000f0
    mov dword ptr [rax], 0x1ff
    xor r15d, r15d
next:
    mov esp, {MAIN_STACK}
    cmp r15d, COUNT
    jae finish
    mov eax, {KDATA}
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ebx, r15d
    shl ebx, 6
    lea rsi, [rip+table]
    add rsi, rbx
    mov eax, [rsi]
    shl eax, 4
    mov cl, [rsi+4]
    mov byte ptr [rax+{IDT + 4}], cl
    mov cl, [rsi+5]
    mov byte ptr [rax+{IDT + 5}], cl
    inc r15d
    xor eax, eax
    xor ecx, ecx
    push qword ptr [rsi+8]
    push qword ptr [rsi+16]
    push qword ptr [rsi+24]
    push qword ptr [rsi+32]
    push qword ptr [rsi+40]
    iretq
finish:
    mov eax, 0x10
    out 0xf4, al
    hlt
    jmp finish
handler:
    mov r14, [rsp]
    lea r13, [rsp+8]
    mov r12, [rsi]
    shl r12d, 4
    mov byte ptr [r12+{IDT + 4}], 0
    mov byte ptr [r12+{IDT + 5}], 0x8e
    mov esp, {MAIN_STACK}
    cld
    mov ebx, 0xfee000b0
    mov dword ptr [rbx], 0
    mov rdi, r14
    call hex
    mov edi, cs
    call hex
    mov edi, ss
    call hex
    mov rdi, r13
    call hex
    mov rdi, cr2
    call hex
    mov ebp, 6
.Lwords:
    mov rdi, [r13]
    call hex
    add r13, 8
    dec ebp
    jnz .Lwords
    mov al, 10
    call put
    jmp next
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
"""


def image(chosen: list[Case]) -> bytes:
    """The multiboot image that runs `chosen` one after the other."""
    stubs = "".join(f".p2align 4, 0x90\npush {vector}\njmp handler\n" for vector in range(256))
    table = "table:\n"
    for number, case in enumerate(chosen):
        code, data = (UCODE, UDATA) if case.cpl else (KCODE, KDATA)
        vector, ist, kind = case.gate
        at = SNIPPETS + SNIPPET_BYTES * number
        table += (
            f".long {vector}\n.byte {ist}, {kind}, 0, 0\n.quad {data}, {case.rsp}, {case.rflags}, {code}, {at}, 0, 0\n"
        )
    text = _BOOT + "stubs:\n" + stubs + ".p2align 6, 0x90\n" + table
    program = assemble(text, BASE, bits=32, defines={"COUNT": len(chosen)})
    whole = bytearray(END - BASE)
    whole[: len(program)] = program
    assert BASE + len(program) < GDT
    _tables(whole, _first_stub(program))
    for number, case in enumerate(chosen):
        at = SNIPPETS + SNIPPET_BYTES * number
        snippet = assemble(case.code, at)
        assert len(snippet) <= SNIPPET_BYTES
        whole[at - BASE : at - BASE + len(snippet)] = snippet
    assert SNIPPETS + SNIPPET_BYTES * len(chosen) <= 0x120000
    return bytes(whole)


def _first_stub(code: bytes) -> int:
    """Address of vector 0's stub: push 0 and a jump, 16 bytes aligned."""
    return BASE + next(
        at for at in range(0, len(code), 16) if code[at : at + 2] == b"\x6a\0" and code[at + 2] in (0xE9, 0xEB)
    )


def _tables(whole: bytearray, stubs: int) -> None:
    def put(address: int, layout: str, *values: int) -> None:
        struct.pack_into(layout, whole, address - BASE, *values)

    task = (TSS & 0xFFFFFF) << 16 | 0x67 | 0x89 << 40
    put(
        GDT, "<8Q", 0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xCFF3000000FFFF, 0xAFFB000000FFFF, task, 0, 0xCF73000000FFFF
    )
    put(TSS + 4, "<Q", RSP0)
    put(TSS + 0x66, "<H", 0x68)  # no I/O permission bitmap
    put(TSS + 0x24, "<2Q", IST1, IST2)
    for vector in range(256):
        target = stubs + 16 * vector
        ist = 1 if vector == 8 else 0
        put(IDT + 16 * vector, "<HHBBHII", target & 0xFFFF, KCODE, ist, 0x8E, target >> 16, 0, 0)
    put(TABLES, "<Q", TABLES + 0x1000 | 7)
    put(TABLES + 0x1000, "<Q", TABLES + 0x2000 | 7)
    put(TABLES + 0x1000 + 24, "<Q", TABLES + 0x4000 | 3)
    put(TABLES + 0x2000, "<Q", TABLES + 0x3000 | 7)
    put(TABLES + 0x4000 + 8 * 0x1F7, "<Q", 0xFEE00000 | 0x9B)
    special = {ABSENT: 6, READ_ONLY: 5, NO_EXECUTE: 7 | NX, USER: 7, RESERVED: 7 | 1 << 51}
    for page in range(0, 0x200000, 0x1000):
        user = SNIPPETS <= page < 0x120000 or page == CASE_STACK - 0x1000
        put(TABLES + 0x3000 + page // 512, "<Q", page | special.get(page, 7 if user else 3))
