"""The process that measures: whatever becomes of it is told, and it does not stay."""

from __future__ import annotations

import os
import signal
import time

import pytest

from kstack.probe import measure as measuring
from kstack.probe.measure import START, job, measure
from kstack.probe.recipe import Bits, Observation

ONE = '{"cpu": 3, "hypervisor": "KVMKVMKVM"}'
SEEN = '{"seen": [[4, 0, 1, false, 99], [5, 1, 1, true, 300]]}'
HEAR = "import json, os, signal, sys, time; asked = json.load(sys.stdin); "


def say(*lines: str) -> str:
    """A program that says these."""
    return HEAR + "".join(f"print({line!r}, flush=True); " for line in lines)


def ignore(done: int, total: int) -> None:
    pass


def test_what_it_says_is_taken() -> None:
    told: list[tuple[int, int]] = []
    found = measure(job(1, 0), lambda *numbers: told.append(numbers), say(ONE, SEEN, '{"done": true}'))
    assert (found.cpu, found.hypervisor, found.failure, found.complete) == (3, "KVMKVMKVM", "", True)
    assert found.observed == [
        Observation(4, Bits(0), Bits.ACCESSED, False, 99),
        Observation(5, Bits.ACCESSED, Bits.ACCESSED, True, 300),
    ]
    assert told == [(0, 51), (2, 51), (2, 51)]


@pytest.mark.parametrize("number", ["SIGSYS", "SIGILL", "SIGSEGV", "SIGKILL"])
def test_what_kills_it_is_told(number: str) -> None:
    found = measure(job(1, 0), ignore, say(ONE, SEEN) + f"os.kill(os.getpid(), signal.{number})")
    assert found.failure == f"the measuring process was killed by {number} after 2 trials"
    assert not found.complete


def test_it_may_die_before_it_has_heard_what_it_should_do() -> None:
    found = measure(job(2000, 0), ignore, "import os; os._exit(3)")
    assert found.failure == "the measuring process ended with exit code 3 after 0 trials"


def test_what_the_kernel_refuses_is_told() -> None:
    found = measure(job(1, 0), ignore, say('{"error": "/proc/self/clear_refs: Permission denied"}'))
    assert found.failure == "/proc/self/clear_refs: Permission denied"


@pytest.mark.parametrize("name", ["CLEAR_REFS", "SMAPS"])
def test_a_system_without_one_of_the_two_files_is_told_by_it(name: str) -> None:
    without = START.replace("main()", f"import kstack.probe.memory as m; m.{name} = '/nowhere/of-these'; main()")
    found = measure(job(1, 0), ignore, without)
    assert found.failure == "/nowhere/of-these: No such file or directory" and not found.observed


def test_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SILENCE", 0.2)
    started = time.monotonic()
    found = measure(job(1, 0), ignore, say(ONE) + "time.sleep(60)")
    assert found.failure.startswith("the measuring process has said nothing for") and time.monotonic() - started < 30


def test_an_interrupt_leaves_what_there_is_and_no_process() -> None:
    pids: list[int] = []

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    program = say(ONE, SEEN) + "time.sleep(60)"
    with pytest.MonkeyPatch.context() as patch:
        popen = measuring.subprocess.Popen

        def noted(*words: object, **named: object) -> object:
            made = popen(*words, **named)  # type: ignore[call-overload] # as it is called
            pids.append(made.pid)
            return made

        patch.setattr(measuring.subprocess, "Popen", noted)
        found = measure(job(1, 0), interrupt, program)
    assert (len(found.observed), found.complete, found.failure) == (2, False, "")
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], signal.SIGCONT)
