"""What memory an instruction is about to read or write, before it runs: SDM volume 2.

Capstone gives the operands; the stack's (PUSH, POP, CALL, RET, IRET, ENTER, LEAVE) and XLAT's are
added here, and where Capstone is wrong about the direction it is put right.

Not modelled: what CPUs access by themselves (descriptor tables, event frames, page tables), gathers,
MASKMOV, nested ENTER, and the parts of an XSAVE area behind its first 512 bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.decode import Instruction, MemoryOperand, disassembler, effective_address
from kstack.hw.engine import Registers
from kstack.x86.prefixes import OPERAND_SIZE, SEGMENT_OVERRIDES
from kstack.x86.registers import GPR_NAMES, SEGMENT_NAMES, Gpr, Seg
from kstack.x86.segments import SegmentAttribute

MAX_LENGTH: Final = 15  # bytes of an instruction
_MASK32: Final = (1 << 32) - 1
_MASK64: Final = (1 << 64) - 1
_READ, _WRITE = 1, 2  # Capstone's CS_AC_READ and CS_AC_WRITE
_NONE: Final = frozenset("lea nop clflush clflushopt clwb cldemote invlpg prefetchw prefetch".split())
_BOTH: Final = frozenset("cmpxchg cmpxchg8b cmpxchg16b".split())
_STORES: Final = ("fst", "fnst", "fist", "fbstp", "fsave", "fnsave", "movnt", "stmxcsr", "vstmxcsr", "vmov", "ins")
_LONG: Final = {"fxsave": 512, "fxsave64": 512, "fxrstor": 512, "fxrstor64": 512, "xsave": 512, "xrstor": 512}
_BIT_TESTS: Final = frozenset("bt bts btr btc".split())
_STACK_BASES: Final = ("rsp", "esp", "sp", "rbp", "ebp", "bp")
_STRING_TARGETS: Final = ("rdi", "edi", "di")
_STRINGS: Final = ("movs", "stos", "scas", "cmps", "ins")
# words read from the stack, or written where negative
_STACK_WORDS: Final = {
    "push": -1, "call": -1, "enter": -1, "pushf": -1, "pushfd": -1, "pushfq": -1, "lcall": -2, "pushal": -8,
    "pushaw": -8, "pop": 1, "ret": 1, "popf": 1, "popfd": 1, "popfq": 1, "retf": 2, "retfq": 2, "popal": 8, "popaw": 8,
}  # fmt: skip
_IRET_WORD: Final = {"iretq": 8, "iretd": 4, "iret": 2}


class AccessedRange(NamedTuple):
    """A range of linear addresses (bytes), and what is done to it."""

    address: int
    size: int
    reads: bool
    writes: bool

    def overlaps(self, address: int, size: int) -> bool:
        """Whether a range shares a byte with it."""
        return self.address < address + size and address < self.address + self.size


class _Operand(NamedTuple):
    """A memory operand with its instruction as `effective_address` wants it."""

    form: Instruction
    size: int
    reads: bool
    writes: bool
    bit_index: str | None  # register that selects a bit anywhere in memory


class _Form(NamedTuple):
    operands: tuple[_Operand, ...]
    name: str
    word: int  # bytes of a stack slot
    repeat: bool
    address_bits: int
    data: Seg  # segment of data, where no operand names it


@lru_cache(maxsize=4096)
def _decode(code: bytes, bits: int) -> _Form | None:
    from capstone.x86_const import X86_OP_MEM, X86_OP_REG

    for found in disassembler(bits).disasm(code, 0, 1):
        words = found.mnemonic.split()
        name, repeat = words[-1], words[0].startswith("rep")
        operands = []
        if name not in _NONE and not name.startswith("prefetch"):
            last = found.operands[-1] if found.operands else None
            register = found.reg_name(last.reg) if last is not None and last.type == X86_OP_REG else None
            for operand in found.operands:
                if operand.type == X86_OP_MEM:
                    made = _operand(found, operand, name, repeat, register if name in _BIT_TESTS else None)
                    if made is not None:
                        operands.append(made)
        half = OPERAND_SIZE in found.prefix
        word = 8 if bits == 64 else 4 if bits == 32 else 2
        if half:
            word = 4 if bits == 16 else 2
        data = SEGMENT_OVERRIDES.get(found.prefix[1], Seg.DS)
        return _Form(tuple(operands), name, word, repeat, found.addr_size * 8, data)
    return None


def _operand(found: object, operand: object, name: str, repeat: bool, bit_index: str | None) -> _Operand | None:
    mem, register_name = operand.mem, found.reg_name  # type: ignore[attr-defined] # capstone has no types
    base, index = register_name(mem.base) or None, register_name(mem.index) or None
    index = None if index in ("riz", "eiz") else index
    if index is not None and index not in GPR_NAMES:
        return None  # a gather
    if mem.segment:
        segment = SEGMENT_NAMES[register_name(mem.segment)]
    elif base in _STRING_TARGETS and name.startswith(_STRINGS):
        segment = Seg.ES
    else:
        segment = Seg.SS if base in _STACK_BASES else Seg.DS
    access, size = operand.access, operand.size  # type: ignore[attr-defined] # as above
    reads, writes = bool(access & _READ), bool(access & _WRITE)
    if name in _BOTH:
        reads = writes = True
    elif name.startswith(_STORES) and (operand is found.operands[0] or not name.startswith("vmov")):  # type: ignore[attr-defined] # as above
        reads, writes = False, True
    elif not reads and not writes:
        reads = True  # OUTS
    address = MemoryOperand(segment, base, index, mem.scale, mem.disp, size)
    length, width = found.size, found.addr_size * 8  # type: ignore[attr-defined] # as above
    form = Instruction(name, length, (), (), address, repeat, width)
    return _Operand(form, _LONG.get(name, size), reads, writes, bit_index)


def accesses(cpu: Cpu) -> list[AccessedRange]:
    """What the instruction at RIP of `cpu` accesses if it completes, REP's next iteration only."""
    registers = cpu.registers
    form = _decode(cpu.linear.code(cpu.linear_rip(), MAX_LENGTH), registers.bits)
    if form is None:
        return []
    mask = (1 << form.address_bits) - 1
    if form.repeat and not registers.gpr[Gpr.RCX] & mask:
        return []
    found = []
    for operand in form.operands:
        address = effective_address(operand.form, registers)
        if operand.bit_index is not None:
            address = _bit_address(address, operand, registers)
        memory = operand.form.memory
        if form.name == "pop" and memory is not None and memory.base in ("rsp", "esp"):
            address += form.word  # addressed after RSP has grown
        found.append(AccessedRange(address & _MASK64, operand.size, operand.reads, operand.writes))
    return found + _implicit(form, registers)


def _bit_address(address: int, operand: _Operand, registers: Registers) -> int:
    """BT and its kind with a bit number in a register reach memory beyond the operand (SDM volume 2, BT)."""
    gpr, width = GPR_NAMES[operand.bit_index or "rax"]
    number = registers.gpr[gpr] & (1 << 8 * width) - 1
    if number >> 8 * width - 1:
        number -= 1 << 8 * width
    return address + number // (8 * operand.size) * operand.size


def _implicit(form: _Form, registers: Registers) -> list[AccessedRange]:
    gpr = registers.gpr
    long = registers.bits == 64

    def on_stack(pointer: int) -> int:
        """The linear address of an offset into the stack segment, of as many bits as that has (SDM volume 1, 6.2.3)."""
        if long:
            return pointer & _MASK64
        stack = registers.segment(Seg.SS)
        return stack.base + (pointer & (_MASK32 if stack.flags & SegmentAttribute.B else 0xFFFF)) & _MASK32

    if form.name == "leave":
        return [AccessedRange(on_stack(gpr[Gpr.RBP]), form.word, True, False)]
    if form.name == "xlatb":
        offset = gpr[Gpr.RBX] + (gpr[Gpr.RAX] & 0xFF) & (1 << form.address_bits) - 1
        base = registers.segment(form.data).base if not long or form.data in (Seg.FS, Seg.GS) else 0
        return [AccessedRange(base + offset & (_MASK64 if long else _MASK32), 1, True, False)]
    if form.name in _IRET_WORD:
        word = _IRET_WORD[form.name]
        return [AccessedRange(on_stack(gpr[Gpr.RSP]), word * (5 if long else 3), True, False)]
    words = _STACK_WORDS.get(form.name, 0)
    if not words:
        return []
    size, top = form.word * abs(words), gpr[Gpr.RSP]
    return [
        AccessedRange(on_stack(top - size), size, False, True)
        if words < 0
        else AccessedRange(on_stack(top), size, True, False)
    ]
