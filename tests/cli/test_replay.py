"""Recordings: written whole, repeated exactly, refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import MINE, kstack
from vm.errors import RecordingError
from vm.recording import pack, read_recording, unpack, write_recording
from vm.schedule import Choice


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "r.json"
    words = ("run", "laight", "--policy", "entry-exit", "--schedule", "random", "--seed", "7", "--record", str(path))
    assert kstack(*words).returncode == 1
    return path


def test_a_recording_is_repeated_exactly(recorded: Path) -> None:
    done = kstack("replay", str(recorded), "--json")
    found = json.loads(done.stdout)
    assert found["identical"] is True
    assert found["findings"][0]["kind"] == "stale-translation"
    assert done.returncode == 1, "the finding is found again"


def test_a_recording_is_kilobytes(recorded: Path) -> None:
    assert recorded.stat().st_size < 16_384


def test_replay_stops_where_it_is_told(recorded: Path) -> None:
    done = kstack("replay", str(recorded), "--to", "100000")
    assert done.returncode == 0
    assert "at virtual time 100000" in done.stdout
    assert "CPU 1:" in done.stdout


def test_a_replayed_schedule_gives_the_same_state_as_the_recorded_run(recorded: Path) -> None:
    done = kstack("run", "laight", "--policy", "entry-exit", "--schedule", f"replay:{recorded}", "--json")
    assert json.loads(done.stdout)["state_hash"] == read_recording(recorded).state_hash


def test_a_replay_under_another_policy_diverges_or_differs_but_never_passes_as_the_same(recorded: Path) -> None:
    done = kstack("run", "laight", "--policy", "fixed-16k", "--schedule", f"replay:{recorded}")
    assert done.returncode in (0, 2)
    assert read_recording(recorded).state_hash not in done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace('"seed"', '"sead"').replace("entry-exit", "entry-exot"), "damaged"),
        (lambda text: text[: len(text) // 2], "no recording"),
        (lambda text: text.replace('"version": 2', '"version": 99'), "version 99"),
        (lambda text: "[]", "no recording of kstack"),
        (lambda text: "", "no recording"),
    ],
)
def test_a_bad_recording_is_one_clear_error(recorded: Path, tmp_path: Path, change, says: str) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(change(recorded.read_text()))
    with pytest.raises(RecordingError, match=says):
        read_recording(bad)
    done = kstack("replay", str(bad))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_recording_is_named() -> None:
    done = kstack("replay", "nowhere.json")
    assert done.returncode == 2
    assert "nowhere.json" in done.stderr


def test_nothing_half_written_is_left_where_it_cannot_be_written(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        write_recording(tmp_path / "no" / "such" / "r.json", read_recording(recorded))
    assert list(tmp_path.iterdir()) == []


def test_choices_survive_packing() -> None:
    choices = [Choice(0, 1), Choice(63, 1 << 40), Choice(1, 127), Choice(1, 128)]
    assert list(unpack(pack(choices))) == choices


def test_compare_writes_a_witness_that_replays(tmp_path: Path) -> None:
    words = ("compare", "--policies", "entry-exit,fixed-16k", "--scenarios", "laight", "--schedules", "0")
    done = kstack(*words, "--witnesses", str(tmp_path), "--json")
    witness = {result["policy"]: result["witness"] for result in json.loads(done.stdout)["results"]}
    assert witness["fixed-16k"] is None
    assert json.loads(kstack("replay", witness["entry-exit"], "--json").stdout)["identical"] is True


def test_replay_in_the_middle_gives_json_too(recorded: Path) -> None:
    found = json.loads(kstack("replay", str(recorded), "--to", "100000", "--json").stdout)
    assert found["time"] == 100000
    assert len(found["cpus"]) == 2


def test_a_policy_whose_source_has_changed_is_not_replayed(tmp_path: Path) -> None:
    policy = tmp_path / "mine.py"
    policy.write_text(MINE)
    recording = tmp_path / "r.json"
    assert kstack("run", "laight", "--policy", str(policy), "--record", str(recording)).returncode == 0
    policy.write_text(MINE + "# changed")
    done = kstack("replay", str(recording))
    assert done.returncode == 2
    assert "has changed" in done.stderr
