"""Errors name the file and the line and say what to write; the source is read exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.guest.asm import AsmError, Layout, assemble, build


def error(text: str) -> AsmError:
    """The error that assembling a text raises."""
    with pytest.raises(AsmError) as caught:
        assemble(text)
    return caught.value


def test_an_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "boot.s"
    path.write_text("nop\n/* two\nlines */\nbogus rax\n")
    with pytest.raises(AsmError, match=r"boot\.s:4: Keystone has no instruction bogus") as caught:
        build([path], Layout.flat(0))
    assert (caught.value.file, caught.value.line) == (str(path), 4)


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "inner.s").write_text("\n\npop rip\n")
    (tmp_path / "outer.s").write_text('nop\n.include "inner.s"\n')
    with pytest.raises(AsmError, match=r"inner\.s:3: "):
        build([tmp_path / "outer.s"], Layout.flat(0))


def test_an_error_inside_a_macro_names_the_line_of_its_body_and_the_macro() -> None:
    found = error("nop\n.macro bad r\nnop\nmov \\r, gs:8\n.endm\nbad rax")
    assert str(found).startswith("<text>:4 (in macro bad): ")


def test_an_undefined_symbol_is_named_at_its_use_with_the_nearest_one() -> None:
    found = error("nop\ncall scheduel\nschedule: ret")
    assert str(found) == "<text>:2: scheduel is not defined; did you mean schedule?"


def test_a_label_defined_twice_names_both_places() -> None:
    assert str(error("a: nop\nnop\na: nop")) == "<text>:3: a is already defined at <text>:1"
    assert "already defined" in error("a: nop\n.equ a, 1").message
    assert "already defined" in error(".equ a, 1\na: nop").message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("/* no end", 1, "never ends"),
        ("nop\n.if 1\nnop", 2, ".endif"),
        ("nop\n.endif", 2, "without an .if"),
        (".macro m\nnop", 1, "no .endm"),
        (".rept 2\nnop", 1, "no .endr"),
        (".macro m a:req\n.endm\nm", 3, "needs its argument a"),
        (".macro m a\n.endm\nm 1, 2", 3, "takes 1 arguments"),
        (".macro m a\n.endm\nm rax rbx", 3, "quote it"),
        (".macro m\nm\n.endm\nm", 2, "nest deeper"),
        (".rept -1\n.endr", 1, ".rept"),
        ('.include "none.s"', 1, "unknown directive"),
        (".quad", 1, "one value"),
        (".byte 256", 1, "does not fit 1 bytes"),
        (".ascii abc", 1, "double quotes"),
        ('.ascii "\\q"', 1, "unknown escape"),
        (".balign 3", 1, "power of two"),
        (".data\n.quad 1 +", 2, "ends too early"),
        (".quad (1", 1, "missing )"),
        (".quad 1/0", 1, "division by zero"),
        (".quad a*b\na: nop\nb: nop", 1, "not addresses"),
        (".quad rax", 1, "register rax"),
        ("rax: nop", 1, "is a register"),
        ("mod: nop", 1, "is an operator"),
        (".equ shl, 1", 1, "is an operator"),
        ('.error "stop"', 1, "stop"),
        (".frobnicate 1", 1, "unknown directive"),
        ("nop\n%%", 2, "cannot read"),
        ("mov eax, 5 6", 1, "unexpected '6'"),
        (".skip -1", 1, "between 0"),
        (".popsection", 1, "without .pushsection"),
        ("lock", 1, "without an instruction"),
        (".data\nx: .byte x", 2, "does not fit 8 bits"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_stands(text: str, line: int, words: str) -> None:
    with pytest.raises(AsmError) as caught:
        assemble(text, 0x1000)
    assert caught.value.line == line
    assert words in caught.value.message


def test_a_value_beyond_32_bits_says_how_to_load_it() -> None:
    with pytest.raises(AsmError, match="write movabs reg, offset symbol"):
        assemble("here: mov rax, offset here", 0x123456789000)


def test_a_symbol_redefined_later_cannot_be_used_before() -> None:
    assert "used before .set" in error(".quad n\n.set n, 1\n.set n, 2").message


def test_symbols_defined_by_each_other_are_refused() -> None:
    assert "defined by itself" in error(".quad a\n.equ a, b\n.equ b, a").message


def test_precedence_is_that_of_gnu_as() -> None:
    assert assemble(".byte 1+2&3, 1<<3+1, 2*3+4, 1|2==3, -7/2+10, ~0&0xf, 'a', '#'") == bytes(
        [3, 9, 10, 255, 7, 15, 97, 35]
    )


def test_strings_keep_what_looks_like_comments_and_separators() -> None:
    assert assemble('.ascii "a#b;/*c*/", "\\n\\0\\x41\\101\\""') == b'a#b;/*c*/\n\0AA"'


def test_labels_and_statements_share_lines() -> None:
    assert assemble("a: b: nop\nc: .byte 1\nd:\n.equ e, 2\n.byte e").hex() == "900102"


@pytest.mark.parametrize("text", ["(" * 400 + "1" + ")" * 400, "-" * 5000 + "1", "~" * 200 + "(1)"])
def test_an_expression_without_an_end_is_an_error_of_its_line(text: str) -> None:
    with pytest.raises(AsmError, match="nests deeper than 100"):
        assemble(f".quad {text}", 0)
    assert assemble(".quad " + "(" * 90 + "1" + ")" * 90, 0) == assemble(".quad 1" + "+1-1" * 500, 0)
