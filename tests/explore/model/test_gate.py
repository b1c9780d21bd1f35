"""A gate stops its CPU before what another CPU could tell, and nowhere else."""

from __future__ import annotations

from typing import Final

import pytest

from kstack.explore.model.gate import Gate, Held, Visible
from kstack.explore.model.lazy_tlb import LazyTlb
from kstack.x86.access import Access
from kstack.x86.addresses import PAGE
from kstack.x86.entries import G
from tests.support.long_mode import AREA, PLAIN, LongModeGuest

MANAGED: Final = 0x7000
PRIVATE: Final = 0x5008


def gates(visible: Visible) -> list[Gate]:
    lazy = LazyTlb(2, "none", lambda address: address >> 12 == MANAGED >> 12)
    return [Gate(cpu, visible, lazy) for cpu in range(2)]


def test_a_page_that_one_cpu_touches_stops_nobody() -> None:
    visible = Visible()
    first, _ = gates(visible)
    assert not first.stops_access(PRIVATE, Access.STORE)
    assert not first.stops_access(PRIVATE, Access.LOAD)
    assert first.held is None
    assert not visible.grown


def test_a_page_becomes_visible_when_a_second_cpu_touches_it() -> None:
    visible = Visible()
    first, second = gates(visible)
    first.stops_access(PRIVATE, Access.LOAD)
    assert second.stops_access(PRIVATE, Access.STORE)
    assert visible.grown
    assert second.held == Held("access", PRIVATE, write=True)
    assert first.stops_access(PRIVATE + 8, Access.LOAD)
    assert first.held == Held("access", PRIVATE + 8)


@pytest.mark.parametrize("access", [Access.LOAD, Access.STORE])
def test_a_managed_page_always_stops(access: Access) -> None:
    visible = Visible()
    first, _ = gates(visible)
    assert first.stops_access(MANAGED, access)
    assert not visible.grown


def test_fetches_stop_nobody_and_make_nothing_visible() -> None:
    visible = Visible()
    for gate in gates(visible):
        assert not gate.stops_access(PRIVATE, Access.FETCH)
    assert not visible.grown


def test_a_fetch_from_a_managed_page_is_refused_by_name() -> None:
    gate, _ = gates(Visible())
    assert gate.stops_access(MANAGED, Access.FETCH)
    assert "executes from the managed page of 0x7000" in gate.refused


def test_a_page_that_is_managed_for_one_cpu_and_touched_by_another_is_visible() -> None:
    visible = Visible()
    first, second = gates(visible)
    assert first.accesses(MANAGED, PRIVATE, Access.LOAD)
    assert not visible.grown
    assert second.stops_access(PRIVATE, Access.LOAD)
    assert visible.grown


def test_what_is_granted_goes_through() -> None:
    first, _ = gates(Visible())
    assert first.stops_instruction("invlpg")
    assert first.held == Held("invlpg")
    first.granted, first.held = True, None
    assert not first.stops_instruction("invlpg")
    assert not first.stops_access(MANAGED, Access.STORE)
    assert first.held is None


def test_pages_touched_lately_are_remembered_until_they_are_cleared() -> None:
    visible = Visible()
    first, _ = gates(visible)
    for address in (0x3000, 0x1000, 0x3008):
        first.is_visible(address)
    assert list(visible.recent) == [3, 1]


# --- on a machine


def explored() -> tuple[LongModeGuest, Gate]:
    """A guest with two pages, the second of them managed, and a gate that lets everything through."""
    guest = LongModeGuest()
    for page in range(2):
        guest.map(AREA + page * PAGE, guest.frame(), PLAIN)
    lazy = LazyTlb(1, "none", lambda address: address // PAGE == AREA // PAGE + 1)
    gate = Gate(0, Visible(), lazy)
    gate.granted = True
    guest.machine.cpus[0].mmu.translator = gate
    return guest, gate


def test_strings_in_memory_that_the_engine_does_not_load_are_refused_by_name() -> None:
    guest, gate = explored()
    guest.start(guest.kernel_code("pcmpistri xmm0, xmmword ptr [rbx], 0\nhlt"), rbx=AREA)
    guest.machine.run(0, 1)
    assert gate.refused == "loads by pcmpistri, which is carried out beside the engine"
    guest, gate = explored()
    guest.run("pcmpistri xmm0, xmm1, 0")
    assert not gate.refused


def test_a_load_in_steps_into_a_managed_page_is_the_engines_own_and_no_other() -> None:
    guest, gate = explored()
    guest.run("movdqu xmm0, [rbx]", rbx=AREA + PAGE - 8)
    assert not gate.refused and guest.vector() is None


def test_an_invalidation_that_leaves_global_entries_tells_of_the_others_alone() -> None:
    guest, gate = explored()
    mmu, page = guest.machine.cpus[0].mmu, AREA // PAGE + 1
    entry = mmu.entry_of(AREA + PAGE)
    gate.lazy.may[0, page] = frozenset({entry, entry + PAGE | G})
    assert gate.invalidate(mmu, AREA + PAGE, False, True) == [entry & -PAGE & (1 << 52) - 1]
    assert gate.invalidate(mmu, AREA + PAGE, True, False) == []
