"""Random page tables and one access through them, carried out by three walkers.

- `BareUnicorn`: Unicorn's own walker, which kstack does not use: an instruction of a bare engine.
- `WholeMachine`: the same instruction on kstack's machine (engine, MMU, event delivery).
- `WalkAlone`: `kstack.hw.mmu.walk.walk`, and the access done by hand.

Each has its own 4 MiB of RAM, which begin alike: tables below `REGION`, and beyond it words that are
both data and code and name their own address. So whatever an access reads, writes or executes says
where it went.

    0x0000_1000  random tables, the first of them the root
    0x0000_9000  fixed tables for the root's last entry: code for CPL 0 and CPL 3
    0x0000_c000  that code
    0x0002_0000  words that name their address
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_64, UC_PROT_ALL, Uc, UcError
from unicorn import x86_const as x86

from kstack.hw.cpu.events import Event
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.cpu.state import ActivityState
from kstack.hw.engine import Registers, layout
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.walk import Attempt, PagingControl, TableEntry, WalkRules, walk
from kstack.machine import Machine, MachineConfig
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.entries import FRAME_MASK, NX, PS, RW, US, A, D, G, P
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment

RAM: Final = 4 << 20
REGION: Final = 0x20000
ROOT: Final = 0x1000
RANDOM_TABLES: Final = tuple(range(ROOT, 0x9000, 4096))
FIXED: Final = 0x9000
CODE_FRAMES: Final = 0xC000
CODE: Final = (1 << 64) - (1 << 39)  # the root's last entry
MARK: Final = 0x5A5A_5A5A_5A5A_5A5A
LOAD, STORE, FETCH = "load", "store", "fetch"
INSTRUCTIONS: Final = {LOAD: (0, b"\x48\x8b\x03"), STORE: (16, b"\x48\x89\x0b")}  # mov rax, [rbx]; mov [rbx], rcx
PHYSICAL_LIMIT: Final = 1 << 40
_IGNORED: Final = 0x7FF << 52 | 7 << 9 | 3 << 3  # bits 62:52, 11:9, and PCD and PWT, which no walk looks at


@dataclass(frozen=True)
class Case:
    """Page tables, control bits, and one access of 8 bytes."""

    words: tuple[tuple[int, int], ...]
    address: int
    kind: str
    user: bool
    write_protect: bool
    no_execute: bool
    smep: bool
    smap: bool
    ac: bool

    @property
    def rip(self) -> int:
        """Where the instruction lies that makes the access."""
        if self.kind == FETCH:
            return self.address
        return CODE + (4096 if self.user else 0) + INSTRUCTIONS[self.kind][0]

    @property
    def cr0(self) -> int:
        """CR0."""
        return Cr0.PG | Cr0.PE | Cr0.ET | (Cr0.WP if self.write_protect else 0)

    @property
    def cr4(self) -> int:
        """CR4."""
        return Cr4.PAE | Cr4.PGE | (Cr4.SMEP if self.smep else 0) | (Cr4.SMAP if self.smap else 0)

    @property
    def efer(self) -> int:
        """IA32_EFER."""
        return Efer.LME | Efer.LMA | (Efer.NXE if self.no_execute else 0)

    def __str__(self) -> str:
        tables = ", ".join(f"[{where:#x}]={word:#x}" for where, word in self.words)
        bits = " ".join(name for name in ("write_protect", "no_execute", "smep", "smap", "ac") if getattr(self, name))
        return f"{self.kind} {self.address:#x} at CPL {3 if self.user else 0} with {bits or 'nothing'}: {tables}"


class Result(NamedTuple):
    """What an access did: (vector, error code, CR2) or the value moved; the tables and the target afterwards."""

    fault: tuple[int, int | None, int | None] | None
    value: int
    region: bytes


def named_word(address: int) -> bytes:
    """`mov eax, address`; jmp to the next (so that no translator reads on past it); nop."""
    return b"\xb8" + address.to_bytes(4, "little") + b"\xeb\x00\x90"


def pristine() -> bytes:
    """RAM before any case."""
    ram = bytearray(b"".join(named_word(address) for address in range(0, RAM, 8)))
    ram[:REGION] = bytes(REGION)

    def put(where: int, entry: int) -> None:
        ram[where : where + 8] = entry.to_bytes(8, "little")

    put(ROOT + 511 * 8, FIXED | P | RW | US | A)
    put(FIXED, FIXED + 0x1000 | P | RW | US | A)
    put(FIXED + 0x1000, FIXED + 0x2000 | P | RW | US | A)
    for page, rights in enumerate((0, US)):
        frame = CODE_FRAMES + 4096 * page
        put(FIXED + 0x2000 + 8 * page, frame | P | rights | A | D)
        for offset, code in INSTRUCTIONS.values():
            ram[frame + offset : frame + offset + len(code)] = code
    return bytes(ram)


PRISTINE: Final = pristine()


def generate(random: Random) -> Case:
    """A random case; `random` may be Hypothesis's, which shrinks."""
    chance = random.random
    address = random.getrandbits(48) & ~7
    if address >> 39 == 511:
        address ^= 1 << 39
    words: dict[int, int] = {}
    table = ROOT
    for shift in (39, 30, 21, 12):
        leaf = shift == 12 or (shift < 39 and chance() < 0.25)
        entry = _flags(random, shift, leaf)
        entry |= _leaf_frame(random, shift) if leaf else random.choice(RANDOM_TABLES)
        if not leaf and chance() < 0.04:
            entry = entry & ~FRAME_MASK | _beyond_ram(random)
        words[table + (address >> shift & 511) * 8] = entry
        table = entry & FRAME_MASK
        if leaf or table not in RANDOM_TABLES:
            break
    words.pop(ROOT + 511 * 8, None)
    if address >> 47:
        address |= 0xFFFF << 48
    kind = random.choice((LOAD, STORE, FETCH))
    bits = [chance() < 0.5 for _ in range(6)]
    return Case(tuple(words.items()), address, kind, *bits)


def _flags(random: Random, shift: int, leaf: bool) -> int:
    chance = random.random
    entry = PS if leaf and (shift > 12 or chance() < 0.5) else 0
    if not leaf and shift == 39 and chance() < 0.03:
        entry |= PS
    for bit, probability in ((P, 0.96), (RW, 0.8), (US, 0.75), (NX, 0.12), (A, 0.5), (D, 0.5), (G, 0.3)):
        if chance() < probability:
            entry |= bit
    if chance() < 0.4:
        entry |= random.getrandbits(63) & _IGNORED
    if chance() < 0.03:
        entry |= 1 << random.randrange(40, 52)
    if leaf and shift > 12 and chance() < 0.1:
        entry |= 1 << random.randrange(12, shift)
    return entry


def _leaf_frame(random: Random, shift: int) -> int:
    if random.random() < 0.1:
        return _beyond_ram(random) & -(1 << shift)
    if shift == 12 and random.random() < 0.7:
        return random.randrange(REGION, RAM, 4096)
    return random.randrange(0, RAM, 4096) & -(1 << shift)


def _beyond_ram(random: Random) -> int:
    if random.random() < 0.2:
        return random.choice((RAM, 0xFEE0_0000 + 4096, 0xFF_FFF0_0000, PHYSICAL_LIMIT - 4096))
    address = random.randrange(RAM, PHYSICAL_LIMIT, 4096)
    return RAM if address == 0xFEE0_0000 else address


# --- the three


class WalkAlone:
    """`walk`, and the access done by hand.

    Args:
        rules: what a broken walk does otherwise.
    """

    def __init__(self, rules: WalkRules = WalkRules()) -> None:
        self._rules = rules
        self.memory = PhysicalMemory(RAM)
        self.memory.write(0, PRISTINE)

    def _prepare(self, case: Case) -> None:
        self.memory.write(0, PRISTINE[:REGION])
        for where, word in case.words:
            self.memory.write64(where, word)

    def _walk(self, case: Case) -> tuple[int | None, int | None]:
        self._prepare(case)
        attempt = Attempt(case.kind == STORE, case.kind == FETCH, case.user, case.smap and not case.ac)
        control = PagingControl(case.write_protect, case.no_execute, case.smep)
        found = walk(self.memory, TableEntry(ROOT, RW | US), 39, case.address, attempt, control, self._rules)
        if found.error is not None:
            return None, found.error
        assert found.translation is not None
        return found.translation.frame + (case.address & (1 << found.translation.shift) - 1), None

    def physical(self, case: Case) -> int | None:
        """Where the access goes; None if it faults."""
        return self._walk(case)[0]

    def access(self, case: Case) -> Result:
        """Carry out one case."""
        physical, error = self._walk(case)
        memory = self.memory
        if physical is None:
            return Result((14, error, case.address), 0, memory.read(0, REGION))
        if case.kind == FETCH:
            return Result(None, physical, memory.read(0, REGION))
        if case.kind == LOAD:
            return Result(None, memory.read64(physical), memory.read(0, REGION))
        memory.write64(physical, MARK)
        result = Result(None, memory.read64(physical), memory.read(0, REGION))
        if REGION <= physical < RAM:
            memory.write(physical, PRISTINE[physical : physical + 8])
        return result


def set_up(registers: Registers, case: Case) -> None:
    """Registers before the instruction; flushing is the caller's."""
    registers.cr[0], registers.cr[3], registers.cr[4] = case.cr0, ROOT, case.cr4
    registers.cr[2] = 0
    registers.efer = case.efer
    dpl = 3 if case.user else 0
    registers.set_segment(Seg.CS, Segment(8 | dpl, 0, 0xFFFFFFFF, 0x00AF9B00 | dpl << 13))
    for which in (Seg.SS, Seg.DS, Seg.ES):
        registers.set_segment(which, Segment(16 | dpl, 0, 0xFFFFFFFF, 0x00CF9300 | dpl << 13))
    registers.rflags = int(Flags.FIXED) | (int(Flags.AC) if case.ac else 0)
    registers.gpr[Gpr.RAX], registers.gpr[Gpr.RBX], registers.gpr[Gpr.RCX] = 0, case.address, MARK
    registers.rip = case.rip


class BareUnicorn:
    """A bare engine that walks by itself (UC_TLB_CPU)."""

    def __init__(self) -> None:
        self._ram = mmap.mmap(-1, RAM)
        self._ram[:] = PRISTINE
        self._uc = uc = Uc(UC_ARCH_X86, UC_MODE_64)
        uc.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)
        uc.mem_map_ptr(0, RAM, UC_PROT_ALL, ctypes.addressof(ctypes.c_char.from_buffer(self._ram)))
        uc.mmio_map(RAM, PHYSICAL_LIMIT - RAM, _all_ones, None, _nobody, None)
        uc.reg_read(x86.UC_X86_REG_RIP)  # makes the state, which is created lazily
        self._library = layout.Library()
        self._cpu = layout.u64(uc._uch.value + layout.UC_CPU).value
        env = layout.u64(self._cpu + layout.CPU_ENV).value
        self._registers = Registers(env, self._library)
        self._error = ctypes.c_uint32.from_address(env + layout.ENV_ERROR_CODE)
        self._old_exception = ctypes.c_int32.from_address(env + layout.ENV_OLD_EXCEPTION)
        self._fault: tuple[int, int | None, int | None] | None = None
        uc.hook_add(UC_HOOK_INTR, self._interrupt)
        uc.ctl_exits_enabled(True)

    def _interrupt(self, uc: Uc, vector: int, _: Any) -> None:
        self._old_exception.value = -1
        page_fault = vector == 14
        cr2 = self._registers.cr[2] if page_fault else None
        self._fault = (vector, self._error.value if page_fault else None, cr2)
        uc.emu_stop()

    def access(self, case: Case) -> Result:
        """Carry out one case.

        Raises:
            AssertionError: Unicorn stops for a reason of its own.
        """
        ram, registers = self._ram, self._registers
        ram[:REGION] = PRISTINE[:REGION]
        for where, word in case.words:
            ram[where : where + 8] = word.to_bytes(8, "little")
        set_up(registers, case)
        self._library["tlb_flush_x86_64"](self._cpu)
        self._old_exception.value = -1
        self._fault = None
        try:
            self._uc.emu_start(case.rip, 0, count=1)
        except UcError as error:
            raise AssertionError(f"Unicorn: {error} in {case}") from error
        if self._fault is not None:
            return Result(self._fault, 0, ram[:REGION])
        return Result(None, registers.gpr[Gpr.RAX], ram[:REGION])

    def word(self, physical: int) -> int:
        """A word of its RAM, put back as it was."""
        if physical >= RAM:
            return (1 << 64) - 1
        word = int.from_bytes(self._ram[physical : physical + 8], "little")
        if physical >= REGION:
            self._ram[physical : physical + 8] = PRISTINE[physical : physical + 8]
        return word

    def untouched(self) -> bool:
        """Whether nothing but the tables has changed for good."""
        return self._ram[REGION:] == PRISTINE[REGION:]


def _all_ones(_uc: Uc, _offset: int, size: int, _data: object) -> int:
    return (1 << 8 * size) - 1


def _nobody(_uc: Uc, _offset: int, _size: int, _value: int, _data: object) -> None:
    return


@dataclass
class WholeMachine:
    """kstack's machine; without an IDT, so that a fault leaves memory alone."""

    machine: Machine = field(default_factory=lambda: Machine(MachineConfig(cpus=1, ram=RAM)))
    begun: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine.memory.write(0, PRISTINE)
        self.machine.instruments.add(self)
        self.machine.cpus[0].registers.set_segment(Seg.IDTR, Segment(0, 0, 0, 0))

    def on_delivery(self, delivery: Delivery) -> None:
        self.begun.extend(delivery.events)

    def access(self, case: Case) -> Result:
        """Carry out one case."""
        memory, cpu = self.machine.memory, self.machine.cpus[0]
        memory.write(0, PRISTINE[:REGION])
        for where, word in case.words:
            memory.write64(where, word)
        set_up(cpu.registers, case)
        cpu.mmu.update()
        cpu.mmu.drop_all(True)
        cpu.engine.flush()
        cpu.state = ActivityState.RUNNING
        self.begun.clear()
        self.machine.run(0, 1)
        region = memory.read(0, REGION)
        if self.begun:
            event = self.begun[0]
            return Result((event.vector, event.error, cpu.registers.cr[2] if event.vector == 14 else None), 0, region)
        return Result(None, cpu.registers.gpr[Gpr.RAX], region)

    def word(self, physical: int) -> int:
        """A word of its RAM, put back as it was."""
        word = self.machine.memory.read64(physical)
        if REGION <= physical < RAM:
            self.machine.memory.write(physical, PRISTINE[physical : physical + 8])
        return word

    def untouched(self) -> bool:
        """Whether nothing but the tables has changed for good."""
        return self.machine.memory.read(REGION, RAM - REGION) == PRISTINE[REGION:]


class Walkers:
    """The three together."""

    def __init__(self) -> None:
        self.alone, self.bare, self.machine = WalkAlone(), BareUnicorn(), WholeMachine()

    def excluded(self, case: Case) -> str | None:
        """Why a case is not compared, or None.

        Only instruction fetches whose translation is allowed are ever left out, by where they end:
        code in the tables themselves is arbitrary bytes, and code beyond RAM is read from a bus where
        nobody answers, which is no question of paging (kstack raises #UD; Unicorn gives up).
        """
        physical = self.alone.physical(case) if case.kind == FETCH else None
        if physical is None:
            return None
        if physical < REGION:
            return "executes its page tables"
        return "executes what is not RAM" if physical >= RAM else None

    def compare(self, case: Case) -> Result:
        """Carry out one case thrice.

        Raises:
            AssertionError: they differ.
        """
        alone = self.alone.access(case)
        for other in (self.bare, self.machine):
            result = other.access(case)
            if case.kind == STORE and result.fault is None:
                physical = self.alone.physical(case)
                assert physical is not None, f"{type(other).__name__} stores, walk faults: {case}"
                result = result._replace(value=other.word(physical))
            assert result[:2] == alone[:2], f"{type(other).__name__} {result[:2]}, walk {alone[:2]}: {case}"
            if other is self.bare:
                result = forgive(case, result, alone)
            assert result.region == alone.region, f"{type(other).__name__} {_differences(result, alone)}: {case}"
        return alone


def forgive(case: Case, unicorn: Result, alone: Result) -> Result:
    """Unicorn's result without the one thing that its walker does otherwise.

    QEMU sets A in a PDPTE before it looks whether that maps a 1 GiB page, and so before it checks the
    page's rights and low reserved bits; in every other leaf it sets A after the checks, as kstack does
    in all. SDM 4.8 sets A where an entry is used for a translation, and a refused access uses none. So
    A of a 1 GiB leaf is not compared where the access faults.
    """
    if unicorn.fault is None or unicorn.fault != alone.fault:
        return unicorn
    words = dict(case.words)
    pml4e = words.get(ROOT + (case.address >> 39 & 511) * 8, 0)
    where = (pml4e & FRAME_MASK) + (case.address >> 30 & 511) * 8
    if words.get(where, 0) & (P | PS | A) != P | PS:
        return unicorn
    region = bytearray(unicorn.region)
    region[where] &= ~A
    return unicorn._replace(region=bytes(region))


def _differences(one: Result, two: Result) -> str:
    return ", ".join(_differing_words(one.region, two.region))


def _differing_words(one: bytes, two: bytes) -> Iterator[str]:
    for where in range(0, len(one), 8):
        if one[where : where + 8] != two[where : where + 8]:
            first, second = (int.from_bytes(data[where : where + 8], "little") for data in (one, two))
            yield f"[{where:#x}] is {first:#x}, walk makes it {second:#x}"
