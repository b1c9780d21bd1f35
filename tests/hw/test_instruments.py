"""Instruments: added and removed in one place, hearing what they have a method for; every drop of a translation is told."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from kstack.base.errors import ConfigError
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.instruments import Hook, Hooks, Instruments, Slot
from kstack.hw.mmu.invalidation import invpcid
from kstack.hw.mmu.moments import Cause, Drop, Fill, MmuHooks
from kstack.hw.mmu.speculation import evict
from kstack.hw.modes import Modes
from kstack.machine import Machine, MachineConfig
from kstack.run.outside import RunHooks
from kstack.stacks.host.call import StackHooks
from kstack.x86.entries import RW
from tests.support.long_mode import AREA, PLAIN, LongModeGuest


class Some(Hooks):
    def __init__(self) -> None:
        self.one: Hook[[int]] = Hook()
        self.two: Hook[[int, str]] = Hook()


class Ear:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_one(self, number: int) -> None:
        self.heard.append(number)


def test_an_instrument_hears_what_it_has_a_method_for_until_it_is_removed() -> None:
    instruments, hooks, ear, other = Instruments(), Some(), Ear(), Ear()
    instruments.offer(hooks)
    instruments.add(ear)
    instruments.add(other)
    hooks.one(1)
    hooks.two(2, "two")
    instruments.remove(ear)
    hooks.one(3)
    assert (ear.heard, other.heard) == ([1], [1, 3])
    assert hooks.one and not hooks.two
    instruments.clear()
    assert not hooks.one


def test_hooks_that_are_offered_later_are_heard_too_and_those_of_before_no_more() -> None:
    instruments, first, second, ear = Instruments(), Some(), Some(), Ear()
    instruments.offer(first)
    instruments.add(ear)
    instruments.offer(second)
    second.one(1)
    instruments.clear()
    second.one(2)
    assert ear.heard == [1]


@pytest.mark.parametrize(
    ("name", "says"),
    [("on_oen", "on_oen hears nothing; did you mean on_one?"), ("on_nothing_at_all", "there are on_one, on_two")],
)
def test_a_hook_that_nobody_offers_is_an_error(name: str, says: str) -> None:
    instruments = Instruments()
    instruments.offer(Some())
    with pytest.raises(ConfigError, match=re.escape(says)):
        instruments.add(type("Wrong", (), {name: lambda self: None})())


def test_an_instrument_that_hears_nothing_at_all_is_an_error() -> None:
    instruments = Instruments()
    instruments.offer(Some())
    with pytest.raises(ConfigError, match="Deaf hears nothing"):
        instruments.add(type("Deaf", (), {"stepped": lambda self: None})())


def test_no_two_rooms_offer_the_same_hook() -> None:
    machine = Machine(MachineConfig(ram=1 << 20))
    names = [
        name
        for hooks in (machine.mmu_hooks, machine.cpu_hooks, machine._hooks, StackHooks(), RunHooks())
        for name in hooks.named()
    ]
    assert len(names) == len(set(names)) >= 16


def test_the_instruments_of_two_machines_are_apart() -> None:
    heard: list[Delivery] = []
    ear = type("Ear", (), {"on_delivery": lambda self, delivery: heard.append(delivery)})()
    guests = LongModeGuest(), LongModeGuest()
    guests[0].machine.instruments.add(ear)
    for guest in guests:
        guest.run("ud2")
    assert len(heard) == 1


class Translations:
    """What of the page AREA is told."""

    def __init__(self) -> None:
        self.found: list[Cause | str] = []

    def on_fill(self, moment: Fill) -> None:
        if moment.address >> 12 == AREA >> 12:
            self.found.append("speculated" if moment.speculative else "fill")

    def on_drop(self, moment: Drop) -> None:
        if moment.address == AREA:
            self.found.append(moment.cause)


def _evict(guest: LongModeGuest) -> None:
    evict(guest.machine.cpus[0].mmu, AREA)


def _other_fills(guest: LongModeGuest) -> None:
    guest.map(AREA + 0x1000, guest.frame())
    guest.map(AREA + 0x2000, guest.frame())
    for number in (1, 2):
        guest.load(AREA + number * 0x1000)


def _fault(guest: LongModeGuest) -> None:
    guest.run("mov [rbx], rcx", rbx=AREA)


DROPS: dict[str, tuple[Cause, Callable[[LongModeGuest], object]]] = {
    "invlpg": (Cause.INVLPG, lambda guest: guest.run("invlpg [rbx]", rbx=AREA)),
    "cr3": (Cause.CR3, lambda guest: guest.run("mov rax, cr3\nmov cr3, rax")),
    "cr4": (Cause.CONTROL, lambda guest: guest.run("mov rax, cr4\nbtc rax, 7\nmov cr4, rax")),
    "evict": (Cause.EVICTION, _evict),
    "fills": (Cause.REPLACED, _other_fills),
    "fault": (Cause.FAULT, _fault),
    "invpcid": (Cause.INVPCID, lambda guest: invpcid(guest.machine.cpus[0].mmu, 1, 0, 0)),
    "invlpgb": (Cause.BROADCAST, lambda guest: guest.machine.broadcast._apply(guest.machine.cpus[0].mmu, (1, 0, 0, 0))),
    "reset": (Cause.RESET, lambda guest: guest.machine.cpus[0].reset()),
}


@pytest.mark.parametrize("how", DROPS)
def test_a_drop_of_a_translation_is_told_with_its_cause(how: str) -> None:
    cause, act = DROPS[how]
    guest = LongModeGuest(modes=Modes(tlb="capacity 2") if how == "fills" else Modes())
    guest.map(AREA, guest.frame(), PLAIN & ~RW if how == "fault" else PLAIN)
    heard = Translations()
    guest.machine.instruments.add(heard)
    guest.load(AREA)
    assert heard.found == ["fill"]
    act(guest)
    assert heard.found == ["fill", cause]


def test_a_snapshot_of_the_mmu_is_the_same_whoever_hears() -> None:
    assert MmuHooks().fill.heard == []


def test_a_slot_is_held_by_one_at_a_time() -> None:
    slot: Slot[[int], bool] = Slot()
    slot.hold(bool)
    with pytest.raises(ConfigError, match="release it first"):
        slot.hold(bool)
    assert slot.swap(None) is bool and slot.held is None
    slot.hold(bool)
    slot.release()
    assert slot.held is None
