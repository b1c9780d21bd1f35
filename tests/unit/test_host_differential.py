"""Single instructions in ring 3, on the host's own processor and on ours: registers, flags, memory, fault and its RIP."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.differential import Differential
from tests.support.host_processor import AT, HostCannot
from vm.hw.paging import is_canonical

INSTRUCTIONS = 1_000
BATCH = 100
MORE = int(os.environ.get("KSTACK_INSTRUCTIONS", "100000"))


@pytest.fixture(scope="module")
def differential() -> Iterator[Differential]:
    try:
        made = Differential()
    except HostCannot as why:
        pytest.skip(f"no instructions can be run on this host: {why}")
    yield made
    made.close()


def _differences(differential: Differential, seeds: range) -> list[str]:
    found = []
    for seed in seeds:
        one, difference = differential.difference(seed)
        if difference:
            found.append(f"seed {seed}: {one.text} ({one.code.hex()}): {difference}")
    return found


@pytest.mark.parametrize("first", range(0, INSTRUCTIONS, BATCH))
def test_random_instructions_do_what_they_do_on_the_hosts_processor(differential: Differential, first: int) -> None:
    assert _differences(differential, range(first, first + BATCH)) == []


@pytest.mark.long
@pytest.mark.slow
def test_many_random_instructions_do_what_they_do_on_the_hosts_processor(differential: Differential) -> None:
    assert _differences(differential, range(INSTRUCTIONS, MORE)) == []


def test_a_difference_is_seen(differential: Differential, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = differential._ours
    monkeypatch.setattr(ours, "run", lambda code, state: type(ours).run(ours, b"\x90" * len(code), state))
    assert len(_differences(differential, range(20))) > 10
    assert AT and is_canonical(AT)
