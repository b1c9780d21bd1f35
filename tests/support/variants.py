"""Kernel images with one passage of a source file changed, or with a program of a test's own."""

from __future__ import annotations

from pathlib import Path

from kstack.guest.asm import KERNEL_LAYOUT, build
from kstack.guest.images import CORE, ENTRY, KERNEL, sources


def changed_image(name: str, folder: Path, file: str, old: str, new: str) -> bytes:
    """A built-in image in which `old`, which must be there once, reads `new` in one source file.

    Args:
        name: of the image.
        folder: where the changed file is written.
        file: name of the source file.
        old: the passage.
        new: what takes its place.
    """
    return _build(list(sources(name)), folder, file, old, new)


def own_image(program: str, folder: Path, file: str = "", old: str = "", new: str = "") -> bytes:
    """The kernel linked with a test's own program (as `guest/kernel/main.s` wants a scenario), perhaps changed."""
    path = folder / "program.s"
    path.write_text(program)
    return _build([*(KERNEL / f"{part}.s" for part in CORE), path], folder, file, old, new)


def _build(paths: list[Path], folder: Path, file: str, old: str, new: str) -> bytes:
    for number, path in enumerate(paths):
        if path.name == file:
            text = path.read_text()
            assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
            paths[number] = folder / file
            paths[number].write_text(text.replace(old, new))
    return build(paths, layout=KERNEL_LAYOUT, entry=ENTRY, include=[KERNEL]).to_elf()
