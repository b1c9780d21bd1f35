"""Every trap of Keystone 0.9.2 is refused with its place and the way out, or is made right."""

from __future__ import annotations

import keystone
import pytest

from kstack.guest.asm import AsmError, assemble
from kstack.guest.asm.encode import Encoder
from kstack.guest.asm.errors import Place
from kstack.guest.asm.expr import Linear
from kstack.guest.asm.instruction import Instruction, read
from kstack.guest.asm.operand import Reg
from kstack.guest.asm.roundtrip import Checker

HERE = Place("<text>", 1)


def refused(text: str, *, bits: int = 64) -> str:
    """The message with which a second line is refused; its place is checked."""
    with pytest.raises(AsmError) as caught:
        assemble("nop\n" + text, bits=bits)
    assert caught.value.file == "<text>"
    assert caught.value.line == 2
    assert str(caught.value).startswith("<text>:2: ")
    return caught.value.message


# Silently wrong code: made right where the source says enough


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("mov rsp, gs:[8]", "65488b242508000000"),
        ("mov rbx, [0x1234]", "488b1c2534120000"),
        ("mov rax, gs:[8]", "65488b042508000000"),
        ("call qword ptr gs:[8]", "65ff142508000000"),
        ("cmp qword ptr gs:[8], 1", "6548833c250800000001"),
        ("mov gs:[16], rbx", "6548891c2510000000"),
    ],
)
def test_absolute_addresses_are_not_made_relative_to_rip(text: str, code: str) -> None:
    assert assemble(text).hex() == code


@pytest.mark.parametrize(
    ("operand", "code"),
    [
        ("[rbx+A*8]", "488b4328"),
        ("[rbx+8*A]", "488b4328"),
        ("[rbx+(A*8)]", "488b4328"),
        ("[rbx-A]", "488b43fb"),
        ("[rbx+rcx*8+foo-bar]", "488b44cb03"),
    ],
)
def test_symbol_arithmetic_in_memory_operands_is_exact(operand: str, code: str) -> None:
    text = f".data\nbar: .skip 3\nfoo: .byte 1\n.text\n.equ A, 5\nmov rax, {operand}"
    assert assemble(text)[: len(code) // 2].hex() == code


@pytest.mark.parametrize("text", ["pop rip", "jmp rip", "push rip", "mov rax, rip"])
def test_rip_as_an_operand_is_refused(text: str) -> None:
    assert "rip cannot be an operand" in refused(text)


def test_an_absolute_store_is_the_same_at_every_address() -> None:
    text = "mov [0x1234], rbx\ncmp dword ptr [0x1234], 5\nxchg [0x1234], ecx"
    assert assemble(text, 0x1000) == assemble(text, 0xFFFFFFFF80100000)


def test_a_branch_out_of_rel32_range_is_refused() -> None:
    assert "does not fit 32 bits" in refused("call 0x123456789000")
    assert "through a register" in refused("jmp 0xffff800000000000")


def test_section_text_and_bare_text_keep_their_bytes() -> None:
    assert assemble(".section .text\nnop\n.text\nhlt").hex() == "90f4"


def test_size_prefixes_that_change_meaning_are_dropped() -> None:
    assert assemble("lgdt [0x1234]", bits=32).hex() == "0f011534120000"
    assert assemble("ret", bits=16).hex() == "c3"


# Rejected by Keystone, or read otherwise by GNU as


def test_hash_comments_are_comments_and_slashes_are_refused() -> None:
    assert assemble("nop # ; hlt\n/* hlt\nhlt */ hlt").hex() == "90f4"
    assert "write # instead" in refused("nop // comment")


def test_a_semicolon_is_refused_outside_strings() -> None:
    assert "one statement a line" in refused("nop ; hlt")
    assert assemble('.ascii ";#//"') == b";#//"


def test_numeric_local_labels_are_refused() -> None:
    assert "named label" in refused("1: jmp 1b")
    assert "named label" in refused("jmp 1f")


def test_offset_of_a_symbol_is_its_address() -> None:
    assert assemble("mov rax, offset here\nhere: nop", 0x1000).hex() == "48c7c00710000090"
    assert assemble("mov eax, offset here\nhere: nop", 0x1000, 32).hex() == "b80510000090"


def test_a_factor_before_a_symbol_is_the_same_as_after() -> None:
    text = ".equ S, 5\nmov rax, {}\nmov rbx, [rcx+{}]"
    assert assemble(text.format("8*S", "(S*8)")) == assemble(text.format("40", "40"))


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        (".org 0x10", ".skip"),
        (".weak foo", "leave it out"),
        ("jmp far ptr [rax]", "far jump"),
        ("jmp short foo", "bare target"),
        ("ljmp 8, 0x1234", ".byte 0xea"),
        ("jmp 8:0x1234", ".byte 0xea"),
        ("jmp fword ptr [rax]", ".byte"),
        ("jmp 010f", "named label"),
        ("mov eax, 010", "octal"),
        ("mov eax, 10h", "0x"),
        ("mov rax, [riz*1+8]", "gs:[8]"),
        ("mov rax, foo[rip]", "inside brackets"),
        ("mov rax, foo", "offset foo"),
        ("mov [rax], 1", "qword ptr"),
        ("shl [rax], cl", "qword ptr"),
        ("mov al, 300", "0x12c does not fit the 8 bits"),
        ("and rax, 0xffffffff", "sizes"),
        ("mov rax, [0xfee00000]", "32 signed bits"),
        ("nop dword ptr [rax]", ".byte 0x0f, 0x1f"),
        ("mov [rax], ds", "mov ax, ds"),
        ("sysret", "sysretq"),
        ("iret", "iretq"),
        (".align 16", ".align 16, 0x90"),
        ("cqto", "cqo"),
        ("mov rax, [rbx*3]", "2, 4 or 8"),
        ("mov rax, [rbx-rcx]", "subtracted"),
    ],
)
def test_what_assemblers_misread_is_refused_with_a_way_out(text: str, way_out: str) -> None:
    assert way_out in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "endbr64",
        "serialize",
        "invlpgb",
        "tlbsync",
        "eretu",
        "erets",
        "uiret",
        "rdpid rax",
        "tpause eax",
        "lkgs ax",
    ],
)
def test_instructions_that_keystone_lacks_are_to_be_written_as_bytes(text: str) -> None:
    assert ".byte" in refused(text)


def test_a_constant_used_above_its_definition_is_refused() -> None:
    assert "define the constant above" in refused("mov eax, LATE\n.equ LATE, 5")


def test_pushing_a_constant_in_16_bit_code_is_refused() -> None:
    assert "push ax" in refused("push 5", bits=16)


# The round trip alone, with the lints off


def parsed(text: str) -> Instruction:
    """An instruction as read, with no lint applied; ``A`` is 5, foo-bar is 3."""
    values = {"A": 5, "foo": 13, "bar": 10}
    name, _, rest = text.partition(" ")
    return read(name, rest, lambda n, _: Linear(values[n]), HERE)


def keystone_bytes(text: str) -> bytes:
    """What Keystone makes of a text, asked directly."""
    engine = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    code, _ = engine.asm(text, 0x1000, True)
    return bytes(code)


@pytest.mark.parametrize("text", ["mov rsp, gs:[8]", "mov rbx, [0x1234]", "call qword ptr gs:[8]"])
def test_the_round_trip_alone_catches_absolute_loads_made_relative(text: str) -> None:
    assert Checker().difference(parsed(text), keystone_bytes(text), 64) != ""


@pytest.mark.parametrize("operand", ["[rbx+A*8]", "[rbx-A]", "[rbx+rcx*8+foo-bar]"])
def test_the_round_trip_alone_catches_dropped_symbol_arithmetic(operand: str) -> None:
    source = f"mov rax, {operand}"
    raw = keystone_bytes(f".equ A, 5; .equ foo, 13; .equ bar, 10; {source}")
    assert Checker().difference(parsed(source), raw, 64) != ""


def test_the_round_trip_alone_catches_another_register() -> None:
    assert Checker().difference(parsed("mov eax, ebx"), bytes.fromhex("89d8"), 64) == ""
    assert Checker().difference(parsed("mov eax, ecx"), bytes.fromhex("89d8"), 64) != ""
    for name in ("pop", "jmp"):  # Keystone makes pop rax and jmp rax of these
        written = Instruction((), name, (Reg("rip"),))
        assert Checker().difference(written, keystone_bytes(f"{name} rip"), 64) != ""


def test_the_round_trip_stops_an_encoder_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "_ask", lambda *_: bytes.fromhex("4889d9"))
    assert assemble("mov rcx, rbx").hex() == "4889d9"
    with pytest.raises(AsmError, match="'mov rcx, rbx', rcx instead of rdx"):
        assemble("mov rdx, rbx")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nop", "9090"),  # two instructions
        ("lgdt [rax]", "0f"),  # none
        ("je 0x10", "750e"),  # another condition
        ("mov eax, 5", "b806000000"),  # another number
        ("mov al, 5", "b805000000"),  # another width
        ("mov rax, [rbx+rcx*4]", "488b04cb"),  # another scale
        ("mov dword ptr [rax], 1", "48c70001000000"),  # another size
        ("mov rax, gs:[rbx]", "488b03"),  # no segment
        ("lock inc qword ptr [rax]", "48ff00"),  # no lock
        ("rep movsb", "f2a4"),  # another prefix
        ("sub eax, ecx", "29c1"),  # swapped operands
    ],
)
def test_the_round_trip_notices_each_kind_of_difference(text: str, code: str) -> None:
    assert Checker().difference(parsed(text), bytes.fromhex(code), 64) != ""
