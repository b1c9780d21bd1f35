"""Instructions that are looked at as they are translated, and stopped at as they are executed.

Unicorn translates some instructions to something else than the manual says, and has no hook for that. Here its translator's
own table of functions leads to a stub, once for all engines of a process, which runs before each instruction is translated:

- A look at prefixes and opcode, by tables, tells whether the host wants to see the instruction (one beyond the limit of CS it
  always sees); if it does it may give a `Check`, which the translation then calls whenever it comes to that instruction: a few instructions of machine code that
  go on, or leave the engine with RIP at the instruction and no effect done.
- A block whose translation has used up most of the temporaries that TCG has room for ends there. Unicorn's translator
  loses some (each x87 instruction one), and TCG does not look: 512 instructions of x87 in a row wrote zeros over the list
  of operations that lies behind the temporaries (tcg_temp_alloc), and the next one was appended through a null pointer
  (tcg_emit_op).

A check is a code hook of Unicorn's whose bounds, callback and data the stub sets for one instruction at a time: Unicorn looks
at them only while it translates, as long as this is its only code hook. Recording (tracing.py) therefore has none of its own.
"""

from __future__ import annotations

import ctypes
import enum
from functools import lru_cache
from typing import Final, NamedTuple

from kstack.base.errors import EngineError
from kstack.hw.engine import layout
from kstack.hw.engine.layout import Library, u64
from kstack.hw.engine.stubs import CodePage, Control
from kstack.x86.addresses import PAGE
from kstack.x86.control import Cr0
from kstack.x86.flags import Flags

MAGIC: Final = 0x6B63617473_4B5543  # before the fill stub of an engine of ours
TEMPORARIES: Final = 256  # of the 512 that TCG has room for: a block that has used so many takes no more instructions
NOWHERE: Final = 1 << 62  # no instruction lies there: it is not canonical
_MASK64: Final = (1 << 64) - 1
PLAIN, ASK, PREFIX, REX, MAP_0F, MAP_0F38, MAP_0F3A, BEHIND_66 = range(8)
"""What the tables say of a byte: nothing, the host wants to see it, a prefix, a prefix in 64-bit code, another table."""
BANK: Final = BEHIND_66 - MAP_0F + 1
"""Tables of a bank: the second is for instructions with a prefix 66, whose maps are so much further on."""
TABLES: Final = 2 * BANK * 256
"""Bytes of all tables."""
_CONTROL: Final = {name: getattr(Control, name).offset for name, _ in Control._fields_}
_PROT_RW: Final = 3


class CheckKind(enum.Enum):
    """When a check leaves the engine."""

    ALWAYS = "always"
    MISALIGNED = "the operand's linear address is no multiple of 16"
    CROSSES = "the operand reaches into the next page"
    HIGH = "the upper half of one of two registers is not zero"
    NOT_CANONICAL = "a register is not a canonical address"
    SYSRET = "a register is not a canonical address, or another one has VM or RF set"
    PROTECTED = "protected mode"
    ALIGNED_USER = "ring 3, while CR0.AM lets RFLAGS.AC check alignments"
    STRING = "never: flags of before the first iteration are noted, for a repeated CMPS or SCAS that is cut"
    RETURN = "a far return in ring 3 or compatibility mode, or one that may take away selectors of FS and GS, which have bases"


class Check(NamedTuple):
    """A check of one instruction; registers by number, None where there is none.

    Attributes:
        kind: when it leaves.
        base, index: general registers of the address, or, of HIGH, NOT_CANONICAL and SYSRET, the registers looked at.
        scale: 1, 2, 4 or 8.
        displacement: bytes, RIP's part included.
        address_bits: 16, 32 or 64.
        segment: number of the segment register whose base is added.
        size: bytes of the operand.
    """

    kind: CheckKind
    base: int | None = None
    index: int | None = None  # type: ignore[assignment] # hides tuple.index, which nobody calls on a check
    scale: int = 1
    displacement: int = 0
    address_bits: int = 64
    segment: int | None = None
    size: int = 0


class Look(NamedTuple):
    """What is to become of an instruction.

    Attributes:
        check: what it is checked by, if by anything.
        shown: what the translator is to see in its place, of the same length or shorter; empty if it is to see the instruction.
        places: where it lies: physical address and bytes, of one page each.
    """

    check: Check | None
    shown: bytes = b""
    places: tuple[tuple[int, int], ...] = ()


class Form(ctypes.Structure):
    """A check as machine code reads it."""

    _fields_ = (
        ("callback", ctypes.c_uint64),  # 0
        ("recording", ctypes.c_uint64),  # 8: the callback while instructions are recorded
        ("control", ctypes.c_uint64),  # 16
        ("displacement", ctypes.c_uint64),  # 24
        ("base", ctypes.c_uint64),  # 32: offset in env of a 64-bit word; of one that is zero if there is none
        ("index", ctypes.c_uint64),  # 40
        ("shift", ctypes.c_uint64),  # 48
        ("mask", ctypes.c_uint64),  # 56: of addresses
        ("segment", ctypes.c_uint64),  # 64: offset in env of a segment's base; as `base`
        ("size", ctypes.c_uint64),  # 72
    )


# void translate_insn(DisasContextBase *, CPUState *)
_TRANSLATE = f"""
    mov rax, [rsi + {layout.CPU_CC}]
    mov rax, [rax + {layout.CC_TLB_FILL}]
    mov r10, {{magic}}
    cmp [rax - 16], r10
    jne foreign
    mov rcx, [rax - 8]
    mov rdx, [rcx + {_CONTROL["tcg_ctx"]}]
    cmp dword ptr [rdx + {layout.TCG_NB_TEMPS}], {TEMPORARIES}
    jl room
    mov eax, [rdi + {layout.DB_NUM_INSNS}]
    mov [rdi + {layout.DB_MAX_INSNS}], eax
room:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 8
    mov rbx, rdi
    mov rbp, rsi
    mov r12, rcx
    mov r13, [rdi + {layout.DB_PC_NEXT}]
    mov r14, r13
    mov r15, [r12 + {_CONTROL["tables"]}]
    mov rdx, [r12 + {_CONTROL["code_hook"]}]
    mov rax, {NOWHERE}
    mov [rdx + {layout.HOOK_BEGIN}], rax
    mov [rdx + {layout.HOOK_END}], rax
    cmp qword ptr [r12 + {_CONTROL["ask_all"]}], 0
    jne ask
    mov rax, [rbx]
    test dword ptr [rax + {layout.TB_FLAGS}], {layout.HF_CS64}
    jnz next
    mov rdx, r13
    sub rdx, [rax + {layout.TB_CS_BASE}]
    mov rcx, [rbp + {layout.CPU_ENV}]
    mov ecx, [rcx + {layout.ENV_SEGS + layout.SEG_BYTES + layout.SEG_LIMIT}]
    cmp rdx, rcx
    ja ask
next:
    lea rax, [r13 + 15]
    cmp r14, rax
    jae nothing
    mov rdi, [rbp + {layout.CPU_ENV}]
    mov rsi, r14
    call qword ptr [r12 + {_CONTROL["ldub_code"]}]
    movzx eax, al
    movzx eax, byte ptr [r15 + rax]
    add r14, 1
    test eax, eax
    jz nothing
    cmp eax, {ASK}
    je ask
    cmp eax, {PREFIX}
    je next
    cmp eax, {REX}
    je rex
    sub eax, {MAP_0F - 1}
    shl eax, 8
    mov r15, [r12 + {_CONTROL["tables"]}]
    add r15, rax
    jmp next
rex:
    mov rax, [rbx]
    test dword ptr [rax + {layout.TB_FLAGS}], {layout.HF_CS64}
    jnz next
    jmp nothing
ask:
    mov rdi, r13
    call qword ptr [r12 + {_CONTROL["look"]}]
    test rax, rax
    jz nothing
    mov rdx, [rax]
    mov rcx, rax
    cmp qword ptr [r12 + {_CONTROL["recorder"]}], 0
    je hooked
    mov rdx, [rax + 8]
    jmp hooked
nothing:
    mov rdx, [r12 + {_CONTROL["recorder"]}]
    mov rcx, [r12 + {_CONTROL["cursor"]}]
    test rdx, rdx
    jz go
hooked:
    mov rax, [r12 + {_CONTROL["code_hook"]}]
    mov [rax + {layout.HOOK_BEGIN}], r13
    mov [rax + {layout.HOOK_END}], r13
    mov [rax + {layout.HOOK_CALLBACK}], rdx
    mov [rax + {layout.HOOK_USER_DATA}], rcx
go:
    mov rdi, rbx
    mov rsi, rbp
    mov rax, {{original}}
    call rax
    mov rdx, [r12 + {_CONTROL["code_hook"]}]
    mov rax, {NOWHERE}
    mov [rdx + {layout.HOOK_BEGIN}], rax
    mov [rdx + {layout.HOOK_END}], rax
    cmp qword ptr [r12 + {_CONTROL["hidden"]}], 0
    je shown
    call qword ptr [r12 + {_CONTROL["unhide"]}]
shown:
    add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
foreign:
    mov rax, {{original}}
    jmp rax
"""

# void check(uc, address, size, form): rbp is env, as in all of TCG's code. The address goes to rax.
_ADDRESS = """
    mov r9, [rcx + 40]
    mov rax, [rbp + r9]
    mov r10, rcx
    mov r9, [rcx + 56]
    and rax, r9
    mov rcx, [r10 + 48]
    shl rax, cl
    mov rcx, r10
    mov r10, [rcx + 32]
    mov r10, [rbp + r10]
    and r10, r9
    add rax, r10
    add rax, [rcx + 24]
    and rax, r9
    mov r10, [rcx + 64]
    add rax, [rbp + r10]
"""
_CANONICAL: Final = """
    mov r9, [rcx + 32]
    mov rax, [rbp + r9]
    sar rax, 47
    add rax, 1
    cmp rax, 1
    ja leave
"""
_TESTS: Final = {
    CheckKind.ALWAYS: "jmp leave",
    CheckKind.MISALIGNED: _ADDRESS
    + """
    test al, 15
    jnz leave
""",
    CheckKind.CROSSES: _ADDRESS
    + """
    and eax, 4095
    add rax, [rcx + 72]
    cmp rax, 4096
    ja leave
""",
    CheckKind.HIGH: """
    mov r9, [rcx + 32]
    mov r10, [rcx + 40]
    mov eax, [rbp + r9 + 4]
    or eax, [rbp + r10 + 4]
    jnz leave
""",
    CheckKind.NOT_CANONICAL: _CANONICAL,
    CheckKind.SYSRET: _CANONICAL
    + f"""
    mov r9, [rcx + 40]
    test dword ptr [rbp + r9], {Flags.VM | Flags.RF}
    jnz leave
""",
    CheckKind.PROTECTED: f"""
    test dword ptr [rbp + {layout.ENV_HFLAGS}], {layout.HF_PE}
    jnz leave
""",
    CheckKind.ALIGNED_USER: f"""
    mov eax, [rbp + {layout.ENV_HFLAGS}]
    and eax, {layout.HF_CPL}
    cmp eax, {layout.HF_CPL}
    jne no_check
    test dword ptr [rbp + {layout.ENV_CR}], {int(Cr0.AM)}
    jnz leave
no_check:
""",
    # An iteration that begins when one more unit is paid for than at the last goes on with the same instruction: to come back
    # to it takes two at least.
    CheckKind.STRING: f"""
    mov rax, [r8]
    add rax, [r8 + {_CONTROL["withheld"]}]
    mov r9, [r8 + {_CONTROL["string_left"]}]
    mov [r8 + {_CONTROL["string_left"]}], rax
    cmp [r8 + {_CONTROL["string"]}], rsi
    jne begins
    sub r9, rax
    cmp r9, 1
    je goes_on
begins:
    mov [r8 + {_CONTROL["string"]}], rsi
    mov rax, [rcx + 56]
    mov [r8 + {_CONTROL["string_mask"]}], rax
    mov rsi, [rsp]
    push r8
    mov rdi, [r8 + {_CONTROL["cpu"]}]
    xor edx, edx
    call qword ptr [r8 + {_CONTROL["restore_state"]}]
    pop r8
    mov rax, [rbp + {layout.ENV_CC_DST}]
    mov [r8 + {_CONTROL["string_flags"]}], rax
    mov rax, [rbp + {layout.ENV_CC_SRC}]
    mov [r8 + {_CONTROL["string_flags"] + 8}], rax
    mov rax, [rbp + {layout.ENV_CC_SRC2}]
    mov [r8 + {_CONTROL["string_flags"] + 16}], rax
    mov eax, [rbp + {layout.ENV_CC_OP}]
    mov [r8 + {_CONTROL["string_flags"] + 24}], rax
goes_on:
""",
    CheckKind.RETURN: f"""
    mov eax, [rbp + {layout.ENV_HFLAGS}]
    and eax, 3
    cmp eax, 3
    je leave
    mov eax, [rbp + {layout.ENV_HFLAGS}]
    and eax, {layout.HF_LMA | layout.HF_CS64}
    cmp eax, {layout.HF_LMA}
    je leave
"""
    + "".join(
        f"""
    cmp qword ptr [rbp + {at + layout.SEG_BASE}], 0
    je {name}
    test dword ptr [rbp + {at}], 0xfffc
    jnz leave
{name}:
"""
        for name, at in (
            ("no_fs", layout.ENV_SEGS + 4 * layout.SEG_BYTES),
            ("no_gs", layout.ENV_SEGS + 5 * layout.SEG_BYTES),
        )
    ),
}
_CHECK = f"""
    mov r8, [rcx + 16]
    mov [r8 + {_CONTROL["checked"]}], rsi
    {{test}}
    ret
leave:
    cmp [r8 + {_CONTROL["granted"]}], rsi
    je granted
    mov rcx, r8
    mov rax, [rsp]
    push rcx
    mov rdi, [rcx + {_CONTROL["cpu"]}]
    mov rsi, rax
    xor edx, edx
    call qword ptr [rcx + {_CONTROL["restore_state"]}]
    pop rcx
    mov qword ptr [rcx + {_CONTROL["trapped"]}], 2
    mov rdi, [rcx + {_CONTROL["uc"]}]
    mov byte ptr [rdi + {layout.UC_STOP_REQUEST}], 1
    push rcx
    mov rdi, [rcx + {_CONTROL["cpu"]}]
    call qword ptr [rcx + {_CONTROL["cpu_exit"]}]
    pop rcx
    mov rdi, [rcx + {_CONTROL["cpu"]}]
    mov rax, [rcx + {_CONTROL["leave"]}]
    sub rsp, 8
    call rax
granted:
    mov rax, {NOWHERE}
    mov [r8 + {_CONTROL["granted"]}], rax
    ret
"""
# Record the instruction, then check it.
_BOTH = f"""
    push rdi
    push rsi
    push rdx
    push rcx
    sub rsp, 8
    mov rax, [rcx + 16]
    mov rcx, [rax + {_CONTROL["cursor"]}]
    call qword ptr [rax + {_CONTROL["recorder"]}]
    add rsp, 8
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    jmp qword ptr [rcx]
"""


class Stubs(NamedTuple):
    """The machine code of checks, one for all engines of a process."""

    page: CodePage
    checks: dict[CheckKind, int]
    both: int


@lru_cache(maxsize=1)
def stubs() -> Stubs:
    """Lead Unicorn's translator through the stub, and assemble the checks.

    Raises:
        EngineError: the translator's table is not where this Unicorn has it.
    """
    library = Library()
    slot = _translate_slot(library)
    page = CodePage(4 * PAGE)
    checks = {kind: page.add(_CHECK.format(test=test)) for kind, test in _TESTS.items()}
    translate = page.add(_TRANSLATE.format(magic=MAGIC, original=u64(slot).value))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(slot & -PAGE), ctypes.c_size_t(2 * PAGE), _PROT_RW):
        raise EngineError(f"unicorn's translator cannot be led elsewhere: mprotect fails ({ctypes.get_errno()})")
    u64(slot).value = translate
    return Stubs(page, checks, page.add(_BOTH))


def _translate_slot(library: Library) -> int:
    """The host address of `translate_insn` in the table that gen_intermediate_code hands to the translator's loop."""
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    start = library.address("gen_intermediate_code_x86_64")
    for found in Cs(CS_ARCH_X86, CS_MODE_64).disasm(ctypes.string_at(start, 64), start):
        if found.mnemonic == "lea" and found.op_str.startswith("rdi, [rip + "):
            table: int = found.address + found.size + int(found.op_str.removeprefix("rdi, [rip + ").rstrip("]"), 16)
            entries = [u64(table + 8 * index).value for index in range(7)]
            if all(abs(entry - start) < layout.TRANSLATOR_BYTES for entry in entries if entry):
                return table + layout.TRANSLATE_INSN
    raise EngineError(f"unicorn's translator is not as {layout.UNICORN_VERSION} has it")


class Checks:
    """The checks of one engine.

    Args:
        control: of the engine.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._stubs = stubs()
        self._forms: dict[Check, Form] = {}

    def form(self, check: Check) -> int:
        """The host address of a check as machine code reads it; it stays where it is."""
        found = self._forms.get(check)
        if found is None:
            callback = self._stubs.checks[check.kind]
            found = self._forms[check] = Form(
                callback=callback,
                recording=self._stubs.both,
                control=ctypes.addressof(self._control),
                displacement=check.displacement & _MASK64,
                base=_register(check.base),
                index=_register(check.index),
                shift=check.scale.bit_length() - 1,
                mask=(1 << check.address_bits) - 1,
                segment=layout.ENV_ZERO
                if check.segment is None
                else layout.ENV_SEGS + layout.SEG_BYTES * check.segment + layout.SEG_BASE,
                size=check.size,
            )
        return ctypes.addressof(found)


def _register(number: int | None) -> int:
    return layout.ENV_ZERO if number is None else layout.ENV_REGS + 8 * number
