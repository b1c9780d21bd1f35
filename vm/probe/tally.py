"""From observations to counts: which trials are none, and what each of the others has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from kstack.base.documents import Document
from kstack.probe.bounds import Rate
from kstack.probe.questions import ARMS, CLEAR, LOAD, NOTHING, SET, Arm
from kstack.probe.recipe import FRESH, NOT_FAULTED, Bits, Observation, Recipe

ACCESSED, DATA, ENTRY, DIRTY = "accessed", "data", "entry", "dirty"
"""Seen: A set; the line is in a cache; a translation is in the TLB; D set. Of the attack, not of what was before."""
UNREADY, PAGE_FLAG, NO_FAULT = "unready", "page-flag", "no-fault"
"""Why a trial is none: the entry was not as it should be when the attack began; Referenced may be a flag of the page; what
should fault has not."""


@dataclass
class Tally:
    """The trials of one arm.

    Attributes:
        seen: how many have seen just this.
        spoiled: how many are none, by why.
    """

    seen: Counter[frozenset[str]] = field(default_factory=Counter)
    spoiled: Counter[str] = field(default_factory=Counter)

    def rate(self, *having: str, without: Iterable[str] = ()) -> Rate:
        """How many have seen all of `having`, and nothing of what they should be without."""
        found = sum(n for seen, n in self.seen.items() if seen.issuperset(having) and seen.isdisjoint(without))
        return Rate(found, self.seen.total())

    def some(self, *seen: str) -> Rate:
        """How many have seen any of these."""
        return Rate(sum(n for one, n in self.seen.items() if not one.isdisjoint(seen)), self.seen.total())

    def spoiled_by(self, why: str) -> Rate:
        """How many of all are none, for one reason."""
        return Rate(self.spoiled[why], self.seen.total() + self.spoiled.total())

    def as_dict(self) -> Document:
        """Exactly what was seen, for JSON."""
        seen = {"+".join(sorted(one)) or "nothing": n for one, n in self.seen.items()}
        return {
            "trials": self.seen.total(),
            "seen": dict(sorted(seen.items())),
            "spoiled": dict(sorted(self.spoiled.items())),
        }


Tallies = Mapping[Arm, Tally]


class Threshold(NamedTuple):
    """When a reload is told to have found its line in a cache.

    Attributes:
        ticks: or fewer.
        slow, quick: how many lines that an instruction had loaded were slower, and that were flushed, quicker.
    """

    ticks: float
    slow: Rate
    quick: Rate


def threshold(observed: Sequence[Observation]) -> Threshold:
    """Half way between the usual times of lines that a load has brought in and of those that nothing has."""
    hits = _times(observed, LOAD.name)
    misses = _times(observed, NOTHING.name)
    if not hits or not misses:
        return Threshold(0, Rate(0, 0), Rate(0, 0))
    ticks = (median(hits) + median(misses)) / 2
    slow = Rate(sum(one > ticks for one in hits), len(hits))
    return Threshold(ticks, slow, Rate(sum(one <= ticks for one in misses), len(misses)))


def _times(observed: Sequence[Observation], question: str) -> list[int]:
    numbers = {number for number, arm in enumerate(ARMS) if arm.question == question and arm.arm in (CLEAR, SET)}
    return [one.ticks for one in observed if one.recipe in numbers]


def tallied(observed: Sequence[Observation], ticks: float) -> dict[Arm, Tally]:
    """The counts of all arms.

    Args:
        observed: all trials.
        ticks: of a reload whose line was in a cache, at the most.
    """
    found = {arm: Tally() for arm in ARMS}
    arms = list(ARMS.items())
    for one in observed:
        arm, recipe = arms[one.recipe]
        why = spoiled(one, recipe)
        if why:
            found[arm].spoiled[why] += 1
        else:
            found[arm].seen[seen(one, recipe, ticks)] += 1
    return found


def spoiled(one: Observation, recipe: Recipe) -> str:
    """Why a trial is none; "" if it is one."""
    if one.ticks == NOT_FAULTED:
        return NO_FAULT
    asked = ~Bits(0) if recipe.page == FRESH else ~(Bits.DIRTY | Bits.PAGE_DIRTY)
    if one.before & asked != (Bits.ACCESSED if recipe.accessed else Bits(0)):
        return UNREADY
    return PAGE_FLAG if one.after & asked & (Bits.PAGE_ACCESSED | Bits.PAGE_DIRTY) else ""


def seen(one: Observation, recipe: Recipe, ticks: float) -> frozenset[str]:
    """What a trial has seen; of Dirty, where it is asked about."""
    found = {
        ACCESSED: Bits.ACCESSED in one.after,
        DIRTY: recipe.page == FRESH and Bits.DIRTY in one.after,
        ENTRY: one.cached,
        DATA: 0 < one.ticks <= ticks,
    }
    return frozenset(name for name, there in found.items() if there)
