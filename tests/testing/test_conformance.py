"""The conformance kits: what comes with kstack passes. What must not pass is in `tests.support.broken_subjects`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest

from kstack.fault import At, Fault, Flush, Moment, Send, Step, Where
from kstack.fault.records import ACTIONS
from kstack.hw import devices
from kstack.hw.devices.device import Device
from kstack.hw.devices.pit import Channel
from kstack.schedule import Choice, PctSchedule, RandomSchedule, RoundRobin, Scheduler, ScriptedSchedule
from kstack.schedule.scripted import Script, ScriptStep
from kstack.testing import DeviceConformance, FaultConformance, Following, SchedulerConformance
from tests.support.devices import DEVICES, Clock
from tests.support.kit_assertions import checks


def kit(base: type, name: str, **attributes: Any) -> Any:
    """A kit at the top of this module, where another process finds it."""
    made = type(name, (base,), {**attributes, "__module__": __name__, "__qualname__": name})
    globals()[name] = made
    return made


# --- devices


def device_kit(kind: str, make: Callable[..., Device], size: int) -> Any:
    return kit(
        DeviceConformance,
        f"device {kind}",
        make=lambda self, clock: make(clock),
        size=size,
        step=16 if size > 256 else 1,  # a local APIC's registers are 16 bytes apart
        alone=kind != "speaker",  # a gate is part of the timer, not of port 61H
        resets=kind != "apic",  # this one has been enabled since its reset
    )


DEVICE_KITS = {kind: device_kit(kind, *device) for kind, device in DEVICES.items()}


@pytest.mark.parametrize("check", checks(DeviceConformance))
@pytest.mark.parametrize("kind", DEVICES)
def test_a_device_conforms(kind: str, check: str) -> None:
    getattr(DEVICE_KITS[kind](), check)()


# --- schedules


def scheduler_kit(kind: str, make: Callable[[int], Scheduler]) -> Any:
    return kit(SchedulerConformance, f"schedule {kind}", make=lambda self, seed: make(seed))


SCHEDULER_KITS = {
    kind: scheduler_kit(kind, make)
    for kind, make in {
        "round robin": lambda seed: RoundRobin(100),
        "random": RandomSchedule,
        "pct": lambda seed: PctSchedule(seed, 3),
        "scripted": lambda seed: ScriptedSchedule(Script((ScriptStep(0, "published"), ScriptStep(1, "read")))),
        "following": lambda seed: Following([Choice(seed % 4, 5), Choice(1, 1), Choice(0, 70)] * 20),
    }.items()
}


@pytest.mark.parametrize("check", checks(SchedulerConformance))
@pytest.mark.parametrize("kind", SCHEDULER_KITS)
def test_a_schedule_conforms(kind: str, check: str) -> None:
    getattr(SCHEDULER_KITS[kind](), check)()


# --- faults

SHORT = 60_000  # twice what the run takes
SOON = Moment(100_000)
STACK = 0xFFFF_C900_0000_7FF8  # on the first stack
FAULTS = {
    "drop-ipi": Fault("drop-ipi", Send(2)),
    "duplicate-ipi": Fault("duplicate-ipi", Send(2)),
    "delay-ipi": Fault("delay-ipi", Send(2), units=500),
    "reorder-ipi": Fault("reorder-ipi", Send(2)),
    "drop-invlpg": Fault("drop-invlpg", Flush(5, cpu=1)),
    "lose-ack": Fault("lose-ack", Step("WaitForAck")),
    "delay-ack": Fault("delay-ack", Step("WaitForAck"), units=500),
    "early-ack": Fault("early-ack", Step("WaitForAck")),
    "evict-tlb": Fault("evict-tlb", At("laight_inner"), address=STACK),  # it is cached then
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


@pytest.mark.parametrize("check", checks(FaultConformance))
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_conforms(kind: str, check: str) -> None:
    # An interrupt that comes twice before it is taken is one.
    made = kit(FaultConformance, f"fault {kind}", fault=FAULTS[kind], max_time=SHORT, shows=kind != "duplicate-ipi")
    getattr(made(), check)()


def test_every_kind_of_fault_has_an_example_here() -> None:
    assert set(ACTIONS) - set(FAULTS) == {"narrow-flush"}  # for PostFlush, which laight's policy does not ask for


def test_every_device_of_the_house_is_among_those_that_are_tried() -> None:
    made = {type(make(Clock())) for make, _ in DEVICES.values()}
    found = {
        one
        for module in pkgutil.iter_modules(devices.__path__, f"{devices.__name__}.")
        for one in vars(importlib.import_module(module.name)).values()
        if isinstance(one, type)
        and one.__module__ == module.name
        and {"read", "write", "snapshot", "restore"} <= set(dir(one))
    }
    assert {one for one in found if not getattr(one, "_is_protocol", False)} - made == {
        Channel
    }  # of the timer's, no device
