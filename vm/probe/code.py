"""The machine code that is tried: gadgets.s by kstack's own assembler, to lie at any address."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from kstack.guest.asm import Layout, build

SOURCE: Final = Path(__file__).parent / "gadgets.s"


class Gadgets(NamedTuple):
    """The routines.

    Attributes:
        code: all of them; it refers to itself by distances alone.
        at: offset of each, by name.
    """

    code: bytes
    at: dict[str, int]


@cache
def gadgets() -> Gadgets:
    """The routines, assembled."""
    image = build([SOURCE], Layout.flat(0))
    labels = {name: symbol.value for name, symbol in image.symbols.items() if symbol.section == ".text"}
    return Gadgets(
        image.to_flat(), {name: at for name, at in labels.items() if name.isidentifier() and "__" not in name}
    )
