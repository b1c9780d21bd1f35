"""The same program through GNU as and ld, to compare with: nothing here is used to build.

The reference for what the dialect means.  Needs binutils (``as`` and ``ld``); `available` says
whether they are there.  The sources become one unit, as if one file included them in order.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kstack.guest.asm.errors import NOWHERE, AsmError
from kstack.guest.asm.layout import Access, Layout

_BUILT_IN = frozenset({".text", ".rodata", ".data", ".bss"})
_PT_LOAD = 1


def available() -> bool:
    """Whether GNU as and ld are installed."""
    return shutil.which("as") is not None and shutil.which("ld") is not None


def script(layout: Layout) -> str:
    """The linker script that says what a layout says."""
    lines = ["SECTIONS {"]
    for p in layout.placements:
        at = f"{p.address - p.offset:#x}" if p.address is not None else f"ALIGN(__lma, {p.align})"
        kind = " (NOLOAD)" if p.nobits else ""
        name = p.name.lstrip(".").replace(".", "_")
        lines += [
            f"  __lma = {at};",
            f"  {p.name} (__lma + {p.offset:#x}){kind} : AT(__lma) {{ *({p.name} {p.name}.*) }}",
            f"  __{name}_start = ADDR({p.name});",
            f"  __{name}_end = ADDR({p.name}) + SIZEOF({p.name});",
            f"  __lma = __lma + SIZEOF({p.name});",
        ]
    return "\n".join([*lines, "  /DISCARD/ : { *(.note.gnu.property) *(.comment) }", "}", ""])


def unit(sources: Sequence[str], layout: Layout, bits: int = 64) -> str:
    """The sources as one text for GNU as, with the flags of sections that it does not know."""
    lines = [".intel_syntax noprefix"]
    for p in layout.placements:
        if p.name not in _BUILT_IN:
            letters = "a" + "w" * (Access.W in p.access) + "x" * (Access.X in p.access)
            kind = "@note" if p.name == ".note" else "@progbits"
            lines.append(f'.section {p.name},"{letters}",{kind}')
    for source in sources:
        lines.append(f".text\n.code{bits}\n{source}")
    return "\n".join(lines) + "\n"


def link(
    sources: Sequence[str],
    layout: Layout,
    bits: int = 64,
    include: Sequence[Path] = (),
    defines: Mapping[str, int] | None = None,
) -> dict[int, int]:
    """Physical address to byte, as GNU as and ld make it.

    Parameters as of `guest.asm.build`, with texts for files.
    Raises AsmError with their message where they refuse.
    """
    options = [f"-I{folder.resolve()}" for folder in include]
    options += [f"--defsym={name}={value}" for name, value in (defines or {}).items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "unit.s").write_text(unit(sources, layout, bits))
        (folder / "unit.ld").write_text(script(layout))
        _run(["as", "--64", "-n", "-msyntax=intel", "-mnaked-reg", *options, "unit.s", "-o", "unit.o"], folder)
        flags = ["-m", "elf_x86_64", "-n", "--build-id=none", "--no-warn-rwx-segments", "-e", "0"]
        _run(["ld", *flags, "-T", "unit.ld", "unit.o", "-o", "unit.elf"], folder)
        return _loaded((folder / "unit.elf").read_bytes())


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AsmError(NOWHERE, f"{command[0]} failed: {done.stderr}")


def _loaded(elf: bytes) -> dict[int, int]:
    """Physical address to byte of every PT_LOAD segment's bytes in the file."""
    table, count = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
    found: dict[int, int] = {}
    for i in range(count):
        kind, _, offset, _, paddr, size = struct.unpack_from("<IIQQQQ", elf, table + 56 * i)
        if kind == _PT_LOAD:
            found |= dict(enumerate(elf[offset : offset + size], paddr))
    return found


def differences(ours: bytes, base: int, theirs: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """(address, our byte, their byte) where a flat image from ``base`` differs.

    A byte that only one side has counts as 0: both pad between sections with zeros.
    """
    mine = dict(enumerate(ours, base))
    both = sorted(mine.keys() | theirs.keys())
    return [(a, mine.get(a, 0), theirs.get(a, 0)) for a in both if mine.get(a, 0) != theirs.get(a, 0)]
