"""Image formats: how a guest gets into memory and where it starts.

`load` looks at the bytes and picks the format; each format is a file: flat, ELF (PVH entry, multiboot, or plain 64-bit),
multiboot 1. What is none of them is refused by name (docs/images.md).
"""

from __future__ import annotations

from typing import Final, Literal

from kstack.base.errors import ImageError
from kstack.load import elf, flat, foreign, multiboot
from kstack.load.boot_state import after_firmware
from kstack.load.symbols import Symbols
from kstack.machine import Machine

Format = Literal["auto", "flat"]
"""What a file is taken for: by what stands in it; or for 16-bit code, whatever stands in it."""
ELF_MAGIC: Final = b"\x7fELF"


def load(machine: Machine, image: bytes, name: str = "image", format: Format = "auto") -> Symbols:
    """Put `image` into a machine's memory and set up its boot CPU.

    Args:
        machine: fresh, all CPUs at reset.
        image: the file's bytes.
        name: what to call it in errors.
        format: what to take it for.

    Returns:
        The image's symbols (none for formats without).

    Raises:
        ImageError: the file is no image, is damaged, or does not fit into RAM.
    """
    if not image:
        raise ImageError(f"{name}: the file is empty; give an ELF file, a multiboot image or a boot sector")
    after_firmware(machine)
    if format == "flat":
        flat.load(machine, image, name)
    elif image.startswith(ELF_MAGIC):
        return elf.load(machine, image, name)
    elif (header := multiboot.find_header(image)) is not None:
        multiboot.load(machine, image, name, header)
    elif (what := foreign.what_it_is(image)) is not None:
        raise ImageError(f"{name}: {what}")
    elif flat.is_signed(image):
        flat.load(machine, image, name)
    else:
        raise ImageError(f"{name}: {foreign.what_text_it_is(image) or _NOTHING}")
    return Symbols([])


_NOTHING: Final = (
    "no ELF file, no multiboot header, and no boot sector (bytes 510 and 511 are not 0x55 and 0xaa); if it is 16-bit code "
    "for 0000:7c00, give --format flat"
)

__all__ = ["Format", "Symbols", "load"]
