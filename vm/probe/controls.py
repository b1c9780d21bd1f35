"""What must hold for counts to mean anything. Where a control fails there is no verdict, whatever else was counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from kstack.base.documents import Document
from kstack.probe.bounds import Rate
from kstack.probe.questions import (
    ARMS,
    CACHED,
    CLEAN,
    CLEAR,
    FETCH,
    HELD,
    KEPT,
    LOAD,
    NOTHING,
    STORE,
    Arm,
)
from kstack.probe.tally import ACCESSED, DATA, DIRTY, ENTRY, NO_FAULT, PAGE_FLAG, UNREADY, Tallies, Threshold

ALWAYS: Final = 0.95  # share of trials in which something is certain: an interrupt may spoil a few
RARELY: Final = 0.05
NEVER: Final = 0.01
KEPT_ENOUGH: Final = 0.5


class ProbeControl(NamedTuple):
    """Something that is known before, and how often it was seen.

    Attributes:
        name: short, for JSON.
        text: what is counted.
        rate: how often.
        limit: share.
        floor: whether the limit is the least that holds; else it is the most.
    """

    name: str
    text: str
    rate: Rate
    limit: float
    floor: bool

    @property
    def held(self) -> bool:
        """Whether it is as it must be; what was not tried at all is not."""
        share = self.rate.share
        return self.rate.of > 0 and (share >= self.limit if self.floor else share <= self.limit)

    def __str__(self) -> str:
        """It, with its counts."""
        bound = f"{'at least' if self.floor else 'at most'} {self.limit:.0%}"
        return f"{self.text} in {self.rate.count} of {self.rate.of} trials; it must be {bound}"

    def as_dict(self) -> Document:
        """It, for JSON."""
        limit = {"at_least" if self.floor else "at_most": self.limit}
        return {"held": self.held, "text": self.text, "count": self.rate.count, "of": self.rate.of, **limit}


def common_controls(tallies: Tallies, found: Threshold) -> tuple[ProbeControl, ...]:
    """Those of every question: the timer, the method, the machine's peace."""
    return (
        ProbeControl(
            "timer-slow", "a line that a load had brought in was told to be flushed", found.slow, RARELY, False
        ),
        ProbeControl("timer-quick", "a flushed line was told to be in a cache", found.quick, RARELY, False),
        _floor("load-marks", "a load that retires set A", tallies[Arm(LOAD.name, CLEAR)].rate(ACCESSED)),
        _floor("fetch-marks", "a fetch that retires set A", tallies[Arm(FETCH.name, CLEAR)].rate(ACCESSED)),
        ProbeControl("idle-marks", "A was set without an attack", _idle(tallies, ACCESSED), NEVER, False),
        ProbeControl("idle-data", "the line came without an attack", _idle(tallies, DATA), RARELY, False),
        ProbeControl("idle-entry", "a translation was cached without an attack", _idle(tallies, ENTRY), RARELY, False),
        ProbeControl("ageing", "A went away by itself", _lost(tallies), NEVER, False),
        ProbeControl("unready", "an entry was not as it was prepared", _spoiled(tallies, UNREADY), RARELY, False),
        ProbeControl("page-flag", "the page had been used otherwise", _spoiled(tallies, PAGE_FLAG), RARELY, False),
        ProbeControl("no-fault", "what should fault did not", _spoiled(tallies, NO_FAULT), RARELY, False),
        _floor(
            "held",
            "a page that the kernel took hold of was told apart",
            tallies[Arm(HELD.name, CLEAR)].spoiled_by(PAGE_FLAG),
        ),
    )


def dirty_controls(tallies: Tallies) -> tuple[ProbeControl, ...]:
    """Those of questions about D, beside the common ones."""
    clean = tallies[Arm(LOAD.name, CLEAN)].rate(DIRTY) + tallies[Arm(NOTHING.name, CLEAN)].rate(DIRTY)
    kept = tallies[Arm(KEPT.name, CACHED)].rate(without=[ACCESSED])
    return (
        _floor("store-dirties", "a store that retires set D", tallies[Arm(STORE.name, CLEAN)].rate(DIRTY)),
        ProbeControl("load-dirties", "D was set without a store", clean, NEVER, False),
        ProbeControl("kept", "a load through a cached translation left A clear", kept, KEPT_ENOUGH, True),
    )


def _floor(name: str, text: str, rate: Rate) -> ProbeControl:
    return ProbeControl(name, text, rate, ALWAYS, True)


def _idle(tallies: Tallies, seen: str) -> Rate:
    """How often something was seen in trials without an attack; A, where it was clear."""
    arms = [arm for arm, recipe in ARMS.items() if not recipe.aimed or recipe.attack == "nothing"]
    chosen = [arm for arm in arms if seen != ACCESSED or not ARMS[arm].accessed]
    return _sum(tallies[arm].rate(seen) for arm in chosen)


def _lost(tallies: Tallies) -> Rate:
    """How often A was clear in the end where it had been set."""
    return _sum(tallies[arm].rate(without=[ACCESSED]) for arm, recipe in ARMS.items() if recipe.accessed)


def _spoiled(tallies: Tallies, why: str) -> Rate:
    """How many trials are none. A translation that shall be cached may be lost; a page that is held is counted apart."""
    arms = [arm for arm, recipe in ARMS.items() if not recipe.cached and arm.question != HELD.name]
    return _sum(tallies[arm].spoiled_by(why) for arm in arms)


def _sum(rates: Iterable[Rate]) -> Rate:
    return sum(rates, Rate(0, 0))
