"""This host's processor, where it can be probed: the method is seen to work, and to fail where it is made to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kstack.hw.modes import VALUES
from kstack.probe.measure import job, measure
from kstack.probe.questions import CLEAR, HELD, IDLE_CLEAR, LOAD, SET, STORE, Arm
from kstack.probe.result import ProbeResult, judged
from kstack.probe.tally import ACCESSED, DATA, PAGE_FLAG

pytestmark = pytest.mark.usefixtures("can_probe")
TRIALS = 100


def ask(seed: int, trials: int = TRIALS, naive: bool = False) -> ProbeResult:
    return judged(measure(job(trials, seed, naive=naive), lambda done, total: None), trials, seed)


@pytest.fixture(scope="module")
def asked() -> ProbeResult:
    found = ask(1)
    failed = [str(one) for one in found.controls if not one.held]
    if failed:
        pytest.skip(f"the host is too busy: {failed[0]}")
    return found


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Processes that do nothing but run."""
    running = [subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_architectural_accesses_do_what_they_must(asked: ProbeResult) -> None:
    assert asked.tally(LOAD, CLEAR).rate(ACCESSED, DATA).share > 0.9
    assert asked.tally(LOAD, SET).rate(DATA).share > 0.9
    assert asked.tally(STORE, "D=0").rate("dirty").share > 0.9
    assert asked.tally(HELD, CLEAR).spoiled_by(PAGE_FLAG).share > 0.9


def test_where_nothing_is_attacked_nothing_is_seen(asked: ProbeResult) -> None:
    for arm, tally in asked.tallies.items():
        if arm.arm == IDLE_CLEAR:
            assert tally.some(ACCESSED, DATA).share < 0.1, arm


def test_what_faults_on_rights_is_caught_and_the_process_goes_on(asked: ProbeResult) -> None:
    for name in ("write-fault", "fetch-fault"):
        assert asked.tallies[Arm(name, CLEAR)].rate().of > 0.9 * TRIALS


def test_each_verdict_leaves_a_reading_and_refutes_none_without_an_event(asked: ProbeResult) -> None:
    for verdict in asked.verdicts:
        assert set(verdict.left) | set(verdict.refuted) == set(VALUES[verdict.mode])
        assert all(one.believed and one.rate.count > 0 for why in verdict.refuted.values() for one in why)


def test_with_the_trap_of_clflush_put_back_a_control_catches_it(asked: ProbeResult) -> None:
    """CLFLUSH of a line by the entry that is asked about, with A clear, sets A: the first try "found" 99 % so."""
    if asked.tallies[Arm("clflush", CLEAR)].rate(ACCESSED).share < 0.9:
        pytest.skip("CLFLUSH does not set Accessed on this processor")
    found = ask(1, 40, naive=True)
    assert [one.value for one in found.verdicts] == [None, None] and [one.left for one in found.verdicts] == [[], []]
    assert "idle-marks" in [one.name for one in found.controls if not one.held]
    assert found.verdicts[0].why.startswith("control idle-marks failed: A was set without an attack in 4")


def test_another_order_comes_to_the_same(asked: ProbeResult) -> None:
    again = ask(2)
    for one, other in zip(asked.verdicts, again.verdicts, strict=True):
        if one.left and other.left:  # no control of the mode failed
            assert (one.value, one.left) == (other.value, other.left)


def test_under_load_it_says_the_same_or_nothing(asked: ProbeResult) -> None:
    with busy(2):
        loaded = ask(3, 60)
    for calm, one in zip(asked.verdicts, loaded.verdicts, strict=True):
        if calm.left:  # no control of the mode failed
            assert one.value in (None, calm.value)
            assert set(one.refuted) <= set(calm.refuted)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_probes_agree() -> None:
    found = [ask(seed, 600) for seed in range(10)]
    for verdicts in zip(*(one.verdicts for one in found), strict=True):
        assert len({one.value for one in verdicts if one.conclusive}) <= 1
        assert len({tuple(one.left) for one in verdicts if one.left}) <= 1
