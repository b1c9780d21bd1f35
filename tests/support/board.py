"""An engine with nothing around it but RAM, and programs for it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Final

from hypothesis import strategies as st

from kstack.guest.asm import assemble
from kstack.hw.engine import Engine, MmuIndex
from kstack.x86.access import Access
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment

RAM: Final = 1 << 20
CODE: Final = 0x1000
DATA: Final = 0x80000
UNMAPPED: Final = 0x90000
MMIO: Final = 0x200000


class Board:
    """RAM, an engine in flat 64-bit mode, and a host that translates every address to itself."""

    def __init__(self) -> None:
        self.ram = mmap.mmap(-1, RAM)
        self.on_mmio: Callable[[], int] = lambda: 0
        self.engine = Engine(ctypes.addressof(ctypes.c_char.from_buffer(self.ram)), RAM, self)
        registers = self.engine.registers
        registers.cr[0], registers.cr[4] = 0x80000011, 0x620
        registers.set_segment(Seg.CS, Segment(8, 0, 0xFFFFFFFF, 0xAF9B00))
        for seg in (Seg.SS, Seg.DS, Seg.ES):
            registers.set_segment(seg, Segment(16, 0, 0xFFFFFFFF, 0xCF9300))
        registers.efer = 0xD00
        registers.rflags = 2
        registers.gpr[Gpr.RSP] = DATA + 0x8000
        registers.rip = CODE

    def fill(self, address: int, access: Access, mmu: MmuIndex, probe: bool, location: int) -> bool:
        page = address & ~0xFFF
        if page == UNMAPPED or page >= MMIO + 0x1000:
            return False
        self.engine.enter(page, page, 3 if page >= RAM else 7, mmu, 1 if page >= RAM else 4096)
        return True

    def untried(self) -> None:
        pass

    def mmio_read(self, address: int, size: int) -> int:
        return self.on_mmio()

    def mmio_write(self, address: int, size: int, value: int) -> None:
        self.on_mmio()

    def put(self, source: str, address: int = CODE) -> None:
        code = assemble(source, address)
        self.ram[address : address + len(code)] = code
        self.engine.drop_code(address, len(code))

    def rax(self) -> int:
        return self.engine.registers.gpr[Gpr.RAX]

    def state(self) -> tuple[bytes, bytes]:
        return self.engine.registers.canonical(), bytes(self.ram)


def board(source: str, address: int = CODE) -> Board:
    made = Board()
    made.put(source, address)
    made.engine.registers.rip = address
    return made


STEPS: Final = (
    "inc rax",
    "add rbx, rax",
    "imul rdx, rbx",
    "xor rsi, rdx",
    "ror rdx, 7",
    "mov [rdi+rcx*8], rdx",
    "add rax, [rdi+rcx*4]",
    "push rdx\npop r8",
    "adc r9, rsi",
    "lock xadd [rdi], rax",
    "cmp rax, rbx\ncmovb r10, rax",
    "pushfq\npop r11",
    "push rcx\nmov ecx, 3\nmov r12, rdi\nrep stosb\nmov rdi, r12\npop rcx",
    "inc byte ptr [rip+.Lself+3]",
    "call .Lroutine",
)


def looping(steps: list[str], turns: int) -> str:
    body = "\n".join(steps)
    return f"""
    mov ecx, {turns}
    mov edi, {DATA}
.Lagain:
    {body}
.Lself:
    add r13, 0x10
    dec ecx
    jnz .Lagain
    hlt
.Lroutine:
    inc r14
    ret
"""


programs = st.builds(looping, st.lists(st.sampled_from(STEPS), min_size=1, max_size=25), st.integers(1, 12))
