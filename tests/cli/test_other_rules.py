"""What another version of the machine's rules has recorded is refused, naming both; `--anyway` goes on, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from kstack.base.digests import digest_of
from kstack.base.errors import ConfigError
from kstack.explore import checkpoint as saving
from kstack.explore.breadth_first import Bounds, Problem, search
from kstack.explore.checkpoint import read_checkpoint
from kstack.explore.path import read_path
from kstack.hw.modes import Modes
from kstack.hw.rules import RULES_VERSION
from kstack.recording import Recording, pack, read_recording, unpack, write_document, write_recording
from kstack.schedule import Choice
from kstack.trace.store import META
from tests.support.command import kstack

OTHER = RULES_VERSION + 1
REFUSED = f"was made under version {OTHER} of the machine's rules, and this kstack has version {RULES_VERSION}"
SAYS = "not the same machine"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "r.json"
    assert kstack("run", "litmus-laight", "--policy", "switch-sp-ipi", "--record", path).returncode == 0
    return path


@pytest.fixture(scope="module")
def other(recorded: Path) -> Path:
    """The same, as another machine would have recorded it."""
    path = recorded.with_name("other.json")
    write_recording(path, replace(read_recording(recorded), rules=OTHER))
    return path


def test_a_recording_names_the_rules_of_this_machine(recorded: Path) -> None:
    assert read_recording(recorded).rules == RULES_VERSION
    assert json.loads(recorded.read_text())["rules"] == RULES_VERSION


COMMANDS: list[tuple[str, ...]] = [
    ("replay", "FILE"),
    ("replay", "FILE", "--to", "90000"),
    ("run", "litmus-laight", "--policy", "switch-sp-ipi", "--schedule", "replay:FILE"),
    ("trace", "show", "FILE"),
    ("trace", "show", "FILE", "--registers"),
    ("trace", "query", "FILE", "hot"),
    ("trace", "export", "FILE", "--output", "FILE.trace"),
    ("trace", "export", "FILE", "--format", "perfetto", "--output", "FILE.perfetto"),
    ("trace", "diff", "FILE", "FILE"),
]
SERVING: list[tuple[str, ...]] = [("trace", "view", "FILE"), ("gdb", "FILE")]


@pytest.mark.parametrize("words", COMMANDS + SERVING, ids=" ".join)
def test_it_is_refused_in_one_line_that_names_both(other: Path, words: tuple[str, ...]) -> None:
    done = kstack(*(word.replace("FILE", str(other)) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kstack: {other} {REFUSED}") and "--anyway" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_anyway_it_goes_on_and_says_what_it_is_not(other: Path, words: tuple[str, ...]) -> None:
    done = kstack(*(word.replace("FILE", str(other)) for word in words), "--anyway")
    assert done.returncode == 0
    assert f"{other} {REFUSED}: {SAYS}" in done.stderr
    assert done.stderr.count(SAYS) == (2 if "diff" in words else 1)


def test_of_the_same_rules_nothing_is_said(recorded: Path) -> None:
    for more in ((), ("--anyway",)):
        done = kstack("replay", recorded, *more)
        assert done.returncode == 0 and SAYS not in done.stderr and "identical" in done.stderr


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda choices: choices[: len(choices) // 2], "unfinished"),
        (lambda choices: [*choices[:3], Choice(7, 5), *choices[3:]], "diverged"),
    ],
)
def test_a_run_that_this_machine_cannot_follow_is_not_identical(
    other: Path, tmp_path: Path, change: Callable[[list[Choice]], list[Choice]], how: str
) -> None:
    recording, path = read_recording(other), tmp_path / "r.json"
    write_recording(path, replace(recording, choices=pack(change(list(unpack(recording.choices))))))
    done = kstack("replay", path, "--anyway", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["identical"], found["exit"]) == (1, False, how)
    assert SAYS in done.stderr


def test_a_journal_of_another_machine_is_not_called_identical(tmp_path: Path, other: Path) -> None:
    path = tmp_path / "r.json"
    write_recording(path, replace(read_recording(other), ended="unfinished", state_hash=""))
    assert kstack("replay", path).returncode == 2
    done = kstack("replay", path, "--anyway", "--json")
    assert json.loads(done.stdout)["identical"] is False


def test_replay_names_both_rules_in_json(recorded: Path, other: Path) -> None:
    found = [json.loads(kstack("replay", one, "--anyway", "--json").stdout) for one in (recorded, other)]
    assert [one["rules"] for one in found] == [
        {"recorded": rules, "machine": RULES_VERSION} for rules in (RULES_VERSION, OTHER)
    ]
    assert [one["identical"] for one in found] == [True, True], "here the two machines are one"


def test_a_witness_of_another_machine_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    kstack("explore", "litmus-laight", "--policy", "entry-exit", "--witness", path)
    saved = read_path(path)
    assert saved.rules == RULES_VERSION
    write_document(path, "witness", to_builtins(replace(saved, rules=OTHER)))
    done = kstack("replay", path)
    assert done.returncode == 2 and REFUSED in done.stderr
    done = kstack("replay", path, "--anyway")
    assert done.returncode == 1 and SAYS in done.stderr and "identical" in done.stderr


def test_a_search_is_not_gone_on_with_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, problem = tmp_path / "c", Problem("litmus-laight", "switch-sp-ipi", Modes())
    search(problem, Bounds(states=50), checkpoint=path)
    read_checkpoint(path, problem)
    monkeypatch.setattr(saving, "RULES_VERSION", OTHER)
    with pytest.raises(ConfigError, match=f"version of the machine's rules is '{RULES_VERSION}', not '{OTHER}'"):
        read_checkpoint(path, problem)


def test_traces_say_under_which_rules_they_were_made(recorded: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        kstack("trace", "export", recorded, "--output", place)
    meta = json.loads((one / META).read_text())
    assert meta.pop("rules") == RULES_VERSION
    assert kstack("trace", "diff", one, other).returncode == 0
    meta = {**meta, "rules": OTHER}
    meta.pop("digest")
    (one / META).write_text(json.dumps({**meta, "digest": digest_of(meta)}))
    done = kstack("trace", "diff", one, other)
    assert (done.returncode, f"rules: {one}: {OTHER}, {other}: {RULES_VERSION}" in done.stdout) == (1, True)


def test_a_fork_of_a_recording_is_of_this_machine(other: Path) -> None:
    from kstack.debug.forks import recording_of
    from kstack.debug.origin import Origin
    from kstack.debug.timeline import Timeline

    origin = Origin.of_recording(read_recording(other), anyway=True)
    timeline = Timeline(origin)
    timeline.goto(origin.machine.time + 500)
    made: Recording = recording_of(timeline)
    assert made.rules == RULES_VERSION


def test_outcomes_of_faults_are_not_gone_on_with_on_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    words = ("inject", "laight", "--policy", "fixed-16k", "--faults", "drop-ipi", "--limit", "1", "--resume", path)
    kstack(*words)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line.pop("rules") for line in lines} == {RULES_VERSION}
    for line in lines:
        line.pop("digest")
    signed = [{**line, "rules": OTHER} for line in lines]
    path.write_text("".join(json.dumps({**line, "digest": digest_of(line)}) + "\n" for line in signed))
    done = kstack(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path} {REFUSED}; give a new file" in done.stderr


def test_a_compares_checkpoint_is_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kstack.judge import pairs as campaign
    from kstack.judge.verdict import JudgedPair, Portfolio

    pairs = [JudgedPair("fixed-16k", "litmus-laight", Portfolio(0), Modes())]
    campaign.PairCheckpoint(tmp_path / "c", pairs).close()
    monkeypatch.setattr(campaign, "RULES_VERSION", OTHER)
    with pytest.raises(ConfigError, match=f"rules was {RULES_VERSION} and is {OTHER}"):
        campaign.PairCheckpoint(tmp_path / "c", [changed(pairs[0])])
