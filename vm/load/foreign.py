"""Files that are no images of kstack's, by name, each with the way out."""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import Final

_UNPACK: Final = "unpack it, and give the kernel in it"
_LINUX: Final = "kstack does not load it yet; give the ELF file vmlinux of the same build (CONFIG_PVH=y)"
_ELF: Final = "link the kernel as an ELF file"

# Where, which bytes, what it is, and what to do; the first that fits says it.
_KNOWN: Final[tuple[tuple[int, bytes, str, str], ...]] = (
    (0x202, b"HdrS", "a Linux kernel image (bzImage)", _LINUX),
    (0x38, b"ARMd", "a Linux kernel image for AArch64", "this is an x86-64 machine; build it for x86"),
    (0x8001, b"CD001", "a CD image (ISO 9660)", "there is no CD drive and no BIOS; give the kernel that is on it"),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", _UNPACK),
    (0, b"\x02\x21\x4c\x18", "compressed with lz4", _UNPACK),
    (0, b"\x5d\0\0", "compressed with lzma", _UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (0x101, b"ustar", "a tar archive", _UNPACK),
    (0, b"070701", "a cpio archive (initramfs)", "give the kernel"),
    (0, b"!<arch>\n", "a static library", "link it with ld"),
    (0, b"\x27\x05\x19\x56", "an image for U-Boot", _UNPACK),
    (0, b"ANDROID!", "an Android boot image", _UNPACK),
    (0, b"QFI\xfb", "a disk image (qcow2)", "there is no disk; give the kernel that is on it"),
    (0, b"MZ", "a PE or EFI executable", f"there is no EFI firmware; {_ELF}"),
    (0, b"\xcf\xfa\xed\xfe", "a Mach-O file", _ELF),
    (0, b"\xce\xfa\xed\xfe", "a Mach-O file", _ELF),
    (0, b"\xfe\xed\xfa\xcf", "a Mach-O file", _ELF),
    (0, b"\xfe\xed\xfa\xce", "a Mach-O file", _ELF),
    (0, b"\xca\xfe\xba\xbe", "a universal Mach-O file", _ELF),
    (0, b"#!", "a script", "give the image that it builds or runs"),
)
_TEXT_BYTES: Final = 4096  # that are looked at


def what_it_is(image: bytes) -> str | None:
    """What a file is that is certainly no image, and what to do; None if it is not known."""
    for at, magic, what, then in _KNOWN:
        if image.startswith(magic, at):
            return f"{what}; {then}"
    return None


def what_text_it_is(image: bytes) -> str | None:
    """The same of a file of text."""
    try:
        text = getincrementaldecoder("utf-8")().decode(image[:_TEXT_BYTES])  # the last letter may be cut
    except UnicodeDecodeError:
        return None
    if not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    if text.lstrip().startswith("{"):
        return "a JSON document; a recording is repeated by kstack replay"
    return "a text file; assemble or compile it first"
