"""One instruction as text."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from kstack.hw.cpu.decode import disassembler

_UNKNOWN_TO_CAPSTONE: Final = {
    bytes.fromhex("f20f01ca"): "erets",  # FRED specification 6.2
    bytes.fromhex("f30f01ca"): "eretu",
    bytes.fromhex("0f01fe"): "invlpgb",  # AMD APM volume 3
    bytes.fromhex("0f01ff"): "tlbsync",
}
_WIDTHS: Final = (64, 32, 16)


@lru_cache(maxsize=65536)
def disassembly(code: bytes, rip: int = 0, bits: int | None = None) -> tuple[str, str]:
    """Name and operands of one instruction; `.byte` where Capstone knows none.

    Args:
        code: its bytes.
        rip: its linear address.
        bits: how wide the code is; None where a trace does not say so: the first of 64, 32 and 16 in which the instruction
            has all its bytes.
    """
    if code in _UNKNOWN_TO_CAPSTONE:
        return _UNKNOWN_TO_CAPSTONE[code], ""
    for width in _WIDTHS if bits is None else (bits,):
        for _, size, name, operands in disassembler(width).disasm_lite(code, rip, 1):
            if size == len(code):
                return name, operands
    return ".byte", ", ".join(f"{byte:#04x}" for byte in code)


def mnemonic(code: bytes, bits: int | None = None) -> str:
    """The name of one instruction."""
    return disassembly(code, 0, bits)[0].removeprefix("rep ")
