"""For people who test: policies, guests, devices, schedules and faults of their own.

`kstack.testing.plugin` is the pytest plugin, `kstack.testing.strategies` are Hypothesis strategies (both documented in
docs/testing.md); here are the conformance kits (test classes to derive from), mutants of a policy, and runs of
guests. Names are imported when they are asked for: the plugin is loaded by every pytest run there is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kstack.kernels.kstack.language import Operation
    from kstack.testing.devices import Clock, DeviceConformance
    from kstack.testing.faults import FaultConformance
    from kstack.testing.guests import GuestRun, Schedule, Start
    from kstack.testing.mutants import Mutant, mutants_of, without
    from kstack.testing.policies import PolicyConformance
    from kstack.testing.reachable import Outcomes, outcomes
    from kstack.testing.schedulers import Following, SchedulerConformance

_PLACES: Final = {
    "Clock": "kstack.testing.devices",
    "DeviceConformance": "kstack.testing.devices",
    "FaultConformance": "kstack.testing.faults",
    "Following": "kstack.testing.schedulers",
    "GuestRun": "kstack.testing.guests",
    "Mutant": "kstack.testing.mutants",
    "Operation": "kstack.kernels.kstack.language",
    "Outcomes": "kstack.testing.reachable",
    "PolicyConformance": "kstack.testing.policies",
    "Schedule": "kstack.testing.guests",
    "SchedulerConformance": "kstack.testing.schedulers",
    "Start": "kstack.testing.guests",
    "mutants_of": "kstack.testing.mutants",
    "outcomes": "kstack.testing.reachable",
    "without": "kstack.testing.mutants",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


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
