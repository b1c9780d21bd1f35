"""What the lazy TLB is not told of a managed page must not matter: else the page is refused."""

from __future__ import annotations

import pytest

from kstack.base.errors import ScenarioError
from kstack.explore.model.lazy_tlb import LazyTlb
from kstack.explore.model.page_tables import GuestPageTables
from kstack.hw.modes import VALUES
from kstack.x86.entries import LEVELS, A
from tests.support.long_mode import AREA, LongModeGuest


@pytest.mark.parametrize("speculation", VALUES["speculation"])
@pytest.mark.parametrize("level", [39, 30, 21, 12])
def test_where_fills_need_accessed_a_managed_page_with_an_upper_entry_without_it_is_refused(
    level: int, speculation: str
) -> None:
    guest = LongModeGuest(cpus=2)
    guest.map(AREA, guest.frame())
    where = guest.entry(AREA, level)
    guest.memory.write64(where, guest.memory.read64(where) & ~A)
    mmus = [cpu.mmu for cpu in guest.machine.cpus]
    lazy = LazyTlb(2, speculation, lambda _: True)

    def opened() -> GuestPageTables:
        return GuestPageTables(guest.memory, mmus, frozenset({AREA >> 12}), lazy, hex)

    if speculation == "needs-accessed" and level > 12:
        with pytest.raises(ScenarioError, match=f"page of {AREA:#x} is reached on CPU 0 by a {LEVELS[level]} with Acc"):
            opened()
        guest.load(AREA, cpu=1)
    assert list(opened().leaves.values()) == [(AREA >> 12,)]
