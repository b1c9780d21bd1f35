"""A policy whose hook goes on where a step of it has failed."""

from __future__ import annotations

from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.stacks import Steps, Thread, map_pages


class GoesOn(SwitchSpIpi):
    """Tries again, a few times."""

    id = "goes-on"

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        for _ in range(3):
            try:
                yield from map_pages(thread.pages)
            except Exception:  # noqa: BLE001 - whatever it is
                continue
            return
