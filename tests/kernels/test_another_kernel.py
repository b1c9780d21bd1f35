"""A kernel that is not ours is run, recorded, replayed and judged, and nothing of ours is loaded for it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kstack.base.errors import ConfigError
from kstack.fault import Fault, Moment
from kstack.inject.sites import _Counting
from kstack.kernels.known import usual_guests
from kstack.recording import read_recording, write_recording
from kstack.run.expected import judged
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.run.spec import RunSpec, replay_session
from kstack.sanitizer.findings import Kind
from kstack.schedule import RandomSchedule, RoundRobin
from kstack.trace.events import Events
from tests.support.command import ROOT
from tests.support.listing_kernel import EVENTS, FAILED, PASSED, STACKS, ListingGuests, ListingKernel

LATE = 7
"""Units of a slice: no mark lies at its end."""


def spec(kind: str, **more: bool) -> RunSpec:
    return RunSpec(kind, options=RunOptions(max_time=100_000, **more), guests=ListingGuests())


def ran(kind: str) -> tuple[Session, RunResult]:
    session = spec(kind).session(RoundRobin(LATE))
    return session, session.run()


def test_a_kernel_that_flushes_is_found_nothing_wrong_with_though_it_was_asked() -> None:
    session, result = ran("flushes")
    assert isinstance(session.kernel, ListingKernel)
    assert (result.ended, result.exit_value, result.findings) == ("exit", PASSED, ())
    assert result.exercised > 0 and result.stack_walks > 0
    assert (result.passed, result.failed, result.code) == (True, False, 0)
    assert "0x1 to the debug-exit port" in result.reason


def test_a_kernel_that_forgets_to_is_found_out_and_its_own_words_for_it_count() -> None:
    _, result = ran("forgets")
    (found,) = result.findings
    assert found.kind is Kind.STALE_TRANSLATION
    assert f"wrote page 0 of the stack of thread 2 at {STACKS + 0x4FF8:#x}" in found.text
    assert "now page 0 of the stack of thread 1" in found.text
    assert found.symbol.startswith("sleeps")
    assert [one.text for one in found.history if one.text.startswith("guest")] == ["guest: taken", "guest: awake"]
    assert (result.exit_value, result.passed, result.failed, result.code) == (FAILED, False, True, 1)
    assert judged(None, result).findings == result.findings


def test_a_trace_and_the_debugger_have_what_is_found_in_it() -> None:
    session = spec("forgets").session(RoundRobin(LATE))
    events = Events(session, lambda *_: None)
    (found,) = session.run().findings
    assert [event.name for event in events.take() if event.kind == "finding"] == [found.kind.value]


def test_its_events_are_told_as_they_are_marked() -> None:
    session, _ = ran("flushes")
    assert [name for _, _, name in session.events] == list(EVENTS.values())


@pytest.mark.parametrize("kind", ["flushes", "forgets"])
def test_a_recording_of_it_is_repeated_to_the_same_state(kind: str, tmp_path: Path) -> None:
    setup = spec(kind)
    session = setup.session(RandomSchedule(3))
    result = session.run()
    write_recording(tmp_path / "r.json", setup.recording(session.choices, result))
    recording = read_recording(tmp_path / "r.json")
    again = replay_session(recording, guests=ListingGuests()).run()
    assert again.state_hash == recording.state_hash
    assert again == replace(result, stuck=again.stuck)


def test_it_is_saved_and_goes_on_to_the_same_findings() -> None:
    session = spec("forgets").session(RoundRobin(LATE))
    while not any(name == "taken" for _, _, name in session.events):
        assert session.step(LATE) is None
    state = session.save()
    assert state is not None
    first = session.run()
    other = spec("forgets").session(RoundRobin(LATE))
    other.load(state)
    assert other.run().findings == first.findings != ()


def test_it_ends_at_a_finding_where_that_is_wanted() -> None:
    result = spec("forgets", stop_at_finding=True).session(RoundRobin(LATE)).run()
    assert (result.ended, len(result.findings)) == ("finding", 1)


def test_its_windows_are_where_faults_are_tried() -> None:
    session = spec("flushes").session(RoundRobin(LATE))
    counting = _Counting(session)
    session.run()
    assert {site.symbol.partition("+")[0] for site in counting.sites} == {"page_fault", "back"}
    setup = replace(spec("flushes"), faults=(Fault("machine-check", Moment(counting.sites[0].time), cpu=0),))
    assert setup.session(RoundRobin(LATE)).run().ended == "shutdown", "it has no handler"


def test_the_kernel_made_last_for_a_machine_is_the_one_that_its_guest_tells() -> None:
    session = spec("flushes").session(RoundRobin(LATE))
    assert session.is_current
    Session(session.machine, session.symbols, RoundRobin(LATE), kernel=ListingGuests().kernel)
    assert not session.is_current


def test_a_policy_that_it_would_not_ask_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave the policy out"):
        replace(spec("flushes"), policy="fixed-16k").session(RoundRobin(LATE))


def test_nothing_of_ours_is_loaded_for_it() -> None:
    program = (
        "import sys\n"
        "from kstack.run.spec import RunSpec\n"
        "from kstack.schedule import RoundRobin\n"
        "from tests.support.listing_kernel import ListingGuests\n"
        "result = RunSpec('forgets', guests=ListingGuests()).session(RoundRobin(7)).run()\n"
        "print(len(result.findings), *(name for name in sys.modules if name.startswith('kstack.kernels.kstack')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_ours_is_what_a_run_has_where_nobody_says_otherwise() -> None:
    assert RunSpec("selftest").guests == usual_guests()
    assert hash(RunSpec("selftest").guests) == hash(usual_guests())
