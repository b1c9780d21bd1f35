"""What is asked of the processor: questions, and the arms of trials that answer each.

An arm is a recipe (`recipe.py`) that is tried as often as all others, in an order drawn by seed. Where speculation is asked about
there are four: the entry has Accessed clear or set, and the attack is made or goes elsewhere (`idle`), which shows what is seen
without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final, NamedTuple

from kstack.probe.recipe import FRESH, VMSPLICE, WRITE, Recipe

ROUNDS: Final = (50, 150)
"""Rounds by which a conditional jump is trained, from and below: with fewer, or always as many, it is predicted rightly."""

CLEAR, SET, IDLE_CLEAR, IDLE_SET = "A=0", "A=1", "A=0, idle", "A=1, idle"
CLEAN, IDLE_CLEAN, CACHED = "D=0", "D=0, idle", "D=0, cached"


class Question(NamedTuple):
    """What is asked.

    Attributes:
        name: short, for JSON.
        text: in words.
        arms: the recipe of each arm, by its name.
    """

    name: str
    text: str
    arms: dict[str, Recipe]


def _speculative(name: str, text: str, attack: str, follow: str = "touch") -> Question:
    """Whether Accessed lets it through, and what it does to it."""
    arms = {
        CLEAR: Recipe(attack, follow=follow),
        SET: Recipe(attack, accessed=True, follow=follow),
        IDLE_CLEAR: Recipe(attack, aimed=False, follow=follow),
        IDLE_SET: Recipe(attack, accessed=True, aimed=False, follow=follow),
    }
    return Question(name, text, arms)


def _marking(name: str, text: str, attack: str, sealed: bool = False) -> Question:
    """Whether it sets Accessed."""
    return Question(name, text, {CLEAR: Recipe(attack, sealed=sealed)})


def _dirtying(name: str, text: str, attack: str) -> Question:
    """Whether it sets Dirty, through a writable entry that has A."""
    arms = {
        CLEAN: Recipe(attack, FRESH, accessed=True),
        IDLE_CLEAN: Recipe(attack, FRESH, accessed=True, aimed=False),
    }
    return Question(name, text, arms)


UNASKED: Final = (
    _speculative("jump-load", "load, mispredicted jump", "jump_load"),
    _speculative("ret-load", "load, mispredicted RET", "ret_load"),
    _speculative("ret-store", "store, mispredicted RET", "ret_store"),
    _speculative("ret-fetch", "fetch, mispredicted RET", "ret_fetch", "enter"),
    _speculative("ret-prefetch", "PREFETCHT0, mispredicted RET", "ret_prefetch"),
    _speculative("next-page", "hardware prefetch, next page", "next_page"),
)
"""Accesses that no instruction asked for: nothing of them retires. The mode `speculation` is about these."""
HINTS: Final = (
    _speculative("prefetcht0", "PREFETCHT0", "prefetcht0"),
    _speculative("prefetchw", "PREFETCHW", "prefetchw"),
)
"""Instructions that retire, so that somebody asked: they decide no mode."""
MARKING: Final = (
    _marking("clflush", "CLFLUSH", "clflush_target"),
    _marking("write-fault", "store that faults on rights", "faulting_store", sealed=True),
    _marking("fetch-fault", "fetch that faults on rights", "faulting_fetch", sealed=True),
    _marking("system-call", "write(2), which reads the page", WRITE),
)
"""What may set Accessed."""
DIRTYING: Final = (
    _dirtying("ret-store-dirty", "store, mispredicted RET", "ret_store"),
    _dirtying("prefetchw-dirty", "PREFETCHW", "prefetchw"),
)
"""What may set Dirty."""
NOTHING: Final = Question(
    "nothing",
    "no attack",
    {CLEAR: Recipe("nothing"), SET: Recipe("nothing", accessed=True), CLEAN: Recipe("nothing", FRESH)},
)
LOAD: Final = Question(
    "load",
    "load that retires",
    {CLEAR: Recipe("load"), SET: Recipe("load", accessed=True), CLEAN: Recipe("load", FRESH)},
)
FETCH: Final = Question("fetch", "fetch that retires", {CLEAR: Recipe("fetch")})
STORE: Final = Question("store", "store that retires", {CLEAN: Recipe("store", FRESH)})
HELD: Final = Question("held", "vmsplice(2), which takes hold of the page", {CLEAR: Recipe(VMSPLICE)})
CONTROLS: Final = (NOTHING, LOAD, FETCH, STORE, HELD)
"""What is known before, by which the method is judged."""
REWALK: Final = Question(
    "rewalk", "store through an entry cached with D=0", {CACHED: Recipe("store", FRESH, cached=True)}
)
KEPT: Final = Question("kept", "load through an entry cached with D=0", {CACHED: Recipe("load", FRESH, cached=True)})

ALL: Final = (*UNASKED, *HINTS, *MARKING, *DIRTYING, REWALK, KEPT, *CONTROLS)


class Arm(NamedTuple):
    """An arm of a question, by their names."""

    question: str
    arm: str


ARMS: Final = {Arm(one.name, name): recipe for one in ALL for name, recipe in one.arms.items()}
"""All recipes, in the order in which the measuring process knows them."""


def order(trials: int, seed: int) -> Iterator[tuple[int, int]]:
    """The trials: number of the arm and rounds of training, shuffled.

    Args:
        trials: of each arm.
        seed: of the order and of the rounds.
    """
    random = Random(seed)
    drawn = [number for number in range(len(ARMS)) for _ in range(trials)]
    random.shuffle(drawn)
    for number in drawn:
        yield number, random.randrange(*ROUNDS)
