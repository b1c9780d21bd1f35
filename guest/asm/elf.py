"""Images as ELF64 executables for x86-64, as in the System V ABI and its AMD64 supplement.

One PT_LOAD for each section, PT_NOTE for sections named ``.note`` (where QEMU looks for the
PVH entry point), ``.symtab``, ``.strtab``, ``.shstrtab``.  Not written: DWARF, relocations.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kstack.guest.asm.layout import PAGE, Access
from kstack.guest.asm.output import OutputSection, Symbol

_EHDR, _PHDR, _SHDR, _SYM = 64, 56, 64, 24
_ET_EXEC, _EM_X86_64 = 2, 62
_PT_LOAD, _PT_NOTE = 1, 4
_PROGBITS, _SYMTAB, _STRTAB, _NOTE, _NOBITS = 1, 2, 3, 7, 8
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_ABSOLUTE = 0xFFF1
_GLOBAL = 1
_SYMBOL_TYPES = {"notype": 0, "object": 1, "func": 2}


@dataclass
class _Strings:
    """A string table: offset 0 is the empty name."""

    data: bytearray = field(default_factory=lambda: bytearray(1))

    def add(self, text: str) -> int:
        at = len(self.data)
        self.data += text.encode() + b"\0"
        return at


def _is_note(section: OutputSection) -> bool:
    return section.name == ".note" or section.name.startswith(".note.")


def _segment_flags(access: Access) -> int:
    return 4 * (Access.R in access) | 2 * (Access.W in access) | (Access.X in access)


def _section_flags(access: Access) -> int:
    return _ALLOC | _WRITE * (Access.W in access) | _EXECUTE * (Access.X in access)


def write(sections: Sequence[OutputSection], symbols: Mapping[str, Symbol], entry: int) -> bytes:
    """The ELF file's bytes.

    Parameters: the sections, in order; symbols by name; the virtual address of the entry.
    """
    notes = [s for s in sections if _is_note(s)]
    headers = len(sections) + len(notes)
    out = bytearray(_EHDR + headers * _PHDR)
    offsets: list[int] = []
    for section in sections:
        out += bytes((section.vaddr - len(out)) % PAGE if section.data else 0)
        offsets.append(len(out))
        out += section.data
    at = dict(zip((s.name for s in sections), offsets, strict=True))
    table = b"".join(_program_header(_PT_LOAD, s, at[s.name], PAGE) for s in sections)
    table += b"".join(_program_header(_PT_NOTE, s, at[s.name], 4) for s in notes)
    out[_EHDR : _EHDR + len(table)] = table
    shoff, count = _append_sections(out, sections, symbols, offsets)
    out[:_EHDR] = _header(entry, headers, shoff, count)
    return bytes(out)


def _header(entry: int, headers: int, shoff: int, count: int) -> bytes:
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    return ident + struct.pack(
        "<HHIQQQIHHHHHH", _ET_EXEC, _EM_X86_64, 1, entry, _EHDR, shoff, 0,
        _EHDR, _PHDR, headers, _SHDR, count, count - 1,
    )  # fmt: skip


def _program_header(kind: int, section: OutputSection, offset: int, align: int) -> bytes:
    return struct.pack(
        "<IIQQQQQQ", kind, _segment_flags(section.access), offset, section.vaddr, section.paddr,
        len(section.data), section.size, align if section.data else 1,
    )  # fmt: skip


def _append_sections(
    out: bytearray, sections: Sequence[OutputSection], symbols: Mapping[str, Symbol], offsets: list[int]
) -> tuple[int, int]:
    """Append the tables and section headers; where the headers are and how many."""
    names = _Strings()
    rows = [bytes(_SHDR)]
    for section, offset in zip(sections, offsets, strict=True):
        kind = _NOTE if _is_note(section) else _PROGBITS if section.data else _NOBITS
        flags = _section_flags(section.access)
        rows.append(_row(names.add(section.name), kind, flags, section.vaddr, offset, section.size))
    table, strings, local = _symbol_table(sections, symbols)
    strtab = len(rows) + 1
    out += bytes(-len(out) % 8)
    rows.append(_row(names.add(".symtab"), _SYMTAB, 0, 0, len(out), len(table), strtab, local, 8, _SYM))
    out += table
    rows.append(_row(names.add(".strtab"), _STRTAB, 0, 0, len(out), len(strings)))
    out += strings
    name = names.add(".shstrtab")
    rows.append(_row(name, _STRTAB, 0, 0, len(out), len(names.data)))
    out += names.data
    out += bytes(-len(out) % 8)
    where = len(out)
    out += b"".join(rows)
    return where, len(rows)


def _row(
    name: int, kind: int, flags: int, address: int, offset: int, size: int,
    link: int = 0, info: int = 0, align: int = 1, entry: int = 0,
) -> bytes:  # fmt: skip
    return struct.pack("<IIQQQQIIQQ", name, kind, flags, address, offset, size, link, info, align, entry)


def _symbol_table(sections: Sequence[OutputSection], symbols: Mapping[str, Symbol]) -> tuple[bytes, bytes, int]:
    """The symbol table, its strings, and the index of its first global symbol."""
    strings = _Strings()
    index = {s.name: i for i, s in enumerate(sections, 1)}
    rows = [bytes(_SYM)]
    for symbol in sorted(symbols.values(), key=lambda s: (s.value, s.name)):
        rows.append(_symbol(symbol, strings, index))
    return b"".join(rows), bytes(strings.data), 1


def _symbol(symbol: Symbol, strings: _Strings, index: dict[str, int]) -> bytes:
    info = _GLOBAL << 4 | _SYMBOL_TYPES[symbol.type]
    section = index.get(symbol.section, _ABSOLUTE)
    return struct.pack("<IBBHQQ", strings.add(symbol.name), info, 0, section, symbol.value, symbol.size)
