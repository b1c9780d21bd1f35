"""Image formats: how a guest gets into memory and where it starts.

`load` looks at the bytes and picks the format; each format is a file: flat, ELF (PVH entry or plain
64-bit), multiboot 1.
"""

from __future__ import annotations

from vm.errors import ImageError
from vm.load import elf, flat, multiboot
from vm.load.symbols import Symbols
from vm.machine import Machine

MAX_IMAGE_BYTES = 256 << 20


def load(machine: Machine, image: bytes, name: str = "image") -> Symbols:
    """Put `image` into a machine's memory and set up its boot CPU.

    Args:
        machine: fresh, all CPUs at reset.
        image: the file's bytes.
        name: what to call it in errors.

    Returns:
        The image's symbols (none for formats without).

    Raises:
        ImageError: the file is no image, is damaged, or does not fit into RAM.
    """
    if not image:
        raise ImageError(f"{name}: the file is empty; give a flat binary, an ELF or a multiboot image")
    if len(image) > MAX_IMAGE_BYTES:
        raise ImageError(f"{name}: {len(image)} bytes are more than an image may have ({MAX_IMAGE_BYTES})")
    if image.startswith(b"\x7fELF"):
        return elf.load(machine, image, name)
    if multiboot.find_header(image) is not None:
        multiboot.load(machine, image, name)
    else:
        flat.load(machine, image, name)
    return Symbols([])


__all__ = ["Symbols", "load"]
