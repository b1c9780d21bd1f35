"""Other code in the place of an instruction, while it is translated: for what the translator takes for something else."""

from __future__ import annotations

import ctypes

from kstack.hw.engine.checks import Look
from kstack.hw.engine.stubs import Control


class Shown:
    """What one engine's translator is shown.

    Args:
        control: of the engine.
        ram: host address of the guest's RAM.
    """

    def __init__(self, control: Control, ram: int) -> None:
        self._control, self._ram = control, ram
        self._hidden: list[tuple[int, bytes]] = []  # physical address, what was there

    def show(self, look: Look) -> None:
        """Put other code in the place of an instruction, up to `unhide`."""
        shown = look.shown
        for address, size in look.places:
            part = shown[:size]
            self._hidden.append((address, ctypes.string_at(self._ram + address, len(part))))
            ctypes.memmove(self._ram + address, part, len(part))
            shown = shown[size:]
        self._control.hidden = 1

    def unhide(self) -> None:
        """Put back what was there."""
        for address, code in self._hidden:
            ctypes.memmove(self._ram + address, code, len(code))
        self._hidden.clear()
        self._control.hidden = 0
