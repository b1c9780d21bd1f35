"""For people who test: policies, guests, devices, schedules and faults of their own.

`kstack.testing.plugin` is the pytest plugin, `kstack.testing.strategies` are Hypothesis strategies (both documented in
docs/testing.md); here are the conformance kits (test classes to derive from), mutants of a policy, and runs of
guests. Names are imported when they are asked for: the plugin is loaded by every pytest run there is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kstack.testing.devices import Clock, DeviceConformance
    from kstack.testing.faults import FaultConformance
    from kstack.testing.guests import GuestRun, Schedule, Start
    from kstack.testing.litmus import Operation
    from kstack.testing.mutants import Mutant, mutants_of, without
    from kstack.testing.policies import PolicyConformance
    from kstack.testing.reachable import Outcomes, outcomes
    from kstack.testing.schedulers import Following, SchedulerConformance

_PLACES: Final = {
    "Clock": "devices",
    "DeviceConformance": "devices",
    "FaultConformance": "faults",
    "Following": "schedulers",
    "GuestRun": "guests",
    "Mutant": "mutants",
    "Operation": "litmus",
    "Outcomes": "reachable",
    "PolicyConformance": "policies",
    "Schedule": "guests",
    "SchedulerConformance": "schedulers",
    "Start": "guests",
    "mutants_of": "mutants",
    "outcomes": "reachable",
    "without": "mutants",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


__all__ = [
    "Clock",
    "DeviceConformance",
    "FaultConformance",
    "Following",
    "GuestRun",
    "Mutant",
    "Operation",
    "Outcomes",
    "PolicyConformance",
    "Schedule",
    "SchedulerConformance",
    "Start",
    "mutants_of",
    "outcomes",
    "without",
]
