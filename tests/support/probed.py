"""Processors that are made up, and what a probe of each would observe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from kstack.probe.measure import Measured
from kstack.probe.questions import ARMS, HELD, HINTS, KEPT, REWALK, UNASKED, Arm, order
from kstack.probe.recipe import SYSTEM_CALLS, Bits, Observation, Recipe
from kstack.probe.result import ProbeResult, judged

TRIALS: Final = 500
HIT, MISS = 100, 400
"""Ticks of a reload whose line is in a cache, and is not."""
STORES: Final = ("store",)
LOADS: Final = ("load", "fetch", "store", "clflush_target")

Chances = dict[str, float]
"""How likely a trial sees something, by its name in `kstack.probe.tally`."""
Spoil = Callable[[Arm, Recipe, Observation], Observation]


@dataclass(frozen=True)
class MadeUp:
    """A processor.

    Attributes:
        clear: what an access that nobody asked for does where A is clear.
        through: and where it is set.
        rewalks: a store through an entry cached with D=0 goes to the entry again.
        noise: what happens by itself.
        spoil: what is wrong with the machine, or with the method.
        lacks: questions about what it does not have at all.
    """

    clear: Chances = field(default_factory=dict)
    through: Chances = field(default_factory=dict)
    rewalks: float = 1.0
    noise: Chances = field(default_factory=dict)
    spoil: Spoil = lambda arm, recipe, one: one
    lacks: tuple[str, ...] = ()


THROUGH: Final = {"data": 0.99, "entry": 0.85}
READINGS: Final = {
    "none": MadeUp(),
    "needs-accessed": MadeUp(through=THROUGH),
    "sets-accessed": MadeUp({"accessed": 0.99, "data": 0.99}, THROUGH),
    "keeps-accessed-clear": MadeUp({"data": 0.99, "entry": 0.85}, THROUGH),
}
"""A processor that does as each value of the mode `speculation` says."""


def observe(made_up: MadeUp, trials: int = TRIALS, seed: int = 0) -> Measured:
    """What trials would see of it."""
    random, arms = Random(seed), list(ARMS.items())
    seen = []
    for number, _ in order(trials, seed):
        arm, recipe = arms[number]
        seen.append(made_up.spoil(arm, recipe, _one(made_up, random, number, arm, recipe)))
    return Measured(seen, cpu=0, hypervisor=None, complete=True)


def probed(made_up: MadeUp, trials: int = TRIALS, seed: int = 0) -> ProbeResult:
    """What a probe of it comes to."""
    return judged(observe(made_up, trials, seed), trials, seed)


def _one(made_up: MadeUp, random: Random, number: int, arm: Arm, recipe: Recipe) -> Observation:
    happens = _chances(made_up, arm, recipe)
    seen = {name for name, chance in happens.items() if random.random() < chance}
    before = Bits.ACCESSED if recipe.accessed else Bits(0)
    after = before | (Bits.ACCESSED if "accessed" in seen else Bits(0)) | (Bits.DIRTY if "dirty" in seen else Bits(0))
    if arm.question == HELD.name:
        after |= Bits.ACCESSED | Bits.PAGE_ACCESSED
    ticks = 0 if recipe.attack in SYSTEM_CALLS else HIT if "data" in seen else MISS
    return Observation(number, before, after, "entry" in seen, ticks)


def _chances(made_up: MadeUp, arm: Arm, recipe: Recipe) -> Chances:
    """What happens in a trial of an arm."""
    if not recipe.aimed or recipe.attack == "nothing" or arm.question in made_up.lacks:
        return made_up.noise
    if arm.question in {one.name for one in UNASKED}:
        return {**made_up.noise, **(made_up.through if recipe.accessed else made_up.clear)}
    if arm.question in {one.name for one in HINTS}:
        return {**made_up.noise, **(THROUGH if recipe.accessed else {})}
    if arm.question == KEPT.name:
        return {"data": 1.0, "accessed": 0.02}
    if arm.question == REWALK.name:
        return {"data": 1.0, "dirty": 1.0, "accessed": made_up.rewalks}
    if recipe.attack in LOADS:
        return {
            "data": float(recipe.attack != "clflush_target"),
            "accessed": 1.0,
            "dirty": float(recipe.attack in STORES),
        }
    return made_up.noise


def but(made_up: MadeUp, spoil: Spoil) -> MadeUp:
    """The same processor, with something wrong."""
    return replace(made_up, spoil=spoil)
