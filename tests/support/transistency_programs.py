"""Litmus tests on pages, held to the abstract machine: shapes and random programs, in every mode, on the explored machine."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from kstack.base.errors import ConfigError
from kstack.explore.problem import Bounds
from kstack.hw.modes import Modes
from kstack.kernels.kstack.pages import FinalValues, Litmus
from kstack.testing.reachable import Guest
from tests.support.shapes import Shape
from tests.support.transistency import INCLUDED, ORDERS, SPECULATIONS, Reading
from tests.support.transistency import outcomes as abstract

MODES: Final = tuple((order, speculation) for order in ORDERS for speculation in SPECULATIONS)
_KINDS: Final = {
    "store": 4.0, "load": 6.0, "exchange": 1.0, "fence": 1.0, "lock": 0.5, "entry-store": 5.0, "entry-load": 2.0,
    "entry-exchange": 1.0, "entry-compare": 1.0, "entry-lock": 2.0, "entry-change": 1.5, "invlpg": 2.0, "cr3": 0.7, "shoot": 1.5,
}  # fmt: skip
_MISSING: Final = {"P": 0.05, "W": 0.15, "A": 0.3, "D": 0.3}  # how often a flag is clear


class Comparison(NamedTuple):
    """A test in one mode: how many outcomes there are, and those that only one of the two machines has."""

    mode: tuple[str, str]
    outcomes: int
    missing: set[FinalValues]
    more: set[FinalValues]
    stuck: int
    states: int

    @property
    def agrees(self) -> bool:
        """Both have the same outcomes, and no state of the explored one is without an end."""
        return not (self.missing or self.more or self.stuck)


def compare(guest: Guest, mode: tuple[str, str], every_move: bool) -> Comparison:
    """A test on both machines."""
    expected = abstract(guest.test, Reading(*mode))
    found = guest.outcomes(Modes(memory_order=mode[0], speculation=mode[1]), Bounds(every_move=every_move))
    assert found.complete
    seen = {tuple(one.items()) for one in found}
    return Comparison(mode, len(expected), expected - seen, seen - expected, found.stuck, found.states)


def shown(shape: Shape, outcomes: dict[tuple[str, str], set[FinalValues]]) -> str:
    """In which modes the outcome of interest is there, as `Shape.allowed` has it."""
    letters = ["x" if any(map(shape.matches, outcomes[mode])) else "." for mode in MODES]
    count = len(SPECULATIONS)
    return " ".join("".join(letters[at : at + count]) for at in range(0, len(MODES), count))


def uncovered(outcomes: Mapping[tuple[str, str], set[FinalValues]]) -> list[tuple[str, str, str]]:
    """Memory order and two speculations of which the first has an outcome that the second has not, against `INCLUDED`."""
    return [
        (order, less, more)
        for order in dict.fromkeys(order for order, _ in outcomes)
        for less, more in INCLUDED
        if not outcomes[order, less] <= outcomes[order, more]
    ]


def draw(seed: int) -> Litmus:
    """Two CPUs with two to four operations each, of two locations."""
    rng = random.Random(f"transistency {seed}")
    while True:
        init: dict[str, int | str] = {f"pte {name}": _entry(rng) for name in "xy" if rng.random() < 0.5} | {"y": 4}
        programs = ["; ".join(_operation(rng) for _ in range(rng.randint(2, 4))) for _ in range(2)]
        try:
            return Litmus.of(programs, init, rng.random() < 0.3)
        except ConfigError:
            continue  # more results than there is room for


def _entry(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "0"
    missing = "".join(flag for flag, share in _MISSING.items() if rng.random() < share)
    return rng.choice("xy") + (f"-{missing}" if missing else "")


def _operation(rng: random.Random) -> str:
    kind, x = rng.choices(list(_KINDS), list(_KINDS.values()))[0], rng.choice("xy")
    change = rng.choice(("-P", "-W", "-A", "-D", "+W", "+A", "+D"))
    return {
        "store": f"{x}={rng.randint(1, 2)}",
        "load": f"r {x}",
        "exchange": f"{x}<>3",
        "entry-store": f"pte {x}={_entry(rng)}",
        "entry-load": f"r pte {x}",
        "entry-exchange": f"pte {x}<>{_entry(rng)}",
        "entry-compare": f"pte {x}={_entry(rng)} if {_entry(rng)}",
        "entry-lock": f"lock pte {x}{change}",
        "entry-change": f"pte {x}{change}",
        "invlpg": f"invlpg {x}",
        "shoot": f"shoot {x}",
    }.get(kind, kind)
