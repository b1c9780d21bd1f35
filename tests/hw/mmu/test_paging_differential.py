"""Random page tables: Unicorn's own walker, kstack's machine and kstack's walk do the same.

The same physical address, fault or not, error code, CR2, and A and D in every entry afterwards.
What the three are, and the one thing that is not compared, is in tests/support/paging_cases.py.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstack.hw.mmu.walk import WalkRules
from kstack.x86.errors import PageFault
from tests.support.paging_cases import FETCH, LOAD, STORE, WalkAlone, Walkers, generate

SEEDS: Final = 10
CASES: Final = 1000


@pytest.fixture(scope="module")
def walkers() -> Walkers:
    return Walkers()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_thousand_random_walks_agree(walkers: Walkers, seed: int) -> None:
    random = Random(seed)
    kinds: Counter[tuple[str, bool]] = Counter()
    errors = 0
    compared = 0
    while compared < CASES:
        case = generate(random)
        if walkers.excluded(case) is None:
            compared += 1
            result = walkers.compare(case)
            kinds[case.kind, result.fault is None] += 1
            errors |= result.fault[1] or 0 if result.fault is not None else 0
    assert walkers.bare.untouched(), "nothing else changed"
    assert walkers.machine.untouched(), "nothing else changed"
    assert all(kinds[kind, done] >= 20 for kind in (LOAD, STORE, FETCH) for done in (True, False)), kinds
    assert errors == sum(PageFault), "every bit of the error code was seen"


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_walks_agree(walkers: Walkers, random: Random) -> None:
    case = generate(random)
    if walkers.excluded(case) is None:
        walkers.compare(case)


def agree(walkers: Walkers, seed: int, count: int) -> None:
    random = Random(seed)
    for _ in range(count):
        case = generate(random)
        if walkers.excluded(case) is None:
            walkers.compare(case)


@pytest.mark.parametrize("broken", [WalkRules(combine=False), WalkRules(set_accessed=False)])
def test_a_broken_walk_is_found(broken: WalkRules) -> None:
    walkers = Walkers()
    walkers.alone = WalkAlone(broken)
    with pytest.raises(AssertionError, match="BareUnicorn"):
        agree(walkers, seed=0, count=100)
