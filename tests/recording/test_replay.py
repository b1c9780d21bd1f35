"""Recordings: written whole, repeated exactly, refused when damaged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from kstack.base.errors import RecordingError
from kstack.hw.modes import READINGS
from kstack.recording import UNFINISHED, VERSION, pack, read_recording, unpack, write_recording
from kstack.recording import journal as journal_module
from kstack.recording.journal import Journal
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec
from kstack.schedule import Choice, RoundRobin
from tests.support.command import ROOT, document, kstack
from tests.support.own_policy import OWN_POLICY


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


@pytest.mark.parametrize("reading", READINGS)
def test_under_each_reading_of_accessed_it_is_repeated_under_the_same(reading: str, tmp_path: Path) -> None:
    file, modes = tmp_path / "r.json", ("--mode", "tlb=adversarial", "--mode", f"speculation={reading}")
    kstack("run", "laight", "--policy", "entry-exit", "--schedule", "random", "--seed", "3", *modes, "--record", file)
    assert read_recording(file).modes["speculation"] == reading
    again = document("replay", file, told=True)
    assert (again["identical"], again["modes"]["speculation"]) == (True, reading)


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
        (lambda text: text.replace(f'"version": {VERSION}', '"version": 99'), "version 99"),
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
    policy.write_text(OWN_POLICY)
    recording = tmp_path / "r.json"
    assert kstack("run", "laight", "--policy", str(policy), "--record", str(recording)).returncode == 0
    policy.write_text(OWN_POLICY + "# changed")
    done = kstack("replay", str(recording))
    assert done.returncode == 2
    assert "has changed" in done.stderr


# --- a recording that was being made


ENDLESS = """
from kstack.cli import main
import sys
sys.argv = ["kstack", "run", "pump-long", "--policy", "entry-exit", "--schedule", "round-robin:50", "--record", sys.argv[1]]
main()
"""


def test_what_a_killed_run_has_written_down_can_be_repeated(tmp_path: Path) -> None:
    place = tmp_path / "r.json"
    running = subprocess.Popen([sys.executable, "-c", ENDLESS, str(place)], stdout=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (place.exists() and place.read_text().count("\n") >= 4) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.kill()
    running.wait()
    recording = read_recording(place)
    assert recording.ended == UNFINISHED
    assert recording.time > 100_000
    done = kstack("replay", str(place), "--json")
    found = json.loads(done.stdout)
    assert (found["exit"], done.returncode) == ("unfinished", 4)
    assert found["instructions"] >= recording.time
    again = json.loads(kstack("replay", str(place), "--json").stdout)
    assert again["state_hash"] == found["state_hash"]


def journal(path: Path) -> list[str]:
    """The lines of a journal of a few slices."""
    setup = RunSpec("litmus-laight", 2, 64 << 20, policy="fixed-16k", options=RunOptions(3000))
    scheduler = Journal(path, to_builtins(setup.head()), RoundRobin(1 << 20))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal_module, "SECONDS", -1.0)
        setup.session(scheduler).run()
    scheduler.close()
    return path.read_text().splitlines(keepends=True)


def test_a_line_that_was_not_written_to_its_end_is_left_out(tmp_path: Path) -> None:
    place = tmp_path / "r.json"
    lines = journal(place)
    assert len(lines) > 2
    whole = list(read_recording(place).schedule())
    place.write_text("".join(lines)[:-7])
    assert list(read_recording(place).schedule()) == whole[:-1]


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (0, lambda line: line.replace("fixed-16k", "fixed-17k"), "its first line"),
        (1, lambda line: line.replace('"choices": "', '"choices": "x'), "in line 2"),
        (1, lambda line: line[: len(line) // 2] + "\n", "in line 2"),
        (0, lambda line: line.replace(f'"version": {VERSION}', '"version": 77'), "its first line"),
    ],
)
def test_a_damaged_journal_is_one_clear_error(number: int, change: Any, says: str, tmp_path: Path) -> None:
    place = tmp_path / "r.json"
    lines = journal(place)
    lines[number] = change(lines[number])
    place.write_text("".join(lines))
    with pytest.raises(RecordingError, match=says):
        read_recording(place)


def test_lines_of_a_journal_that_are_lost_or_moved_are_noticed(tmp_path: Path) -> None:
    place = tmp_path / "r.json"
    lines = journal(place)
    assert len(lines) > 3
    for changed in (
        [lines[0], *lines[2:]],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines[:2], lines[1], *lines[2:]],
    ):
        place.write_text("".join(changed))
        with pytest.raises(RecordingError, match="is damaged in line"):
            read_recording(place)


def test_the_clock_is_looked_at_at_each_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few long slices may take longer than many short ones."""
    now = iter(range(1000))
    monkeypatch.setattr(journal_module, "_CLOCK", lambda: float(next(now)))
    setup = RunSpec("litmus-laight", 2, 64 << 20, policy="fixed-16k", options=RunOptions(3000))
    scheduler = Journal(tmp_path / "r.json", to_builtins(setup.head()), RoundRobin(500))
    result = setup.session(scheduler).run()
    scheduler.close()
    recording = read_recording(tmp_path / "r.json")
    assert recording.time > result.time - 2 * 500


def test_nothing_is_written_for_a_run_that_cannot_begin(tmp_path: Path) -> None:
    done = kstack("run", "laight", "--policy", "nobody", "--record", str(tmp_path / "r.json"))
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())
