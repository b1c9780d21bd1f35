"""For people who test: policies, guests, devices, schedules and faults of their own.

`vm.testing.plugin` is the pytest plugin, `vm.testing.strategies` are Hypothesis strategies (both documented in
docs/testing.md); here are the conformance kits (test classes to derive from), mutants of a policy, and runs of
guests. Names are imported when they are asked for: the plugin is loaded by every pytest run there is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vm.testing.devices import Clock, DeviceConformance
    from vm.testing.faults import FaultConformance
    from vm.testing.guests import GuestRun, Schedule, Start
    from vm.testing.litmus import Operation
    from vm.testing.mutants import Mutant, mutants_of, without
    from vm.testing.policies import PolicyConformance
    from vm.testing.reachable import Outcomes, outcomes
    from vm.testing.schedulers import Following, SchedulerConformance

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


def __getattr__(name: str) -> Any:
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
