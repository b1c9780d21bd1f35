"""The debug exit port, by which a test guest ends its run (QEMU's isa-debug-exit; no SDM section).

The first value written is the guest's result. QEMU ends there with the process status
`value << 1 | 1`, so that 0 never means success by accident.

Not modelled: ending the run, which the machine does when it sees `code`.
"""

from __future__ import annotations

from typing import Final

DEBUG_EXIT_PORT: Final = 0xF4
DEBUG_EXIT_PORTS: Final = 4


class DebugExit:
    """The port; `code` is None until a guest writes to it."""

    label = "debug-exit"
    port_sizes = (1, 2, 4)

    def __init__(self) -> None:
        self.code: int | None = None

    @property
    def status(self) -> int | None:
        """The exit status of a QEMU process for the same guest."""
        return None if self.code is None else self.code << 1 | 1

    def read(self, offset: int, size: int) -> int:
        """Zero: the port gives nothing back."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest's result; later ones are ignored, QEMU would be gone."""
        if self.code is None:
            self.code = value

    def snapshot(self) -> int | None:
        """The code."""
        return self.code

    def restore(self, state: int | None) -> None:
        """Become what `snapshot` returned."""
        self.code = state
