"""The bytes are those of GNU as and ld: for a corpus, for generated programs, for layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstack.guest.asm import KERNEL_LAYOUT, Layout, assemble, build, build_text, gnu

CORPUS = Path(__file__).parent / "corpus"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not gnu.available(), reason="GNU as and ld (binutils) are not installed"),
]


def agree(text: str, bits: int = 64, base: int = 0x1000) -> None:
    """Both assemble the text, linked flat at an address, to the same bytes."""
    ours = assemble(text, base, bits)
    assert ours
    assert gnu.differences(ours, base, gnu.link([text], Layout.flat(base), bits)) == []


@pytest.mark.parametrize(("name", "bits"), [("kernel64.s", 64), ("kernel32.s", 32), ("boot16.s", 16)])
def test_the_corpus_of_kernel_instructions_is_the_same(name: str, bits: int) -> None:
    agree((CORPUS / name).read_text(), bits)


def test_a_changed_byte_would_be_noticed() -> None:
    theirs = gnu.link(["mov eax, 1"], Layout.flat(0x1000))
    assert gnu.differences(assemble("mov eax, 2", 0x1000), 0x1000, theirs) == [(0x1001, 2, 1)]


def test_a_kernel_of_two_files_in_the_kernel_layout_is_the_same(tmp_path: Path) -> None:
    one = """
.section .boot
.code32
start: mov esp, offset stack_top - 0xffffffff80000000
    mov edi, offset counter - 0xffffffff80000000
    jmp start
    .align 8, 0x90
    .long __bss_start - 0xffffffff80000000, __bss_end - 0xffffffff80000000
.section .note
    .long 4, 4, 18
    .asciz "Xen"
    .long start
.code64
.text
entry: call other
    mov rax, [rip+counter]
    mov rbx, offset message
    jmp entry
.bss
    .balign 16
    .skip 4096
stack_top:
"""
    two = """
other: inc qword ptr [rip+counter]
    lea rsi, [rip+message]
    jmp entry
.section .rodata
message: .asciz "hello"
.data
    .balign 8
counter: .quad 0, other, stack_top
"""
    (tmp_path / "one.s").write_text(one)
    (tmp_path / "two.s").write_text(two)
    image = build([tmp_path / "one.s", tmp_path / "two.s"])
    theirs = gnu.link([one, two], KERNEL_LAYOUT)
    assert gnu.differences(image.to_flat(), 0x100000, theirs) == []


def test_macros_and_conditions_are_expanded_the_same() -> None:
    agree(
        """
.macro save first:req, second=rbx, rest:vararg
    push \\first
    push \\second
    .ifnb \\rest
    push \\rest
    .endif
    mov eax, \\@
.Lhere\\@: jmp .Lhere\\@
.endm
.macro outer reg
    save \\reg, second=rdi
    save r8, r9, r10
.endm
    outer rax
    outer reg=rcx
.irp r, rax, rbx, r15
    xor \\r, \\r
.endr
.irpc d, 123
    mov eax, \\d
.endr
.set n, 0
.rept 4
    .byte n
    .set n, n + 1
.endr
.if n == 4
    .rept 2
    hlt
    .endr
.elseif n > 4
    cli
.else
    sti
.endif
.ifdef n
    nop
.endif
.macro countdown k
    .byte \\k
    .if \\k
    countdown "(\\k-1)"
    .endif
.endm
    countdown 3
"""
    )


OPERATORS = ["+", "-", "*", "|", "&", "^", "<<", ">>", "==", "<", ">", "&&", "||"]
EXPRESSIONS = st.recursive(
    st.integers(0, 200).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("-{}".format),
        inner.map("~{}".format),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=12))
def test_expressions_have_the_same_values(expressions: list[str]) -> None:
    agree("\n".join(f".quad {e}" for e in expressions))


BRANCH = st.tuples(st.sampled_from(["jmp", "je", "ja", "jns", "jle", "call"]), st.integers(0, 7)).map(
    lambda p: f"{p[0]} l{p[1]}"
)
FILLER = st.one_of(
    st.integers(1, 70).map(".skip {}, 0x90".format),
    st.sampled_from([2, 4, 16, 64]).map(".align {}, 0xcc".format),
    st.integers(0, 7).map("lea rax, [rip+l{}]".format),
    st.integers(0, 7).map(".quad l{} - l0".format),
    st.just("nop"),
)
BLOCK = st.lists(st.one_of(BRANCH, BRANCH, FILLER), max_size=6)


@settings(max_examples=120, deadline=None)
@given(st.lists(BLOCK, min_size=8, max_size=8))
def test_branches_relax_to_the_same_sizes(blocks: list[list[str]]) -> None:
    agree("\n".join(f"l{i}:\n" + "\n".join(block) for i, block in enumerate(blocks)) + "\nhlt\n")


REGISTERS = {
    64: ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r12", "r13", "r15"],
    32: ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r12d", "r13d", "r15d"],
    16: ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r15w"],
    8: ["al", "cl", "dl", "bl", "ah", "dil", "r8b", "r15b"],
}
WORDS = {64: "qword", 32: "dword", 16: "word", 8: "byte"}
ALU = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "mov", "test"]


@st.composite
def address(draw: st.DrawFn) -> str:
    """An address of 64-bit code: any mix of base, index, scale, displacement, label."""
    parts = []
    if draw(st.booleans()):
        parts.append(draw(st.sampled_from(REGISTERS[64])))
    if draw(st.booleans()):
        index = draw(st.sampled_from([r for r in REGISTERS[64] if r != "rsp"]))
        parts.append(f"{index}*{draw(st.sampled_from([2, 4, 8]))}")
    if not parts and draw(st.booleans()):
        parts.append("rip")
    if not parts or draw(st.booleans()):
        number = draw(st.integers(-300, 300) | st.sampled_from([0x7FFFFFFF, -0x80000000]))
        parts.append(draw(st.sampled_from(["here", str(number)])))
    segment = draw(st.sampled_from(["", "", "gs:", "fs:"]))
    return f"{segment}[{'+'.join(parts).replace('+-', '-')}]"


@st.composite
def instruction(draw: st.DrawFn) -> str:
    """An instruction of two operands, in any width."""
    width = draw(st.sampled_from([8, 16, 32, 64]))
    registers = st.sampled_from(REGISTERS[width])
    name = draw(st.sampled_from([*ALU, "xchg"]))
    memory = f"{WORDS[width]} ptr {draw(address())}"
    kind = draw(st.sampled_from(["rr", "rm", "mr", "ri", "mi"]))
    bound = 1 << min(width, 32) - 1
    small = min(200, bound - 1)
    number = str(draw(st.integers(-bound, bound - 1) | st.integers(-small, small)))
    if name == "xchg" and kind[1] == "i":
        kind = "rm"
    to = draw(registers) if kind[0] == "r" else memory
    of = {"r": draw(registers), "m": memory, "i": number}[kind[1]]
    if "ah" in (to, of) and any(r in f"{to} {of}" for r in ("dil", "r8", "r1", "r[")):
        of = to = "ah"
    if name == "xchg" and to == of:
        name = "mov"  # xchg ax, ax is a nop to the disassembler, so the round trip refuses it
    return f"{name} {to}, {of}"


@settings(max_examples=150, deadline=None)
@given(st.lists(instruction(), min_size=1, max_size=25))
def test_generated_instructions_are_the_same(lines: list[str]) -> None:
    agree("here:\n" + "\n".join(lines))


def test_far_apart_sections_link_the_same() -> None:
    layout = KERNEL_LAYOUT
    text = (
        "f: call g\nmov rax, offset v\nlea rdi, [rip+v]\nmov ecx, [v]\n"
        ".section .text.hot\ng: jmp f\n.data\nv: .quad f, g, v-.\n"
    )
    image = build_text(".section .boot\nnop\n.text\n" + text, layout)
    theirs = gnu.link([".section .boot\nnop\n.text\n" + text], layout)
    assert gnu.differences(image.to_flat(), 0x100000, theirs) == []
