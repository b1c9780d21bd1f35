"""Requirement 6: a run is a function of image, configuration, schedule and seed, on any host, at any time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.command import python
from tests.support.race import race


def hash_in_fresh_process(seed: int, hash_seed: int) -> str:
    program = f"from tests.support.race import race; import sys; sys.stdout.write(race({seed}).state_hash())"
    done = python("-c", program, seconds=60, PYTHONHASHSEED=str(hash_seed))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.long)])
def test_processes_with_one_seed_agree_on_one_state_hash(count: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        hashes = set(pool.map(lambda number: hash_in_fresh_process(7, number), range(count)))
    assert len(hashes) == 1
    assert len(hashes.pop()) == 32


def test_two_runs_in_one_process_agree_too() -> None:
    assert race(3).state_hash() == race(3).state_hash()


def test_another_seed_gives_another_state_hash() -> None:
    assert len({race(seed).state_hash() for seed in range(10)}) == 10


def test_another_seed_gives_another_outcome_of_the_race() -> None:
    assert len({race(seed).memory.read(0x9000, 0x40) for seed in range(10)}) > 1
