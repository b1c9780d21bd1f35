"""Code that means harm, put together by a seed from assembled pieces: each knows what it is about to break.

Pieces are assembled once. A number in them that is to be drawn is written MARK + n, loaded whole by a MOV.
"""

from __future__ import annotations

import random
import struct
from functools import cache
from typing import Final

from kstack.guest.asm import assemble
from kstack.kernels.kstack.hypercall import Function
from tests.support.hostile_guests import CODE, GDT, HANDLERS, IDT, KCODE, KDATA, MSRS, RAM, TABLES, TSS, numbers

MARK: Final = 0x1122_3344_5566_7700
POOL, POOL_BYTES, MAILBOXES, AREA, AREA_BYTES, THREADS = (
    0xA0000,
    0x20000,
    0x9F000,
    0x60000,
    0x4000,
    4,
)  # of hypercalls that make sense
_A, _B, _C, _D = (f"{MARK + number:#x}" for number in range(4))

TABLES_PIECES: Final = (
    f"mov rbx, {_A}\n mov rax, {_B}\n mov [rbx], rax",
    f"mov rbx, {_A}\n mov rax, {_B}\n mov [rbx], rax\n invlpg [rbx]\n mov rcx, [rbx]",
    f"mov rbx, {_A}\n mov rax, {_B}\n lock xchg [rbx], rax\n mov rax, cr3\n mov cr3, rax",
    f"mov rbx, {_A}\n lock btc qword ptr [rbx], 0\n mov rcx, [rbx]\n lock btc qword ptr [rbx], 0",
    f"mov rdi, {_A}\n mov rax, {_B}\n mov ecx, 64\n cld\n rep stosq",
    f"mov rax, {_A}\n mov cr3, rax",
    f"mov rbx, {_A}\n and qword ptr [rbx], -2\n mov rax, {_B}\n mov [rax], rax",
    f"mov rax, {_A}\n push rax\n push rax\n mov rcx, {_B}\n and ecx, 3\n invpcid rcx, [rsp]",
)
DESCRIPTOR_PIECES: Final = (
    f"mov rax, {_A}\n push rax\n push rax\n lidt [rsp+6]",
    f"mov rax, {_A}\n push rax\n push rax\n lgdt [rsp+6]",
    "push 0\n push 0\n lidt [rsp]\n ud2",
    f"mov rax, {_A}\n ltr ax",
    f"mov rax, {_A}\n lldt ax",
    f"mov rax, {_A}\n mov ss, ax\n mov rbx, [rsp]",
    f"mov rax, {_A}\n push rax\n mov rax, {_B}\n push rax\n retfq",
    f"push {KDATA}\n mov rax, {_A}\n push rax\n pushfq\n push {KCODE}\n mov rax, {_B}\n push rax\n iretq",
)
CONTROL_PIECES: Final = (
    f"mov rax, {_A}\n mov cr0, rax",
    f"mov rax, {_A}\n mov cr4, rax",
    f"mov rax, cr4\n mov rbx, {_A}\n xor rax, rbx\n mov cr4, rax",
    f"mov rax, cr0\n mov rbx, {_A}\n xor rax, rbx\n mov cr0, rax",
    f"mov rax, {_A}\n mov cr8, rax",
    f"mov rax, {_A}\n mov dr7, rax\n mov dr0, rax",
    f"mov rcx, {_C}\n mov rax, {_A}\n mov rdx, {_B}\n wrmsr\n rdmsr",
    "mov ecx, 0xC0000080\n rdmsr\n btc eax, 8\n wrmsr",
    f"mov ecx, 0xC0000080\n mov rax, {_A}\n xor edx, edx\n wrmsr",
    f"mov rax, {_A}\n push rax\n popfq",
    "mov rax, cr0\n btr eax, 31\n mov cr0, rax",
    f"mov rcx, {_A}\n syscall",
    f"mov rcx, {_A}\n mov r11, {_B}\n sysretq",
    "swapgs\n mov rax, gs:[0]",
)
INTERRUPT_PIECES: Final = (
    "cli\n l: jmp l",
    "sti\n l: jmp l",
    "cli\n hlt",
    "sti\n hlt",
    f"mov rcx, {_A}\n and ecx, 0xff\n mov ebx, 0xFEE00310\n mov eax, 0x1000000\n mov [rbx], eax\n mov [rbx-16], ecx",
    f"mov ebx, 0xFEE00300\n mov eax, 0xC4000\n mov rcx, {_A}\n and ecx, 0xff\n or eax, ecx\n mov [rbx], eax",
    "mov ebx, 0xFEE00300\n mov eax, 0xC4500\n mov [rbx], eax\n mov eax, 0xC4608\n mov [rbx], eax",
    "mov ebx, 0xFEE000F0\n mov dword ptr [rbx], 0x1FF\n mov ecx, 200\n l: mov dword ptr [rbx+0x210], 0xC40F0\n dec ecx\n jnz l",
    "mov ecx, 0x1B\n rdmsr\n or eax, 0xC00\n wrmsr\n mov ecx, 0x83F\n mov eax, 0x40\n xor edx, edx\n wrmsr",
    f"mov ebx, 0xFEE00320\n mov dword ptr [rbx], 0x20040\n mov rax, {_A}\n mov [rbx+0x60], eax",
    "mov ebx, 0xFEE000B0\n mov dword ptr [rbx], 0\n int 0xf0",
    f"mov rsp, {_A}\n ud2",
    f"mov rsp, {_A}\n int3\n push rax",
    "div rsp\n div rax\n into_: int 0x20",
    "l: pause\n jmp l",
    "mov ecx, 50\n l: pause\n loop l",
)
CODE_PIECES: Final = (
    f"mov rax, {_A}\n jmp rax",
    f"mov rax, {RAM - 3:#x}\n mov byte ptr [rax], 0x90\n mov word ptr [rax+1], 0x9090\n jmp rax",
    f"lea rdi, [rip]\n mov rax, {_A}\n mov [rdi+32], rax\n nop\n nop\n nop",
    f"lea rdi, [rip]\n mov rax, {_A}\n mov ecx, 40\n cld\n rep stosb",
    "lea rax, [rip]\n jmp rax",
    f"mov rdi, {_A}\n mov rsi, {_B}\n mov rcx, {_C}\n std\n rep movsb",
    f"mov rdx, {_A}\n mov rax, {_B}\n out dx, eax\n in eax, dx",
    f"mov rdx, {_A}\n mov rdi, {_B}\n mov ecx, 500\n rep insb",
    f"mov rdx, {_A}\n mov rsi, {_B}\n mov ecx, 500\n rep outsw",
    f"fninit\n fxsave [rsp-512]\n mov rax, {_A}\n fxrstor [rax]",
    f"mov rax, {_A}\n cpuid\n rdtsc\n xgetbv",
    f"mov rax, {_A}\n push rax\n l: push rax\n jmp l",
)
HYPERCALL: Final = (
    f"mov rdi, {_A}\n mov rsi, {_B}\n mov rdx, {_C}\n mov rcx, {_D}\n mov eax, {{}}\n out 0xe5, eax\n jmp n\n n: nop"
)
MAILBOX: Final = f"mov rbx, {_A}\n mov rax, {_B}\n neg rax\n mov [rbx], rax\n mov qword ptr [rbx], -1"
FAMILIES: Final = (TABLES_PIECES, DESCRIPTOR_PIECES, CONTROL_PIECES, INTERRUPT_PIECES, CODE_PIECES)


@cache
def assembled(text: str) -> bytes:
    """A piece as bytes."""
    return assemble(text)


def filled(rng: random.Random, text: str, given: tuple[int | None, ...] = ()) -> bytes:
    """A piece, its numbers drawn but for those that are given."""
    code = assembled(text)
    for number in range(4):
        mark = struct.pack("<Q", MARK + number)
        if mark in code:
            value = given[number] if number < len(given) else None
            code = code.replace(mark, struct.pack("<Q", drawn(rng) if value is None else value))
    return code


def drawn(rng: random.Random) -> int:
    """A number that a piece may take for an address, an entry, an MSR, a selector or bits of a control register."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice((TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000)) + 8 * rng.randrange(512)
    if kind == 1:
        return rng.choice((GDT, IDT, TSS, HANDLERS, CODE)) + rng.randrange(256)
    if kind == 2:
        return (
            rng.randrange(RAM >> 12) << 12
            | rng.choice((0, 1, 3, 7, 0x63, 0x67, 0x83, 0xE3, 0x1E3))
            | rng.choice((0, 1 << 63))
        )
    if kind == 3:
        return rng.choice(MSRS)
    if kind == 4:
        return 1 << rng.randrange(64)
    return numbers(rng)


def piece(rng: random.Random) -> bytes:
    """Any piece."""
    return filled(rng, rng.choice(rng.choice(FAMILIES)))


def hypercall(rng: random.Random, function: int | None = None, *given: int | None) -> bytes:
    """A hypercall: any function with any arguments, or one with some that make sense."""
    if function is None:
        function = rng.choice((*Function, *Function, 0, 255, rng.getrandbits(31)))
    return filled(rng, HYPERCALL.format(int(function)), given)


def sensible(rng: random.Random) -> bytes:
    """A hypercall whose arguments could be right: the boot's, a thread's that may exist."""
    thread = rng.randrange(THREADS)
    bottom = AREA + AREA_BYTES * thread
    top = bottom + AREA_BYTES
    return rng.choice(
        (
            lambda: hypercall(rng, Function.CPU_UP, rng.randrange(3)),
            lambda: hypercall(
                rng, Function.STACK_FAULT, rng.choice((bottom + 8, top - 8, bottom - 8, None)), thread, 2
            ),
            lambda: hypercall(rng, Function.SWITCH_OUT, thread, rng.choice((top - 64, bottom + 100, None))),
            lambda: hypercall(
                rng, rng.choice((Function.SWITCH_IN, Function.ENTER_KERNEL, Function.EXIT_KERNEL)), thread
            ),
            lambda: hypercall(rng, rng.choice((Function.EXIT_THREAD, Function.SHARE, Function.REQUEST)), thread),
            lambda: hypercall(rng, rng.choice((Function.TICK, Function.MEMORY_PRESSURE)), rng.randrange(20)),
            lambda: hypercall(rng, Function.EVENT, CODE),
            lambda: filled(rng, MAILBOX, (MAILBOXES + 32 * rng.randrange(3) + 8 * rng.randrange(4),)),
        )
    )()


def boot(rng: random.Random, cpus: int) -> bytes:
    """The hypercalls with which a kernel begins."""
    start = hypercall(rng, Function.BOOT, POOL, POOL_BYTES, MAILBOXES, 32 | cpus << 32)
    start += b"".join(hypercall(rng, Function.CPU_UP, cpu) for cpu in range(cpus))
    return start + b"".join(created(rng, thread) for thread in range(THREADS))


def created(rng: random.Random, thread: int) -> bytes:
    """The hypercall that creates a thread."""
    return hypercall(rng, Function.CREATE_THREAD, thread, AREA + AREA_BYTES * thread, AREA_BYTES, rng.randrange(2))


def program(rng: random.Random, hypercalls: bool, cpu: int, cpus: int) -> bytes:
    """Pieces one after the other, at the end nothing, a halt or a loop; CPU 0 boots, mostly before others call."""
    code = b""
    if hypercalls and rng.random() < 0.95:
        code = boot(rng, cpus) if cpu == 0 else filled(rng, "mov ecx, 100\n l: pause\n loop l")
    for _ in range(rng.randrange(2, 40)):
        if hypercalls and rng.random() < 0.8:
            code += sensible(rng) if rng.random() < 0.95 else hypercall(rng)
        else:
            code += piece(rng)
    return code + rng.choice((b"", b"\xf4\xeb\xfd", b"\xeb\xfe"))
