"""A CPU's registers as GDB numbers them: GDB manual, E.2 (packets g, G, p, P) and G.5.4 (i386 features).

GDB knows no segments: an address is linear to it, where it looks for code and where breakpoints are. So its `rip` is
linear, with the base of CS that 64-bit code has not; `cs_base` tells them apart.

Not modelled: the x87 instruction and operand pointers, which read as zero; selectors and x87 registers
can be read only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kstack.debug.packets import ProtocolError
from kstack.hw.cpu.cpu import Cpu
from kstack.x86.control import CR8_SHIFT
from kstack.x86.flags import Flags
from kstack.x86.floating_point import FSW_TOP, FSW_TOP_SHIFT
from kstack.x86.registers import Gpr, Seg

_ORDER: Final = (Gpr.RAX, Gpr.RBX, Gpr.RCX, Gpr.RDX, Gpr.RSI, Gpr.RDI, Gpr.RBP, Gpr.RSP, *map(Gpr, range(8, 16)))
_SELECTORS: Final = (Seg.CS, Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS)
_CONTROL: Final = "org.kstack.control"
_FLAGS: Final = tuple(
    ("" if flag is Flags.FIXED else flag.name, flag.bit_length() - 1) for flag in Flags if flag is not Flags.IOPL
)


class Register(NamedTuple):
    """One register as GDB knows it."""

    name: str
    bits: int
    kind: str
    feature: str
    read: Callable[[Cpu], int]


def _gpr(which: Gpr) -> Register:
    kind = "data_ptr" if which in (Gpr.RBP, Gpr.RSP) else "int64"
    return Register(which.name.lower(), 64, kind, "org.gnu.gdb.i386.core", lambda cpu: cpu.registers.gpr[which])


def _selector(which: Seg) -> Register:
    read = lambda cpu: cpu.registers.segment(which).selector  # noqa: E731 - a method would say no more
    return Register(which.name.lower(), 32, "int32", "org.gnu.gdb.i386.core", read)


def _base(which: Seg) -> Register:
    read = lambda cpu: cpu.registers.segment(which).base  # noqa: E731 - as above
    feature = "org.gnu.gdb.i386.segments" if which in (Seg.FS, Seg.GS) else _CONTROL
    return Register(f"{which.name.lower()}_base", 64, "int64", feature, read)


# --- x87: SDM volume 1, 8.1


def _stack_register(index: int) -> Register:
    def read(cpu: Cpu) -> int:
        return cpu.registers.x87_register(cpu.registers.x87().top + index & 7)

    return Register(f"st{index}", 80, "i387_ext", "org.gnu.gdb.i386.core", read)


def _status(cpu: Cpu) -> int:
    x87 = cpu.registers.x87()
    return x87.status & ~FSW_TOP | x87.top << FSW_TOP_SHIFT


def _tags(cpu: Cpu) -> int:
    """The full tag word; a register that is not empty counts as valid."""
    empty = cpu.registers.x87().empty
    return sum(3 << 2 * index for index in range(8) if empty >> 8 * index & 1)


def _x87(name: str, read: Callable[[Cpu], int]) -> Register:
    return Register(name, 32, "int", "org.gnu.gdb.i386.core", read)


def _control(name: str, read: Callable[[Cpu], int]) -> Register:
    return Register(name, 64, "int64", _CONTROL, read)


REGISTERS: Final[tuple[Register, ...]] = (
    *map(_gpr, _ORDER),
    Register("rip", 64, "code_ptr", "org.gnu.gdb.i386.core", lambda cpu: cpu.linear_rip()),
    Register("eflags", 32, "i386_eflags", "org.gnu.gdb.i386.core", lambda cpu: cpu.registers.rflags),
    *map(_selector, _SELECTORS),
    *map(_stack_register, range(8)),
    _x87("fctrl", lambda cpu: cpu.registers.x87().control),
    _x87("fstat", _status),
    _x87("ftag", _tags),
    *(_x87(name, lambda cpu: 0) for name in ("fiseg", "fioff", "foseg", "fooff", "fop")),
    *map(_base, (Seg.FS, Seg.GS)),
    _control("cr0", lambda cpu: cpu.registers.cr[0]),
    _control("cr2", lambda cpu: cpu.registers.cr[2]),
    _control("cr3", lambda cpu: cpu.registers.cr[3]),
    _control("cr4", lambda cpu: cpu.registers.cr[4]),
    _control("cr8", lambda cpu: cpu.apic.tpr >> CR8_SHIFT),
    _control("efer", lambda cpu: cpu.registers.efer),
    *map(_base, (Seg.CS, Seg.SS, Seg.DS, Seg.ES)),
)
TOTAL_BYTES: Final = sum(register.bits // 8 for register in REGISTERS)


def read_register(cpu: Cpu, number: int) -> bytes:
    """Register `number` in target byte order.

    Raises:
        ProtocolError: there is none of this number.
    """
    register = _numbered(number)
    return register.read(cpu).to_bytes(register.bits // 8, "little")


def offset_of(cpu: Cpu, linear: int) -> int:
    """RIP by which a CPU goes on at a linear address."""
    registers = cpu.registers
    return linear if registers.bits == 64 else linear - registers.segment(Seg.CS).base & 0xFFFFFFFF


def register_name(number: int) -> str:
    """What GDB calls register `number`.

    Raises:
        ProtocolError: there is none of this number.
    """
    return _numbered(number).name


def _numbered(number: int) -> Register:
    if not 0 <= number < len(REGISTERS):
        raise ProtocolError(f"there is no register {number}")
    return REGISTERS[number]


def target_xml() -> str:
    """The target description (G.2)."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        '<target version="1.0">',
        "<architecture>i386:x86-64</architecture>",
    ]
    feature = ""
    for register in REGISTERS:
        if register.feature != feature:
            lines += ["</feature>"] if feature else []
            feature = register.feature
            lines += [f'<feature name="{feature}">', *(_flags_type() if feature.endswith("core") else [])]
        lines.append(f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.kind}"/>')
    return "\n".join([*lines, "</feature>", "</target>", ""])


def _flags_type() -> list[str]:
    return [
        '<flags id="i386_eflags" size="4">',
        *(f'<field name="{name}" start="{bit}" end="{bit}"/>' for name, bit in _FLAGS),
        "</flags>",
    ]
