"""Sections, symbols and branches are joined over files as the layout says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.guest.asm import KERNEL_LAYOUT, Access, AsmError, Layout, Placement, assemble, begin, build, build_text

HIGH = 0xFFFFFFFF80000000
RX = Access.R | Access.X
FLAT = Layout.flat(0x1000)
PAGED = Layout(
    (
        Placement(".text", RX, 0x1000),
        Placement(".data", Access.R | Access.W),
        Placement(".bss", Access.R | Access.W, nobits=True),
    )
)


def files(folder: Path, *texts: str) -> list[Path]:
    """Each text as a file of its own: a.s, b.s, ..."""
    paths = [folder / f"{chr(ord('a') + i)}.s" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def test_symbols_resolve_forwards_and_backwards_over_files(tmp_path: Path) -> None:
    image = build(files(tmp_path, "call there\nback: ret", "there: call back"), FLAT)
    assert image.to_flat().hex() == "e801000000" + "c3" + "e8faffffff"
    assert image["there"] == 0x1006


def test_sections_continue_over_files_in_order(tmp_path: Path) -> None:
    image = build(files(tmp_path, ".data\n.byte 1\n.text\nnop", "hlt\n.data\n.byte 2"), FLAT)
    assert image.to_flat() == b"\x90\xf4".ljust(16, b"\0") + b"\1\2"


def test_every_file_begins_in_text_and_the_first_mode(tmp_path: Path) -> None:
    image = build(files(tmp_path, ".data\n.code32\n.byte 1", "mov rax, rbx"), FLAT)
    assert image.sections[0].data.hex() == "4889d8"


def test_dot_l_labels_belong_to_their_file(tmp_path: Path) -> None:
    image = build(files(tmp_path, ".Lx: jmp .Lx", ".Lx: jmp .Lx"), FLAT)
    assert image.to_flat().hex() == "ebfeebfe"
    assert not [name for name in image.symbols if name.startswith(".L")]


def test_the_high_half_is_loaded_at_its_physical_address() -> None:
    text = ".section .boot\n.skip 5000\n.text\nmov rax, offset here\nhere: ret\n.data\n.quad here"
    image = build_text(text, KERNEL_LAYOUT)
    boot, code, data = image.sections
    assert (boot.vaddr, boot.paddr) == (0x100000, 0x100000)
    assert (code.vaddr, code.paddr) == (HIGH + 0x102000, 0x102000)
    assert (data.vaddr, data.paddr) == (HIGH + 0x103000, 0x103000)
    assert code.data.hex() == "48c7c007201080c3"
    assert int.from_bytes(data.data, "little") == image["here"] == HIGH + 0x102007


def test_bss_has_addresses_and_no_bytes() -> None:
    image = build_text("nop\n.bss\n.skip 3\n.balign 8\nv: .quad 0", FLAT)
    assert image["v"] == 0x1018
    assert image.to_flat() == b"\x90"
    assert (image.segments[-1].data, image.segments[-1].memsz) == (b"", 16)


@pytest.mark.parametrize("text", [".bss\n.byte 1", ".bss\nnop", ".bss\nx: .quad x"])
def test_bytes_in_bss_are_refused(text: str) -> None:
    with pytest.raises(AsmError, match="reserve space"):
        build_text(text, FLAT)


def test_alignment_is_kept_within_and_between_files(tmp_path: Path) -> None:
    image = build(files(tmp_path, "nop\n.align 4, 0xcc\na: hlt", ".align 8, 0x90\nb: hlt"), FLAT)
    assert image.to_flat().hex() == "90cccccc" + "f4909090" + "f4"
    assert (image["a"], image["b"]) == (0x1004, 0x1008)


def test_alignment_that_takes_more_than_its_limit_is_left_out() -> None:
    assert assemble("nop\n.align 16, 0x90, 4\nhlt").hex() == "90f4"


@pytest.mark.parametrize(("gap", "size"), [(127, 2), (128, 5)])
def test_a_jump_is_short_just_as_far_as_it_reaches(gap: int, size: int) -> None:
    code = assemble(f"jmp end\n.skip {gap}\nend: hlt")
    assert len(code) == size + gap + 1
    assert code[0] == (0xEB if size == 2 else 0xE9)


def test_a_jump_that_grows_can_make_another_grow() -> None:
    code = assemble("jmp away\njmp end\n.skip 123\nje back\nend: hlt\nback: .skip 200\naway: hlt")
    assert (code[0], code[5]) == (0xE9, 0xEB)
    code = assemble("l: jmp a\n.skip 123\njmp b\na: hlt\n.skip 200\nb: hlt")
    assert (code[0], code[128]) == (0xE9, 0xE9)


def test_a_jump_to_another_section_is_near() -> None:
    image = build_text("jmp there\n.data\nthere: nop", FLAT)
    assert image.to_flat()[:5].hex() == "e90b000000"


def test_a_loop_too_far_from_its_target_is_refused() -> None:
    with pytest.raises(AsmError, match=r"<text>:3: distance .* does not fit 8 bits"):
        assemble("l: nop\n.skip 200\nloop l")


def test_space_up_to_an_offset_depends_on_what_precedes_it() -> None:
    code = assemble("s: jmp s\n.skip 510-(.-s)\n.word 0xaa55", 0x7C00, 16)
    assert len(code) == 512
    assert code[510:] == b"\x55\xaa"
    with pytest.raises(AsmError, match="too long"):
        assemble("s: .skip 20\nje s\n.skip 10-(.-s)")


def test_labels_of_one_run_have_a_known_difference() -> None:
    assert assemble('m: .ascii "abc"\n.equ n, . - m\n.if n == 3\nmov cl, n\n.endif').endswith(b"\xb1\3")


def test_a_difference_over_a_branch_is_not_known_yet() -> None:
    with pytest.raises(AsmError, match="must be known here"):
        assemble("a: jmp a\n.equ n, . - a\n.if n\n.endif")


def test_a_distance_between_other_sections_is_refused() -> None:
    with pytest.raises(AsmError, match=r"<text>:4: GNU as cannot subtract"):
        assemble("f: nop\n.data\nv: .byte 0\n.quad v - f")
    with pytest.raises(AsmError, match="cannot subtract"):
        assemble("mov ecx, offset __bss_end - __bss_start\n.bss\n.skip 4")
    distance = assemble("f: ret\n.data\nv: .byte 0\n.quad f - v")[17:]
    assert int.from_bytes(distance, "little", signed=True) == -16


def test_defines_are_there_from_the_first_line() -> None:
    assert assemble("mov eax, N", defines={"N": 7}).hex() == "b807000000"


def test_includes_are_found_beside_the_file_and_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc" / "far.s").write_text(".equ DISTANT, 2")
    (tmp_path / "near.s").write_text(".equ CLOSE, 1")
    (tmp_path / "blob").write_bytes(b"0123456789")
    text = '.include "near.s"\n.include "far.s"\n.byte CLOSE, DISTANT\n.incbin "blob", 2, 3'
    image = build(files(tmp_path, text), FLAT, include=[tmp_path / "inc"])
    assert image.to_flat() == b"\1\x02234"


def test_boundaries_of_sections_are_symbols() -> None:
    text = "mov rax, offset __bss_start\n.data\n.quad __text_end\n.bss\n.skip 16"
    image = build_text(text, PAGED)
    assert image["__bss_end"] - image["__bss_start"] == 16
    assert image["__text_end"] - image["__text_start"] == 7


def test_a_section_without_a_placement_goes_before_bss() -> None:
    text = 'nop\n.section .boot\nhlt\n.bss\n.skip 8\n.section .extra, "aw"\nx: .quad 1'
    image = build_text(text, KERNEL_LAYOUT)
    assert [s.name for s in image.sections] == [".boot", ".text", ".extra", ".bss"]
    assert image["x"] == HIGH + 0x102000
    assert image.sections[2].access == Access.R | Access.W


def test_sections_that_overlap_are_refused() -> None:
    layout = Layout((Placement(".text", RX, 0x1000), Placement(".data", RX, 0x1004)))
    with pytest.raises(AsmError, match=r"\.data overlaps"):
        build_text(".skip 8, 0x90\n.data\n.byte 1", layout)


def test_the_entry_is_a_symbol_or_the_first_byte() -> None:
    assert build_text("nop\ngo: hlt", FLAT, entry="go").entry == 0x1001
    assert build_text("nop\ngo: hlt", FLAT).entry == 0x1000
    with pytest.raises(AsmError, match="gone is not defined; did you mean gone_on"):
        build_text("gone_on: nop", FLAT, entry="gone")


def test_two_programs_in_one_process_do_not_influence_each_other() -> None:
    first = assemble(".equ N, 1\n.macro m\nmov eax, N\n.endm\nm")
    with pytest.raises(AsmError):
        assemble("m")
    assert assemble(".equ N, 2\nmov eax, N") != first


def test_a_program_that_was_begun_before_is_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first.s", tmp_path / "second.s"
    first.write_text(
        ".equ SIZE, 3\n.macro both what\n.Lhere\\@:\n    .quad \\what, .Lhere\\@\n.endm\nstart:\n    both SIZE\n"
    )
    second.write_text("    both SIZE+1\n    jmp start\n.data\nlast:\n    .quad start\n")
    whole = build([first, second], entry="start").to_elf()
    begun = begin([first])
    assert [build([second], entry="start", begun=begun).to_elf() for _ in range(2)] == [whole, whole]
    assert build([first], entry="start").to_elf() != whole
