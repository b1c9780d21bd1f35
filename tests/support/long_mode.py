"""A machine in long mode, small enough to show one rule of the architecture at a time.

    physical             linear               what
    0x0000_1000          the same             GDT
    0x0000_2000          the same             IDT
    0x0000_3000 + n      the same             TSS of CPU n (256 bytes each)
    0x0000_4000 + 16 v   the same             the first handler of vector v: HLT
    0x0000_6000          the same             kernel code, as it is assembled
    0x0000_c000          USER_CODE            user code, as it is assembled
    0x0001_0000          the same             page tables, as they are needed
    0x0010_0000          as a test maps them  frames for tests
    0x003f_0000 - 4K n   the same             top of the first stack of CPU n

The low 4 MiB are mapped one to one in 2 MiB pages, for the kernel alone and not global, in every
address space; so a guest reaches its tables at their physical addresses. What a test maps goes to
AREA, which has tables of its own from the PML4 down.
"""

from __future__ import annotations

from typing import Final

from kstack.guest.asm import assemble
from kstack.hw.apic.registers import Reg, Svr
from kstack.hw.cpu.events import Event
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.cpu.state import ActivityState, SliceEnd
from kstack.hw.modes import Modes
from kstack.hw.rules import ALL, Rule
from kstack.machine import Machine, MachineConfig
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.entries import FRAME_MASK, PS, RW, US, A, D, P
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment

GDT: Final = 0x1000
IDT: Final = 0x2000
TSS: Final = 0x3000
TSS_BYTES: Final = 0x100
HANDLERS: Final = 0x4000
KERNEL_CODE: Final = 0x6000
USER_CODE_FRAME: Final = 0xC000
TABLES: Final = 0x10000
FRAMES: Final = 0x100000
STACK: Final = 0x3F0000
RAM: Final = 4 << 20

AREA: Final = 1 << 39
USER_CODE: Final = 2 << 30

CODE64, CODE32, DATA, USER_DATA, USER_CODE64 = 0x08, 0x10, 0x18, 0x20 | 3, 0x28 | 3
TASK: Final = 0x40
DESCRIPTORS: Final = (
    0,
    0x00AF9B000000FFFF,  # 0x08 64-bit code
    0x00CF9B000000FFFF,  # 0x10 32-bit code
    0x00CF93000000FFFF,  # 0x18 data
    0x00CFF3000000FFFF,  # 0x20 user data
    0x00AFFB000000FFFF,  # 0x28 user 64-bit code
)
PLAIN: Final = P | RW | A | D
USER: Final = PLAIN | US
SYSTEM_CALL: Final = 0x80
EXTERNAL: Final = 0x40
"""The vector of an interrupt that a device might have sent."""


class LongModeGuest:
    """A machine whose CPUs are in long mode, with handlers that halt and nothing else.

    Args:
        rules: rules obeyed.
        cpus: how many CPUs.
        modes: architecture modes.
        cr4: bits of CR4 beyond PAE, PGE and OSFXSR.
        cr0: bits of CR0 beyond PG, PE and WP.
    """

    def __init__(
        self, rules: frozenset[Rule] = ALL, cpus: int = 1, modes: Modes = Modes(), cr4: int = 0, cr0: int = 0
    ) -> None:
        self.machine = Machine(MachineConfig(cpus=cpus, ram=RAM, modes=modes, rules=rules))
        self.memory = self.machine.memory
        self._next_table = TABLES
        self._next_frame = FRAMES
        self._next_code = KERNEL_CODE
        self._next_user_code = USER_CODE_FRAME
        self.begun: list[Event] = []
        self.machine.instruments.add(self)
        self._descriptors()
        self.root = self.space()
        for index in range(cpus):
            self._enter_long_mode(index, cr0, cr4)

    # --- construction

    def _descriptors(self) -> None:
        for number, descriptor in enumerate(DESCRIPTORS):
            self.memory.write64(GDT + 8 * number, descriptor)
        for cpu in range(self.machine.cpu_count):
            base = TSS + TSS_BYTES * cpu
            low = base << 16 | (TSS_BYTES - 1) | 0x89 << 40
            self.memory.write64(GDT + TASK + 16 * cpu, low)
            self.memory.write(base + 0x66, TSS_BYTES.to_bytes(2, "little"))  # no permission bitmap: IOPL alone
        for vector in range(256):
            self.memory.write(HANDLERS + 16 * vector, b"\xf4")
            self.gate(vector)

    def _enter_long_mode(self, index: int, cr0: int, cr4: int) -> None:
        cpu = self.machine.cpus[index]
        cpu.state = ActivityState.RUNNING
        registers = cpu.registers
        registers.cr[0] = Cr0.PG | Cr0.PE | Cr0.WP | Cr0.ET | cr0
        registers.cr[3] = self.root
        registers.cr[4] = Cr4.PAE | Cr4.PGE | Cr4.OSFXSR | cr4
        registers.efer = Efer.LME | Efer.LMA | Efer.NXE
        registers.set_segment(Seg.GDTR, Segment(0, GDT, 0xFFF, 0))
        registers.set_segment(Seg.IDTR, Segment(0, IDT, 0xFFF, 0))
        registers.set_segment(Seg.TR, Segment(TASK + 16 * index, TSS + TSS_BYTES * index, TSS_BYTES - 1, 0x8B00))
        self.tss_stack(4, self.stack(index), index)
        self.privilege(index, 0)
        registers.gpr[Gpr.RSP] = self.stack(index)
        cpu.mmu.update()
        cpu.mmu.drop_all(True)
        cpu.engine.flush()
        self.machine.apics[index].write(Reg.SVR, 4, Svr.ENABLE | Svr.VECTOR)

    def privilege(self, index: int, cpl: int) -> None:
        """Put a CPU at CPL 0 or 3."""
        registers = self.machine.cpus[index].registers
        code, data = (CODE64, DATA) if cpl == 0 else (USER_CODE64, USER_DATA)
        registers.set_segment(Seg.CS, Segment(code, 0, 0xFFFFFFFF, 0x00AF9B00 | cpl << 13))
        for which in (Seg.SS, Seg.DS, Seg.ES):
            registers.set_segment(which, Segment(data, 0, 0xFFFFFFFF, 0x00CF9300 | cpl << 13))

    def stack(self, cpu: int = 0) -> int:
        """Top of the stack on which a CPU starts (bytes)."""
        return STACK - 4096 * cpu

    # --- descriptors of events

    def gate(self, vector: int, handler: int | None = None, ist: int = 0, dpl: int = 0, selector: int = CODE64) -> None:
        """Set an interrupt gate (SDM 6.14.1); without `handler` the one that halts."""
        target = HANDLERS + 16 * vector if handler is None else handler
        kind = 0x8E | (3 if vector == SYSTEM_CALL else dpl) << 5
        low = target & 0xFFFF | selector << 16 | ist << 32 | kind << 40 | (target >> 16 & 0xFFFF) << 48
        self.memory.write64(IDT + 16 * vector, low)
        self.memory.write64(IDT + 16 * vector + 8, target >> 32)

    def no_gate(self, vector: int) -> None:
        """Make a gate not present: its delivery raises #NP."""
        self.memory.write64(IDT + 16 * vector, self.memory.read64(IDT + 16 * vector) & ~(1 << 47))

    def bad_gate(self, vector: int) -> None:
        """Let a gate name a data segment: its delivery raises #GP(DATA | 1)."""
        self.gate(vector, selector=DATA)

    def tss_stack(self, offset: int, top: int, cpu: int = 0) -> None:
        """Set a stack pointer in a TSS: offset 4 is RSP0, 0x24 is IST1."""
        self.memory.write(TSS + TSS_BYTES * cpu + offset, top.to_bytes(8, "little"))

    # --- paging

    def table(self) -> int:
        """A new empty page table (physical)."""
        self._next_table += 4096
        return self._next_table - 4096

    def frame(self, value: int = 0) -> int:
        """A new frame for a test, whose first word is `value` (physical)."""
        self._next_frame += 4096
        self.memory.write64(self._next_frame - 4096, value)
        return self._next_frame - 4096

    def space(self) -> int:
        """A new address space: its PML4, in which only the low 4 MiB and the user's code are mapped."""
        root, pointers, directory = self.table(), self.table(), self.table()
        self.memory.write64(root, pointers | USER)
        self.memory.write64(pointers, directory | PLAIN)
        for number in range(RAM >> 21):
            self.memory.write64(directory + 8 * number, number << 21 | PLAIN | PS)
        self.map(USER_CODE, USER_CODE_FRAME, USER, root=root)
        return root

    def entry(self, page: int, shift: int = 12, root: int | None = None) -> int:
        """Physical address of the entry for linear `page` at a level (39, 30, 21 or 12); tables are made."""
        table = self.root if root is None else root
        for level in (39, 30, 21, 12):
            where = table + (page >> level & 511) * 8
            if level == shift:
                break
            if not self.memory.read64(where) & P:
                self.memory.write64(where, self.table() | USER)
            table = self.memory.read64(where) & FRAME_MASK
        return where

    def map(self, page: int, frame: int, flags: int = PLAIN, root: int | None = None, shift: int = 12) -> int:
        """Map a page of 2 ** shift bytes; the physical address of its leaf entry."""
        where = self.entry(page, shift, root)
        self.memory.write64(where, frame | flags | (PS if shift > 12 else 0))
        return where

    # --- running

    def kernel_code(self, text: str, bits: int = 64) -> int:
        """Assemble kernel code; its address."""
        address = self._next_code
        code = assemble(text, address, bits)
        self.memory.write(address, code)
        self._next_code += len(code) + 15 & ~15
        assert self._next_code <= USER_CODE_FRAME
        return address

    def user_code(self, text: str) -> int:
        """Assemble user code; its address."""
        address = USER_CODE + self._next_user_code - USER_CODE_FRAME
        code = assemble(text, address)
        self.memory.write(self._next_user_code, code)
        self._next_user_code += len(code) + 15 & ~15
        return address

    def start(self, address: int, cpu: int = 0, **gprs: int) -> None:
        """Let a CPU go on at `address`, with general-purpose registers as named (rax=...).

        RSP is at the top of the CPU's stack unless it is named.
        """
        processor = self.machine.cpus[cpu]
        processor.state = ActivityState.RUNNING
        processor.registers.rip = address
        processor.registers.shadow = False
        processor.registers.gpr[Gpr.RSP] = self.stack(cpu)
        for name, value in gprs.items():
            processor.registers.gpr[Gpr[name.upper()]] = value
        self.begun.clear()

    def step(self, cpu: int = 0, units: int = 1) -> None:
        """Let a CPU run for some units of virtual time."""
        self.machine.run(cpu, units)

    def until_halt(self, cpu: int = 0, units: int = 2000) -> None:
        """Let a CPU run until it halts or shuts down.

        Raises:
            AssertionError: it does neither.
        """
        end = self.machine.run(cpu, units).end
        assert end in (SliceEnd.HALTED, SliceEnd.SHUTDOWN), f"CPU {cpu} still runs after {units} units"
        assert self.machine.cpus[cpu].unsupported is None

    def run(self, text: str, cpu: int = 0, **gprs: int) -> int:
        """Run kernel code, up to a HLT after it or in a handler; RAX at the end."""
        self.privilege(cpu, 0)
        self.start(self.kernel_code(text + "\nhlt"), cpu, **gprs)
        self.until_halt(cpu)
        return self.gpr(Gpr.RAX, cpu)

    def run_user(self, text: str, cpu: int = 0, **gprs: int) -> int:
        """Run user code, up to a system call after it or a HLT in a handler; RAX at the end."""
        self.privilege(cpu, 3)
        self.start(self.user_code(text + f"\nint {SYSTEM_CALL:#x}"), cpu, **gprs)
        self.until_halt(cpu)
        return self.gpr(Gpr.RAX, cpu)

    def load(self, address: int, cpu: int = 0) -> int | None:
        """What a load of 8 bytes gives on a CPU at CPL 0; None if it faults."""
        value = self.run("mov rax, [rbx]", cpu, rbx=address)
        return None if self.vector(cpu) is not None else value

    def store(self, address: int, value: int, cpu: int = 0) -> bool:
        """A store of 8 bytes on a CPU at CPL 0; whether it was done without a fault."""
        self.run("mov [rbx], rcx", cpu, rbx=address, rcx=value)
        return self.vector(cpu) is None

    def adopt(self, machine: Machine) -> None:
        """Go on with another machine, to which a snapshot of this one is about to be restored."""
        self.machine, self.memory = machine, machine.memory

    # --- what became of it

    def on_delivery(self, delivery: Delivery) -> None:
        """Keeps the events that were begun since `start`."""
        self.begun.extend(delivery.events)

    def pend(self, vector: int = EXTERNAL) -> None:
        """An external interrupt arrives at CPU 0."""
        self.machine.apics[0].accept(vector)

    def gpr(self, which: Gpr, cpu: int = 0) -> int:
        """A general-purpose register."""
        return self.machine.cpus[cpu].registers.gpr[which]

    def vector(self, cpu: int = 0) -> int | None:
        """The vector whose first handler halted the CPU; None if other code did, or nothing."""
        offset = self.machine.cpus[cpu].registers.rip - 1 - HANDLERS
        halted = self.machine.cpus[cpu].state is ActivityState.HALTED and not offset % 16
        return offset // 16 if halted and 0 <= offset < 16 * 256 else None

    def pushed(self, words: int, cpu: int = 0) -> list[int]:
        """The top words of the CPU's stack, as they lie at RSP (identity-mapped stacks only)."""
        rsp = self.gpr(Gpr.RSP, cpu)
        return [self.memory.read64(rsp + 8 * number) for number in range(words)]

    def faults(self) -> int:
        """Page faults that were delivered since `start`."""
        return sum(event.vector == 14 for event in self.begun)

    def set_flags(self, flags: int, cpu: int = 0) -> None:
        """Set RFLAGS."""
        self.machine.cpus[cpu].registers.rflags = int(Flags.FIXED) | flags
