"""Files that earlier versions wrote are read by this one; each format's present version has such a file, too."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from kstack.base.errors import RecordingError
from kstack.explore import path as witness
from kstack.explore.path import is_path, read_path
from kstack.hw.rules import RULES_VERSION
from kstack.probe.file import VERSION as PROBE_VERSION
from kstack.probe.taken import taken_from
from kstack.recording import UNFINISHED, VERSION, Recording, read_recording
from kstack.run.session import Session
from kstack.run.spec import replay_session
from kstack.trace import store
from kstack.trace.query import Database, ask
from kstack.trace.store import read_trace
from tests.support.command import ROOT

GOLDEN: Final = ROOT / "tests" / "golden"


def files(kind: str) -> list[str]:
    return sorted(place.name for place in GOLDEN.glob(f"{kind}-*"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings name their image as it was given."""
    monkeypatch.chdir(ROOT)


def session_of(recording: Recording) -> Session:
    """What repeats it; refused first, where it is of another machine than this."""
    if recording.rules != RULES_VERSION:
        with pytest.raises(RecordingError, match=f"under version {recording.rules} of the machine's rules"):
            replay_session(recording)
    return replay_session(recording, anyway=recording.rules != RULES_VERSION)


@pytest.mark.parametrize("name", files("recording"))
def test_a_recording_is_repeated_exactly_by_the_machine_that_made_it(name: str) -> None:
    recording = read_recording(GOLDEN / name)
    result = session_of(recording).run()
    assert result.state_hash == recording.state_hash or recording.rules != RULES_VERSION


@pytest.mark.parametrize("name", files("journal"))
def test_a_journal_is_repeated_as_far_as_it_goes(name: str) -> None:
    recording = read_recording(GOLDEN / name)
    result = session_of(recording).run()
    assert (recording.ended, result.ended) == (UNFINISHED, UNFINISHED)
    assert result.time == 2800 or recording.rules != RULES_VERSION


@pytest.mark.parametrize("kind", ["recording", "journal"])
def test_files_that_name_no_rules_are_of_the_first(kind: str) -> None:
    older = [name for name in files(kind) if int(name[-6]) < 5]
    assert {read_recording(GOLDEN / name).rules for name in older} == {1}
    assert read_path(GOLDEN / "witness-1.json").rules == 1
    assert {read_trace(GOLDEN / name).meta.rules for name in ("trace-1", "trace-2")} == {1}


@pytest.mark.parametrize("name", files("witness"))
def test_a_witness_can_be_read(name: str) -> None:
    place = GOLDEN / name
    assert is_path(place)
    saved = read_path(place)
    assert (saved.scenario, saved.policy, len(saved.steps)) == ("litmus-laight", "entry-exit", 66)


@pytest.mark.parametrize("name", files("trace"))
def test_a_trace_can_be_asked(name: str) -> None:
    trace = read_trace(GOLDEN / name)
    answer = ask(Database(trace), "hot", [])
    assert answer.rows[0][:2] == ("again", 4002)
    assert trace.meta.state_hash == read_recording(GOLDEN / "recording-2.json").state_hash


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("recording", VERSION),
        ("journal", VERSION),
        ("witness", witness.VERSION),
        ("trace", store.VERSION),
        ("probe", PROBE_VERSION),
    ],
)
def test_the_present_version_has_a_file(kind: str, version: int) -> None:
    assert any(Path(name).stem == f"{kind}-{version}" for name in files(kind))


@pytest.mark.parametrize("name", files("probe"))
def test_a_probe_is_read_and_its_modes_can_be_taken(name: str) -> None:
    assert taken_from(GOLDEN / name, []).values.keys() == {"speculation", "dirty-rewalk"}
