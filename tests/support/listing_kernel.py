"""A kernel that is nobody's but the tests': two threads in a list of its own, stacks of two pages that it backs on a fault.

It runs on one CPU, is entered in long mode as a plain ELF file, and knows nothing of kstack: no hypercall of ours, no policy, no
scenario. When a thread sleeps, the other one takes the lower page of its stack away. A kernel that forgets the INVLPG then lets
the sleeper go on with a frame that is another's.

    linear                what
    0 to 4 GiB            the same physical addresses, as the loader has mapped them; image, tables and frames
    STACKS + 0x4000 n     stack of the thread n: two pages
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from kstack.base.errors import ImageError, ScenarioError
from kstack.guest.asm import Layout, build_text
from kstack.kernels.guests import Listing
from kstack.kernels.kernel import Exits, Facts
from kstack.kernels.plain import PlainKernel
from kstack.kernels.scenario import Scenario
from kstack.load import Symbols
from kstack.machine import Machine
from kstack.sanitizer.frames import Frame, FrameSource, FrameState

BASE: Final = 0x200000
POOL: Final = 0x300000
POOL_FRAMES: Final = 6
STACKS: Final = 1 << 39
PAGE: Final = 4096
MARK_PORT: Final = 0x91
EVENTS: Final = {1: "running", 2: "taken", 3: "awake"}
PASSED, FAILED, STOPPED = 1, 2, 3
FACTS: Final = Facts(
    shootdown_vector=0xFB,
    timer_vector=0xEF,
    ports=frozenset({MARK_PORT, 0xF4}),
    exits=Exits(frozenset({PASSED}), FAILED, STOPPED, "stop: "),
    windows={"fault": ("page_fault", "back")},
)
# A thread: the next one, its number, bottom of its stack, frames of its two pages (0: none), its stack pointer.
NEXT, NUMBER, BOTTOM, FRAMES, POINTER, NODE_BYTES = 0, 8, 16, 24, 40, 48
KINDS: Final = {"flushes": "invlpg [r8]", "forgets": "nop"}
"""What the kernel does behind the clearing of an entry, by the image's name."""

_SOURCE: Final = f"""
.text
_start:
    lgdt [rip+gdtr]
    lea rax, [rip+page_fault]
    lea rdi, [rip+idt]
    mov [rdi+14*16], ax
    shr rax, 16
    mov [rdi+14*16+6], ax
    lidt [rip+idtr]
    mov rbx, cr3
    lea rax, [rip+pointers+3]
    mov [rbx+{(STACKS >> 39) * 8}], rax
    lea rax, [rip+directory+3]
    mov [rip+pointers], rax
    lea rax, [rip+leaves+3]
    mov [rip+directory], rax
    mov eax, {POOL}
    mov ecx, {POOL_FRAMES}
.Lfree:
    call give
    add eax, {PAGE}
    dec ecx
    jnz .Lfree
    lea rsi, [rip+takes]
    lea rbx, [rip+first]
    call begin
    lea rsi, [rip+sleeps]
    lea rbx, [rip+second]
    call begin
    mov [rip+current], rbx
    mov rsp, [rbx+{POINTER}]
    mov eax, 1
    out {MARK_PORT}, eax
    ret

give:                                   # the frame rax is free
    mov rdx, [rip+free]
    mov [rax], rdx
    mov [rip+free], rax
    ret
begin:                                  # the thread rbx begins at rsi
    mov ecx, 1
    call back
    mov rdi, [rbx+{BOTTOM}]
    add rdi, {2 * PAGE - 8}
    mov [rdi], rsi
    mov [rbx+{POINTER}], rdi
    ret
leaf:                                   # r8, r9: page rcx of the stack of rbx, and its entry
    mov r8, rcx
    shl r8, 12
    add r8, [rbx+{BOTTOM}]
    mov r9, r8
    shr r9, 12
    and r9d, 511
    lea rdx, [rip+leaves]
    lea r9, [rdx+r9*8]
    ret
back:                                   # page rcx of the stack of rbx gets a frame
    mov rax, [rip+free]
    mov rdx, [rax]
    mov [rip+free], rdx
    mov [rbx+rcx*8+{FRAMES}], rax
    call leaf
    or rax, 3
    mov [r9], rax
    ret
take:                                   # page rcx of the stack of rbx loses its frame
    call leaf
    mov rax, [rbx+rcx*8+{FRAMES}]
    mov qword ptr [rbx+rcx*8+{FRAMES}], 0
    mov qword ptr [r9], 0
    FLUSH
    jmp give
yield:                                  # the next thread of the list runs
    mov rbx, [rip+current]
    mov [rbx+{POINTER}], rsp
    mov rbx, [rbx]
    test rbx, rbx
    jnz .Lnext
    mov rbx, [rip+threads]
.Lnext:
    mov [rip+current], rbx
    mov rsp, [rbx+{POINTER}]
    ret
page_fault:                             # the lower page of the current thread's stack
    push rbx
    mov rbx, [rip+current]
    xor ecx, ecx
    call back
    pop rbx
    add rsp, 8
    iretq

sleeps:
    mov r15, rsp
    sub r15, {PAGE + 8}
    mov qword ptr [r15], 0x22
    call yield
    mov eax, 3
    out {MARK_PORT}, eax
    mov qword ptr [r15], 0x33
    call yield
takes:
    lea rbx, [rip+second]
    xor ecx, ecx
    call take
    mov eax, 2
    out {MARK_PORT}, eax
    mov r14, rsp
    sub r14, {PAGE + 8}
    mov qword ptr [r14], 0x11
    call yield
    cmp qword ptr [r14], 0x11
    mov eax, {PASSED}
    je end
    mov eax, {FAILED}
end:
    out 0xf4, al
    jmp end

.data
.p2align 4
gdt:
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:
    .short 31
    .quad gdt
idtr:
    .short 0xff
    .quad idt
.p2align 4
idt:
    .zero 14*16
    .short 0, 0x10, 0x8e00, 0
    .quad 0
    .zero 16
current:
    .quad 0
free:
    .quad 0
threads:
    .quad first
first:
    .quad second, 1, {STACKS}, 0, 0, 0
second:
    .quad 0, 2, {STACKS + 0x4000}, 0, 0, 0
.bss
.p2align 12
pointers:
    .zero {PAGE}
directory:
    .zero {PAGE}
leaves:
    .zero {PAGE}
"""


class StackPage(NamedTuple):
    """A page of a thread's stack, from the lowest."""

    thread: int
    page: int

    @property
    def label(self) -> str:
        return f"page {self.page} of the stack of thread {self.thread}"


class Listed:
    """Whose frames are whose, by the kernel's own list in its memory."""

    def __init__(self, machine: Machine, threads: int) -> None:
        self._memory, self._threads = machine.memory, threads

    def pages(self) -> Iterator[tuple[StackPage, int, int]]:
        """Each page of a stack, its linear address and its frame."""
        node = self._memory.read64(self._threads)
        while node:
            number, bottom = (self._memory.read64(node + offset) for offset in (NUMBER, BOTTOM))
            for page in range(2):
                frame = self._memory.read64(node + FRAMES + 8 * page)
                yield StackPage(number, page), bottom + PAGE * page, frame
            node = self._memory.read64(node + NEXT)

    def life(self, frame: int) -> Frame[StackPage] | None:
        if not POOL <= frame < POOL + POOL_FRAMES * PAGE:
            return None
        owner = next((page for page, _, has in self.pages() if has == frame), None)
        return Frame(FrameState.POOL) if owner is None else Frame(FrameState.MAPPED, owner)

    def owner_at(self, address: int) -> StackPage | None:
        return next((page for page, start, _ in self.pages() if start <= address < start + PAGE), None)


class ListingKernel(PlainKernel):
    """The kernel on one machine."""

    def __init__(self, machine: Machine, symbols: Symbols) -> None:
        super().__init__(machine, FACTS, MARK_PORT, EVENTS)
        threads = symbols.address("threads")
        assert threads is not None
        self._frames = Listed(machine, threads)

    @property
    def frames(self) -> FrameSource:
        return self._frames


@dataclass(frozen=True)
class ListingGuests:
    """Its two images."""

    def kernel(self, machine: Machine, symbols: Symbols) -> ListingKernel:
        return ListingKernel(machine, symbols)

    def titles(self) -> Mapping[str, str]:
        return {name: f"a kernel that {name}" for name in KINDS}

    def image(self, name: str) -> bytes:
        if name not in KINDS:
            raise ImageError(f"image {name!r} does not exist")
        return _built(name)

    def listing(self, name: str) -> Listing | None:
        return None

    def scenarios(self) -> Mapping[str, Scenario]:
        return {}

    def is_scenario(self, name: str) -> bool:
        return False

    def scenario(self, name: str) -> Scenario:
        raise ScenarioError(f"scenario {name!r} does not exist")

    def contents(self, name: str) -> str:
        return ""

    @property
    def folder(self) -> Path:
        return Path(__file__).parent

    @property
    def scenario_keys(self) -> frozenset[str]:
        return frozenset()


@lru_cache(maxsize=len(KINDS))
def _built(name: str) -> bytes:
    return build_text(_SOURCE.replace("FLUSH", KINDS[name]), Layout.flat(BASE), entry="_start").to_elf()
