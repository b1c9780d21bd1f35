"""What an ELF file says of itself (System V ABI, chapters 4 and 5), as far as a loader needs it.

Each count and size is checked against the file before it is believed, so that reading takes time and memory in
proportion to the file's length, whatever stands in it.

Not read: big-endian files, PN_XNUM and SHN_XINDEX (65,535 headers or more), relocations.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from kstack.base.errors import ImageError
from kstack.load.layout import ImagePart
from kstack.load.symbols import Symbol, Symbols

EM_386, EM_X86_64 = 3, 62
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_INTERP, PT_NOTE, PVH_NOTE = 1, 3, 4, 18
MACHINES: Final = {2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "S/390", 40: "ARM", 43: "SPARC 64"} | {
    50: "IA-64",
    183: "AArch64",
    243: "RISC-V",
    247: "BPF",
    258: "LoongArch",
}
OTHER_TYPES: Final = {
    ET_REL: "relocatable object, not linked yet; link it with ld",
    ET_CORE: "core dump; give the executable",
}
SHT_SYMTAB: Final = 2
SHN_UNDEF, SHN_ABS = 0, 0xFFF1
STT_FUNC, STT_FILE = 2, 4
MAX_HEADERS: Final = 0xFFFE
MAX_SYMBOLS: Final = 1_000_000
MAX_NOTES: Final = 1000  # that are looked at
OVERLAP: Final = 4  # how often the bytes of a file, or of its names, may be used on average


class _Segment(NamedTuple):
    kind: int
    offset: int
    virtual: int
    physical: int
    file_bytes: int
    memory_bytes: int


class _Section(NamedTuple):
    kind: int
    offset: int
    bytes: int
    link: int


class ElfFile:
    """An x86 ELF executable.

    Args:
        image: the file's bytes, which begin with the magic number.
        name: what to call it in errors.

    Raises:
        ImageError: it is damaged, or no x86 executable.
    """

    def __init__(self, image: bytes, name: str) -> None:
        self._image, self._name = image, name
        self._type = self._check_ident()
        self.bits = 32 * image[4]
        self.entry: int
        form = "<3Q4x6H" if self.bits == 64 else "<3I4x6H"
        header = struct.unpack(form, self._part(24, struct.calcsize(form), "header"))
        self.entry, phoff, shoff, _, phentsize, phnum, shentsize, shnum, _ = header
        self._segments = [self._segment(at) for at in self._table(phoff, phentsize, phnum, 56, 32, "program")]
        self._sections = [self._section(at) for at in self._table(shoff, shentsize, shnum, 64, 40, "section")]

    def _check_ident(self) -> int:
        """The file's type; what is no x86 executable is named."""
        image, name = self._image, self._name
        if len(image) < 20 or image[4] not in (1, 2) or image[5] not in (1, 2):
            raise ImageError(f"{name}: damaged ELF file (its first 20 bytes are those of no ELF file)")
        kind: int
        machine: int
        kind, machine = struct.unpack_from("<HH" if image[5] == 1 else ">HH", image, 16)
        if image[5] != 1 or machine not in (EM_386, EM_X86_64):
            other = MACHINES.get(machine, f"a machine of number {machine}")
            raise ImageError(f"{name}: ELF file for {other}, and this is an x86-64 machine; build it for x86")
        if kind not in (ET_EXEC, ET_DYN):
            what = OTHER_TYPES.get(kind, f"file of type {kind}, which is no executable; link it with ld")
            raise ImageError(f"{name}: ELF {what}")
        return kind

    @property
    def is_relocatable(self) -> bool:
        """Whether it is position-independent, so that its addresses wait for a loader to move them."""
        return self._type == ET_DYN

    @property
    def wants_linker(self) -> bool:
        """Whether it names a dynamic linker, as programs for an operating system do."""
        return any(segment.kind == PT_INTERP for segment in self._segments)

    def _part(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > len(self._image):
            raise ImageError(f"{self._name}: damaged ELF file (its {what} is to end at byte {offset + size:#x})")
        return self._image[offset : offset + size]

    def _table(self, offset: int, size: int, count: int, size64: int, size32: int, what: str) -> Iterator[int]:
        """Where the headers of a kind lie."""
        if not count or not offset:
            return iter(())
        wanted = size64 if self.bits == 64 else size32
        if count > MAX_HEADERS or size != wanted:
            raise ImageError(f"{self._name}: damaged ELF file ({count} {what} headers of {size} bytes)")
        self._part(offset, size * count, f"{what} header table")
        return iter(range(offset, offset + size * count, size))

    def _segment(self, at: int) -> _Segment:
        if self.bits == 64:
            kind, _, offset, virtual, physical, file_bytes, memory_bytes = struct.unpack_from(
                "<IIQQQQQ", self._image, at
            )
        else:
            kind, offset, virtual, physical, file_bytes, memory_bytes = struct.unpack_from("<6I", self._image, at)
        return _Segment(kind, offset, virtual, physical, file_bytes, memory_bytes)

    def _section(self, at: int) -> _Section:
        form = "<4xI8x8xQQI" if self.bits == 64 else "<4xI4x4xIII"
        return _Section(*struct.unpack_from(form, self._image, at))

    def loads(self) -> list[ImagePart]:
        """The loadable segments, at their physical addresses.

        Raises:
            ImageError: one lies beyond the end of the file, or they use the same bytes over and over.
        """
        found = self._loads()
        if any(segment.memory_bytes < segment.file_bytes for segment in found):
            raise ImageError(f"{self._name}: damaged ELF file (a segment is smaller in memory than in the file)")
        if sum(segment.file_bytes for segment in found) > OVERLAP * len(self._image):
            raise ImageError(f"{self._name}: damaged ELF file (its segments are larger than the file)")
        return [ImagePart(s.physical, self._part(s.offset, s.file_bytes, "segment"), s.memory_bytes) for s in found]

    def _loads(self) -> list[_Segment]:
        return [segment for segment in self._segments if segment.kind == PT_LOAD]

    def physical_entry(self) -> int:
        """Where its entry is in physical memory: e_entry may be a virtual address of a segment, else it is that itself."""
        for segment in self._loads():
            if segment.virtual <= self.entry < segment.virtual + segment.memory_bytes:
                return self.entry - segment.virtual + segment.physical
        return self.entry

    def pvh_entry(self) -> int | None:
        """The physical entry that its PVH note names, or None.

        Raises:
            ImageError: a note segment lies beyond the end of the file.
        """
        for owner, kind, words in self._notes():
            if owner == b"Xen\0" and kind == PVH_NOTE and len(words) >= 4:
                return int.from_bytes(words[: self.bits // 8], "little")
        return None

    def _notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Owner, type and descriptor of each note; what does not fit into its segment ends it."""
        left = MAX_NOTES
        for segment in self._segments:
            if segment.kind != PT_NOTE:
                continue
            at, end = segment.offset, segment.offset + segment.file_bytes
            self._part(at, segment.file_bytes, "note segment")
            while at + 12 <= end and left:
                name_bytes, words, kind = struct.unpack_from("<3I", self._image, at)
                name, descriptor = at + 12, at + 12 + (name_bytes + 3 & ~3)
                at = descriptor + (words + 3 & ~3)
                left -= 1
                if descriptor + words <= end:
                    yield self._image[name : name + name_bytes], kind, self._image[descriptor : descriptor + words]

    def symbols(self) -> Symbols:
        """Its symbol table's first million of entries; those of files and of no section are left out.

        Raises:
            ImageError: the table is damaged.
        """
        table = next((section for section in self._sections if section.kind == SHT_SYMTAB), None)
        if table is None:
            return Symbols([])
        if table.link >= len(self._sections):
            raise ImageError(f"{self._name}: damaged ELF file (its symbols have no names)")
        names = self._sections[table.link]
        strings = self._part(names.offset, names.bytes, "string table")
        form = struct.Struct("<IBxHQQ" if self.bits == 64 else "<IIIBxH")
        size = min(table.bytes // form.size, MAX_SYMBOLS) * form.size
        found, spent = [], 0
        for fields in form.iter_unpack(self._part(table.offset, size, "symbol table")):
            if self.bits == 64:
                at, info, section, value, length = fields
            else:
                at, value, length, info, section = fields
            if not at or section in (SHN_UNDEF, SHN_ABS) or info & 15 == STT_FILE:
                continue
            end = strings.find(b"\0", at)
            spent += end - at
            if not 0 <= at <= end or spent > OVERLAP * len(strings):
                raise ImageError(f"{self._name}: damaged ELF file (a symbol's name is not in its string table)")
            if end > at:
                text = strings[at:end].decode("utf-8", "replace")
                found.append(Symbol(text, value, length, info & 15 == STT_FUNC))
        return Symbols(found)
