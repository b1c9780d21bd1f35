"""The ELF file is read by pyelftools, binutils and gdb, and booted by QEMU."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from kstack.guest.asm import KERNEL_LAYOUT, Image, build_text

HIGH = 0xFFFFFFFF80000000

SOURCE = """
.equ HIGH, 0xffffffff80000000
.section .note
    .balign 4
    .long 4, 8, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start
.section .boot
.code32
.globl start
start:
    mov dx, 0x3f8
    mov esi, offset message - HIGH      # the high half is loaded at its physical address
.Lnext:
    mov al, [esi]
    test al, al
    jz .Ldone
    out dx, al
    inc esi
    jmp .Lnext
.Ldone:
    mov eax, 0x10
    out 0xf4, al
    hlt
    jmp .Ldone
.code64
.text
.type work, @function
work:
    mov rax, [rip+counter]
    ret
.size work, . - work
.section .rodata
message: .asciz "hi\\n"
.data
.type counter, @object
.size counter, 8
counter: .quad 5
.bss
    .balign 16
room: .skip 100
"""


@pytest.fixture(scope="module")
def image() -> Image:
    return build_text(SOURCE, KERNEL_LAYOUT, entry="start")


@pytest.fixture
def elf(image: Image, tmp_path: Path) -> Path:
    path = tmp_path / "kernel.elf"
    path.write_bytes(image.to_elf())
    return path


def system(tool: str) -> pytest.MarkDecorator:
    """Skip where a tool is not installed."""
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def output(*command: str | Path, code: int = 0) -> str:
    """What a command prints; it must exit with ``code`` and say nothing on stderr but notes."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "warning" not in done.stderr.lower()
    return done.stdout


def test_segments_are_loaded_where_the_layout_says(image: Image) -> None:
    read = ELFFile(io.BytesIO(image.to_elf()))
    assert read["e_entry"] == 0x100000
    assert read["e_type"] == "ET_EXEC"
    loads = [s for s in read.iter_segments() if s["p_type"] == "PT_LOAD"]
    assert [s.data() for s in loads] == [s.data for s in image.segments]
    by_name = dict(zip((s.name for s in image.sections), loads, strict=True))
    assert by_name[".boot"]["p_vaddr"] == by_name[".boot"]["p_paddr"] == 0x100000
    for name in (".text", ".rodata", ".data", ".bss"):
        assert by_name[name]["p_vaddr"] - by_name[name]["p_paddr"] == HIGH
        assert by_name[name]["p_vaddr"] % 4096 == 0
    flags = {name: segment["p_flags"] for name, segment in by_name.items()}
    assert flags == {".boot": 7, ".note": 4, ".text": 5, ".rodata": 4, ".data": 6, ".bss": 6}


def test_bss_takes_memory_but_no_bytes(image: Image) -> None:
    bss = list(ELFFile(io.BytesIO(image.to_elf())).iter_segments())[5]
    assert (bss["p_filesz"], bss["p_memsz"]) == (0, 100)


def test_file_offsets_agree_with_addresses_modulo_a_page(image: Image) -> None:
    for segment in ELFFile(io.BytesIO(image.to_elf())).iter_segments():
        if segment["p_filesz"]:
            assert segment["p_offset"] % segment["p_align"] == segment["p_vaddr"] % segment["p_align"]


def test_the_note_is_the_pvh_entry(image: Image) -> None:
    read = ELFFile(io.BytesIO(image.to_elf()))
    notes = [n for s in read.iter_segments() if s["p_type"] == "PT_NOTE" for n in s.iter_notes()]
    assert [(n["n_name"], n["n_descsz"]) for n in notes] == [("Xen", 8)]
    raw = read.get_section_by_name(".note").data()
    assert int.from_bytes(raw[16:24], "little") == image["start"] == 0x100000


def test_symbols_carry_value_size_type_and_section(image: Image) -> None:
    read = ELFFile(io.BytesIO(image.to_elf()))
    table = read.get_section_by_name(".symtab")

    def symbol(name: str) -> tuple[int, int, str, str]:
        found = table.get_symbol_by_name(name)[0]
        index = found["st_shndx"]
        section = read.get_section(index).name if isinstance(index, int) else index
        return found["st_value"], found["st_size"], found["st_info"]["type"], section

    assert symbol("work") == (image["work"], 8, "STT_FUNC", ".text")
    assert symbol("counter") == (image["counter"], 8, "STT_OBJECT", ".data")
    assert symbol("room") == (image["room"], 0, "STT_NOTYPE", ".bss")
    assert symbol("HIGH") == (HIGH, 0, "STT_NOTYPE", "SHN_ABS")
    assert not table.get_symbol_by_name(".Lnext")


def test_equal_sources_give_equal_files(image: Image) -> None:
    assert build_text(SOURCE, KERNEL_LAYOUT, entry="start").to_elf() == image.to_elf()


def test_addresses_lead_back_to_lines_and_labels(image: Image) -> None:
    line = SOURCE.split("\n").index("    ret") + 1
    place = image.place_at(image["work"] + 7)
    assert place is not None
    assert (place.file, place.line) == ("<text>", line)
    assert image.place_at(0x5000) is None
    found = image.symbol_at(image["work"] + 7)
    assert found is not None
    assert (found[0].name, found[1]) == ("work", 7)


def test_the_flat_image_holds_every_byte_at_its_physical_place(image: Image) -> None:
    flat = image.to_flat()
    for segment in image.segments:
        at = segment.paddr - 0x100000
        assert flat[at : at + len(segment.data)] == segment.data
    assert len(flat) == image["counter"] - HIGH - 0x100000 + 8


@pytest.mark.system
@system("readelf")
def test_readelf_has_no_complaint(elf: Path) -> None:
    text = output("readelf", "-aW", elf)
    assert "NT_VERSION" not in text or "Xen" in text
    assert "Warning" not in text
    assert "work" in text


@pytest.mark.system
@system("objdump")
def test_objdump_disassembles_by_symbol(elf: Path) -> None:
    text = output("objdump", "-d", "-Mintel", "--disassemble=work", elf)
    assert "<work>:" in text
    assert "<counter>" in text
    assert "ret" in text


@pytest.mark.system
@system("gdb")
def test_gdb_reads_symbols_and_data(elf: Path) -> None:
    commands = ["-ex", "info symbol work", "-ex", "x/gx &counter", "-ex", "x/2i work"]
    text = output("gdb", "-nx", "-batch", *commands, elf)
    assert "work in section .text" in text
    assert "0x0000000000000005" in text
    assert "<counter>" in text


@pytest.mark.system
@system("qemu-system-x86_64")
def test_qemu_boots_the_file_by_its_pvh_note(elf: Path) -> None:
    command = "qemu-system-x86_64 -accel tcg -display none -serial stdio -no-reboot -monitor none -kernel"
    device = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    assert output(*command.split(), elf, *device, code=0x10 * 2 + 1) == "hi\n"
