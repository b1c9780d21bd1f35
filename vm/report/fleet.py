"""Memory saved and cycles spent on a fleet of machines, estimated from what was measured a unit.

The assumptions are `ASSUMPTIONS`, and are printed with every estimate.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from kstack.base.documents import Document
from kstack.base.errors import ConfigError
from kstack.base.toml import read_toml
from kstack.report.comparison import Comparison, UnitCosts
from kstack.stacks.measure.costs import Cycles
from kstack.stacks.measure.usage import BUCKETS

FOLDER: Final = Path(__file__).parent / "fleets"
FULL_KIB: Final = 16.0
PAGE_KIB: Final = 4
V1_SAVED: Final = (72.83, 74.89)
"""Percent saved on the five idle machines of the RFC's cover letter (19,921 stacks)."""
NEEDS: Final = ("up to 4K", "8K", "16K")
_MAX: Final = 1e12

ASSUMPTIONS: Final = (
    "Memory is what a sleeping user thread holds, by the pages that its maximum depth needs (up to 4K, 8K, 16K), averaged "
    "over the scenarios in which such threads were measured; the range is over scenarios. Running threads and the pages "
    "in the CPUs' pools come on top.",
    "Depths at which no scenario had a thread get the nearest deeper figure, or else the nearest shallower one.",
    "A switch, a system call, a thread's creation and exit cost what they cost on average in the scenarios; "
    "scenarios are written to break policies, so they go deep more often than a fleet does.",
    "Only threads that go deeper than 4 KiB fault: once a thread if the policy never shrinks a living thread's stack, "
    "else as often a switch as in the scenarios.",
    "Page walks are those beyond the fully backed policy's, in TLBs that lose nothing by capacity.",
    "Depths do not depend on the policy, and the policy's own code uses no stack.",
)


class Depth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={
    "upto_1k": "1K", "upto_2k": "2K", "upto_4k": "4K", "upto_8k": "8K", "upto_16k": "16K",
}):  # fmt: skip
    """Threads by maximum depth, in the buckets of Linux's kstack_* counters."""

    upto_1k: float
    upto_2k: float
    upto_4k: float
    upto_8k: float
    upto_16k: float

    def __post_init__(self) -> None:
        if min(self.counts) < 0 or not 0 < sum(self.counts) < _MAX:
            raise ValueError("counts must be 0 or more, and not all 0")

    @property
    def counts(self) -> tuple[float, ...]:
        """By bucket."""
        return self.upto_1k, self.upto_2k, self.upto_4k, self.upto_8k, self.upto_16k

    @property
    def shares(self) -> tuple[float, ...]:
        """Fractions of all threads by bucket."""
        total = sum(self.counts)
        return tuple(count / total for count in self.counts)


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fleet of machines.

    Attributes:
        name, source: for people.
        threads: how many there are at one time.
        depth: their maximum depths.
        switches_per_second, syscalls_per_second: of one thread.
        ghz: clock of the CPUs.
        lifetime_seconds: of a thread, from creation to exit.
    """

    name: str
    source: str = ""
    threads: int
    depth: Depth
    switches_per_second: float
    syscalls_per_second: float
    ghz: float
    lifetime_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in ("threads", "ghz", "lifetime_seconds"):
            if not 0 < getattr(self, name) < _MAX:
                raise ValueError(f"{name} must be more than 0")
        for name in ("switches_per_second", "syscalls_per_second"):
            if not 0 <= getattr(self, name) < _MAX:
                raise ValueError(f"{name} must be 0 or more")

    @property
    def structural_saving(self) -> float:
        """Percent saved by a policy that keeps exactly the pages that were ever touched."""
        kib = sum(share * _pages(bound) * PAGE_KIB for share, bound in zip(self.depth.shares, BUCKETS, strict=True))
        return 100 * (1 - kib / FULL_KIB)


def _pages(depth: int) -> int:
    return -(-depth // (PAGE_KIB * 1024))


def find_fleet(name: str) -> Fleet:
    """A fleet that comes with kstack, or one in a TOML file.

    Raises:
        ConfigError: there is none, or the file says something it may not.
    """
    known = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if name in known:
        return read_toml(known[name], Fleet)
    if not name.endswith(".toml") and "/" not in name:
        near = difflib.get_close_matches(name, known, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}, or a TOML file"
        raise ConfigError(f"fleet {name!r} does not exist; {hint}")
    return read_toml(Path(name), Fleet)


class Range(msgspec.Struct, frozen=True):
    """A number with its range."""

    low: float
    nominal: float
    high: float


@dataclass(frozen=True)
class PolicyEstimate:
    """One policy on the fleet.

    Attributes:
        policy: its id.
        safe, unsafe, undecided, did_nothing: in how many scenarios.
        broken: in which litmus scenarios it is broken, in words; else empty.
        scenarios: in how many its guest finished, which is what it is estimated from.
        kib: KiB a thread; low and high over scenarios.
        saved_mib: against 16 KiB a thread, over the fleet.
        saved_percent: the same in percent.
        cycles: a second, over the fleet, with the cost model's range.
        cores: CPUs that this keeps busy.
        borrowed: depths of the fleet at which no thread was measured.
    """

    policy: str
    safe: int
    unsafe: int
    undecided: int
    did_nothing: int
    broken: str
    scenarios: int
    kib: Range
    saved_mib: Range
    saved_percent: Range
    cycles: Cycles
    cores: Range
    borrowed: tuple[str, ...]


@dataclass(frozen=True)
class FleetEstimate:
    """What a comparison says of a fleet.

    Attributes:
        fleet: the fleet.
        policies: least memory first.
        walks_counted: page walks are in the cycles (the fully backed policy was compared).
        left_out: policies that finished no scenario.
    """

    fleet: Fleet
    policies: tuple[PolicyEstimate, ...]
    walks_counted: bool
    left_out: tuple[str, ...] = ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What it rests on."""
        left_out = () if self.walks_counted else ("Page walks are left out: fixed-16k was not compared.",)
        return (*ASSUMPTIONS, *left_out)

    @property
    def cross_check(self) -> str:
        """The structural figure beside what was published of v1."""
        fleet = self.fleet
        return (
            f"A policy that kept exactly the pages ever touched would save {fleet.structural_saving:.1f} % of this fleet's "
            f"stacks; v1 of the RFC measured {V1_SAVED[0]:.1f} to {V1_SAVED[1]:.1f} % on five idle machines (19,921 stacks)."
        )

    def as_dict(self) -> Document:
        """For JSON."""
        return {
            "fleet": msgspec.to_builtins(self.fleet),
            "assumptions": list(self.assumptions),
            "cross_check": self.cross_check,
            "policies": [msgspec.to_builtins(policy) for policy in self.policies],
            "left_out": list(self.left_out),
        }


def estimate(fleet: Fleet, comparison: Comparison) -> FleetEstimate:
    """Estimate every policy that finished a scenario."""
    found = [_estimate(fleet, comparison, units) for units in comparison.units.values()]
    found.sort(key=lambda one: (one.kib.nominal, one.policy))
    walks = any(units.walks is not None for units in comparison.units.values())
    left_out = tuple(policy for policy in comparison.policies if policy not in comparison.units)
    return FleetEstimate(fleet, tuple(found), walks, left_out)


def _estimate(fleet: Fleet, comparison: Comparison, units: UnitCosts) -> PolicyEstimate:
    kib, borrowed = _kib(fleet, comparison, units.policy)
    fractions = [round(1 - value / FULL_KIB, 9) for value in (kib.high, kib.nominal, kib.low)]
    saved = [fleet.threads * FULL_KIB * fraction / 1024 for fraction in fractions]
    percent = [100 * fraction for fraction in fractions]
    cycles = _cycles_per_thread(fleet, comparison, units).scaled(fleet.threads)
    clock = fleet.ghz * 1e9
    verdicts = comparison.verdicts(units.policy)
    return PolicyEstimate(
        policy=units.policy,
        safe=verdicts["safe"],
        unsafe=verdicts["unsafe"],
        undecided=verdicts["undecided"],
        did_nothing=verdicts["did-nothing"],
        broken=comparison.breakage(units.policy),
        scenarios=len(units.scenarios),
        kib=kib,
        saved_mib=Range(*saved),
        saved_percent=Range(*percent),
        cycles=cycles,
        cores=Range(cycles.low / clock, cycles.nominal / clock, cycles.high / clock),
        borrowed=borrowed,
    )


def _cycles_per_thread(fleet: Fleet, comparison: Comparison, units: UnitCosts) -> Cycles:
    """Cycles a second of one thread."""
    cost = comparison.cost
    a_switch = cost(units.switch)
    if units.walks is not None:
        a_switch += cost({"walk": max(0.0, units.walks)})
    deep = sum(fleet.depth.shares[3:])
    if units.shrinks:
        faults = fleet.switches_per_second * units.faults_per_switch
    else:
        faults = units.faults_per_thread / fleet.lifetime_seconds
    return (
        a_switch.scaled(fleet.switches_per_second)
        + cost(units.syscall).scaled(fleet.syscalls_per_second)
        + cost(units.thread).scaled(1 / fleet.lifetime_seconds)
        + cost(units.fault).scaled(faults * deep)
    )


def _kib(fleet: Fleet, comparison: Comparison, policy: str) -> tuple[Range, tuple[str, ...]]:
    """KiB a thread over the fleet's depths, and the buckets whose figure is another's."""
    measured: list[list[float]] = [[] for _ in NEEDS]
    for judgement in comparison.finished(policy):
        usage = judgement.reference.usage if judgement.reference else None
        for place, kib in enumerate(usage.kib_by_depth if usage else ()):
            if kib is not None:
                measured[_class(place)].append(kib)
    low = nominal = high = 0.0
    borrowed = []
    shares = [0.0 for _ in NEEDS]
    for place, share in enumerate(fleet.depth.shares):
        shares[_class(place)] += share
    for place, share in enumerate(shares):
        if not share:
            continue
        source = _nearest(measured, place)
        if source is None:
            values = [FULL_KIB]
        else:
            values = measured[source]
        if source != place:
            borrowed.append(NEEDS[place])
        low, high = low + share * min(values), high + share * max(values)
        nominal += share * sum(values) / len(values)
    return Range(low, nominal, high), tuple(borrowed)


def _class(place: int) -> int:
    """The place in `NEEDS` of a bucket: threads that need equally many pages belong together."""
    return max(0, place - 2)


def _nearest(measured: list[list[float]], place: int) -> int | None:
    deeper = [other for other in range(place, len(measured)) if measured[other]]
    shallower = [other for other in range(place) if measured[other]]
    return deeper[0] if deeper else shallower[-1] if shallower else None
