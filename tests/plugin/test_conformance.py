"""The conformance kits: what comes with kstack passes, and what is broken in one way fails the test that is for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from tests.unit.test_devices import DEVICES
from vm.fault import At, Fault, Flush, Injector, Moment, Send, Step, Where
from vm.hw.device import Device
from vm.hw.serial import Uart
from vm.schedule import Choice, PctSchedule, RandomSchedule, RoundRobin, Scheduler, ScriptedSchedule, View
from vm.schedule.scripted import Script, ScriptStep
from vm.setup import Setup as RealSetup
from vm.testing import Clock, DeviceConformance, FaultConformance, Following, SchedulerConformance


def checks(kit: type) -> list[str]:
    return [name for name in dir(kit) if name.startswith("test_")]


def failing(kit: type) -> list[str]:
    """Which tests of a kit fail."""
    found = []
    for name in checks(kit):
        try:
            getattr(kit(), name)()
        except AssertionError:
            found.append(name.removeprefix("test_"))
    return found


# --- devices


def device_kit(make: Callable[..., Device], size: int, **more: Any) -> type[DeviceConformance]:
    return type("Kit", (DeviceConformance,), {"make": lambda self, clock: make(clock), "size": size, **more})


@pytest.mark.parametrize("check", checks(DeviceConformance))
@pytest.mark.parametrize("kind", DEVICES)
def test_a_device_conforms(kind: str, check: str) -> None:
    make, size = DEVICES[kind]
    step = 16 if size > 256 else 1  # a local APIC's registers are 16 bytes apart
    alone = kind != "speaker"  # a gate is part of the timer, not of port 61H
    getattr(device_kit(make, size, step=step, alone=alone)(), check)()


class Latch:
    """Four bytes: what a right device looks like."""

    def __init__(self, clock: Clock) -> None:
        self.label, self.state, self.clock = "latch", bytearray(4), clock

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state[offset : offset + size], "little") if offset + size <= 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset + size <= 4:
            self.state[offset : offset + size] = value.to_bytes(size, "little")

    def snapshot(self) -> Any:
        return bytes(self.state)

    def restore(self, state: Any) -> None:
        self.state = bytearray(state)


class Nameless(Latch):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.label = " "


class Fragile(Latch):
    def read(self, offset: int, size: int) -> int:
        return self.state[offset] if size == 1 else super().read(offset, size)


class Wide(Latch):
    def read(self, offset: int, size: int) -> int:
        return 0x1FF if size == 1 else super().read(offset, size)


class Leaking(Latch):
    kept = bytearray(4)

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.state = Leaking.kept

    def restore(self, state: Any) -> None:
        self.state[:] = state


class Moody(Latch):
    def read(self, offset: int, size: int) -> int:
        return random.getrandbits(8 * size)


class Forgetful(Latch):
    count = 0

    def read(self, offset: int, size: int) -> int:
        self.count += 1  # not in its snapshot
        return self.count & 0xFF


class Shy(Latch):
    def snapshot(self) -> Any:
        self.state[0] ^= 1
        return super().snapshot()


class Living(Latch):
    def snapshot(self) -> Any:
        return (self.state,)

    def restore(self, state: Any) -> None:
        self.state = bytearray(state[0])


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (Latch, None),
        (Nameless, "it_has_a_label"),
        (Fragile, "no_access_raises_or_answers_out_of_range"),
        (Wide, "no_access_raises_or_answers_out_of_range"),
        (Leaking, "two_of_them_never_influence_each_other"),
        (Leaking, "reset_is_one_state"),
        (Moody, "the_same_accesses_give_the_same_answers"),
        (Forgetful, "it_goes_on_from_a_snapshot"),
        (Shy, "taking_a_snapshot_changes_nothing"),
        (Living, "a_snapshot_is_a_plain_value_that_stays"),
    ],
)
def test_a_broken_device_is_noticed(broken: type[Latch], found: str | None) -> None:
    failed = failing(device_kit(broken, 4))
    assert found in failed if found else not failed


class Amnesiac(Uart):
    """A serial port whose snapshot lacks the scratch register."""

    def snapshot(self) -> Any:
        saved = super().snapshot()
        return (*saved[:3], 0, *saved[4:])


def test_a_device_of_kstack_s_with_a_hole_in_its_snapshot_is_noticed() -> None:
    def make(clock: Clock) -> Device:
        return Amnesiac(lambda data: None)

    assert "it_goes_on_from_a_snapshot" in failing(device_kit(make, 8))


# --- schedules

SCHEDULERS: dict[str, Callable[[int], Scheduler]] = {
    "round robin": lambda seed: RoundRobin(100),
    "random": RandomSchedule,
    "pct": lambda seed: PctSchedule(seed, 3),
    "scripted": lambda seed: ScriptedSchedule(Script((ScriptStep(0, "published"), ScriptStep(1, "read")))),
    "following": lambda seed: Following([Choice(seed % 4, 5), Choice(1, 1), Choice(0, 70)] * 20),
}


def scheduler_kit(make: Callable[[int], Scheduler]) -> type[SchedulerConformance]:
    return type("Kit", (SchedulerConformance,), {"make": lambda self, seed: make(seed)})


@pytest.mark.parametrize("check", checks(SchedulerConformance))
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_schedule_conforms(kind: str, check: str) -> None:
    getattr(scheduler_kit(SCHEDULERS[kind])(), check)()


class Anybody(RoundRobin):
    def choose(self, view: View) -> Choice:
        return Choice(view.time % 4, 10)


class Lazy(RoundRobin):
    def choose(self, view: View) -> Choice:
        return Choice(super().choose(view).cpu, view.time % 3)


class Careless(RoundRobin):
    def choose(self, view: View) -> Choice:
        return Choice(random.choice(view.runnable), 10)


class Sharing(RoundRobin):
    turns: ClassVar[list[int]] = []

    def choose(self, view: View) -> Choice:
        self.turns.append(1)
        return Choice(view.runnable[len(self.turns) % len(view.runnable)], 10)


class Unnamed(RoundRobin):
    def __init__(self, quantum: int) -> None:
        super().__init__(quantum)
        self.name = ""


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (Unnamed, "it_has_a_name"),
        (Anybody, "it_chooses_a_cpu_that_can_run_for_at_least_one_unit"),
        (Lazy, "it_chooses_a_cpu_that_can_run_for_at_least_one_unit"),
        (Careless, "a_seed_is_a_schedule"),
        (Sharing, "it_leaves_other_schedules_alone"),
    ],
)
def test_a_broken_schedule_is_noticed(broken: type[RoundRobin], found: str) -> None:
    assert found in failing(scheduler_kit(lambda seed: broken(100)))


def test_a_run_that_goes_another_way_when_it_is_replayed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vm.testing.schedulers.ReplaySchedule", lambda choices: RoundRobin(7))
    assert failing(scheduler_kit(RandomSchedule)) == ["what_it_chose_can_be_replayed"]


# --- faults

SOON = Moment(100_000)
STACK = 0xFFFF_C900_0000_7FF8  # on the first stack
FAULTS = {
    "drop-ipi": Fault("drop-ipi", Send(2)),
    "duplicate-ipi": Fault("duplicate-ipi", Send(2)),
    "delay-ipi": Fault("delay-ipi", Send(2), units=500),
    "reorder-ipi": Fault("reorder-ipi", Send(2)),
    "drop-invlpg": Fault("drop-invlpg", Flush(3, cpu=1)),
    "lose-ack": Fault("lose-ack", Step("WaitForAck")),
    "delay-ack": Fault("delay-ack", Step("WaitForAck"), units=500),
    "early-ack": Fault("early-ack", Step("WaitForAck")),
    "evict-tlb": Fault("evict-tlb", Moment(101_000), address=STACK),  # it is cached then
    "fill-tlb": Fault("fill-tlb", SOON, address=STACK),
    "flip-pte": Fault("flip-pte", SOON, address=STACK, bit=9),
    "flip-ram": Fault("flip-ram", SOON, address=0x300000, bit=0),
    "flip-register": Fault("flip-register", At("laight_watch"), register="r15", bit=3),
    "fail-alloc": Fault("fail-alloc", Step("TakePage")),
    "drain-pool": Fault("drain-pool", SOON),
    "spurious-fault": Fault("spurious-fault", At("laight_watch"), address=0xFFFF_F000_0000_0000),
    "nmi": Fault("nmi", At("schedule", nth=2)),
    "machine-check": Fault("machine-check", SOON),
    "timer": Fault("timer", SOON, vector=0x20),
    "stall": Fault("stall", SOON, cpu=1, units=2000),
    "hang": Fault("hang", SOON, cpu=1),
    "offline": Fault("offline", SOON, cpu=1),
    "skip": Fault("skip", At("laight_watch+0x43")),
    "raise": Fault("raise", Step("GiveBack")),
    "endless-step": Fault("endless-step", Step("GiveBack")),
    "corrupt-page": Fault("corrupt-page", Step("TakePage", nth=3)),
    "after": Fault("nmi", At("laight_watch", after=True)),
    "where": Fault("nmi", Where("rbx", 1)),
}


def fault_kit(fault: Fault) -> type[FaultConformance]:
    return type("Kit", (FaultConformance,), {"fault": fault})


@pytest.mark.parametrize("check", checks(FaultConformance))
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_conforms(kind: str, check: str) -> None:
    getattr(fault_kit(FAULTS[kind])(), check)()


def test_a_fault_that_is_not_reached_is_noticed() -> None:
    assert "it_happens_exactly_once" in failing(fault_kit(Fault("nmi", At("laight_watch", nth=1000))))


def test_a_fault_that_happens_again_and_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fire = Injector._fire

    def fire_and_arm(self: Injector, one: Any, cpu: int) -> None:
        fire(self, one, cpu)
        one.seen = 0
        self._at.append(one)

    monkeypatch.setattr(Injector, "_fire", fire_and_arm)
    assert "it_happens_exactly_once" in failing(fault_kit(FAULTS["nmi"]))


def test_a_wait_for_a_fault_that_changes_the_run_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Injector._before

    def touch(self: Injector, cpu: int) -> None:
        self._machine.memory.write64(0x300000, 1)
        before(self, cpu)

    monkeypatch.setattr(Injector, "_before", touch)
    assert "one_that_is_not_reached_says_so_and_changes_nothing" in failing(fault_kit(FAULTS["nmi"]))


def test_a_recording_without_its_fault_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vm.testing.guests.Setup", lambda *setup: RealSetup(*setup[:-1]))
    assert failing(fault_kit(FAULTS["nmi"])) == ["a_recording_with_it_replays_to_the_same_state"]
