"""A witness of kstack explore goes to a file, is made again from there, and says where it parts from what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kstack.explore.path import VERSION
from kstack.hw.modes import READINGS
from tests.support.command import kstack

SCENARIO = "litmus-laight"
Saved = tuple[Path, Path, dict[str, Any]]


def own_policy(folder: Path) -> Path:
    """A copy of a policy, which can be changed."""
    source = Path(__file__).parents[2] / "policies" / "switch_sp_local.py"
    found = folder / "mine.py"
    found.write_text(source.read_text())
    return found


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """A policy, the file of a witness against it, and the document of the exploration."""
    policy, file = own_policy(tmp_path), tmp_path / "witness.json"
    explored = kstack("explore", SCENARIO, "--policy", policy, "--witness", file, "--json")
    assert explored.returncode == 1, explored.stderr
    return policy, file, json.loads(explored.stdout)


def test_a_witness_is_made_again(saved: Saved) -> None:
    _, file, document = saved
    again = kstack("replay", file)
    assert again.returncode == 1
    assert document["finding"]["text"] in again.stdout
    assert f"{document['minimised']['steps']} moves, identical" in again.stderr
    steps = json.loads(file.read_text())["steps"]
    named = [(step["cpu"], step["what"], step["symbol"]) for step in steps]
    assert named == [(line["cpu"], line["what"], line["symbol"]) for line in document["witness"]]
    assert json.loads(kstack("replay", file, "--json").stdout)["divergence"] is None


@pytest.mark.parametrize("reading", READINGS)
def test_under_each_reading_of_accessed_a_witness_is_made_again(reading: str, tmp_path: Path) -> None:
    file, mode = tmp_path / "witness.json", f"speculation={reading}"
    explored = kstack("explore", "litmus-walker", "--policy", "accessed-plain", "--mode", mode, "--witness", file)
    again = kstack("replay", file)
    assert explored.returncode == again.returncode == 1
    assert "moves, identical" in again.stderr
    assert mode in again.stdout + again.stderr


def test_under_a_changed_policy_it_says_where_they_part(saved: Saved) -> None:
    policy, file, document = saved
    text = policy.read_text()
    policy.write_text(text.replace("yield Invlpg(page)", "yield Invlpg(page)\n            yield Invlpg(page)"))
    assert policy.read_text() != text
    again = kstack("replay", file, "--json")
    divergence = json.loads(again.stdout)["divergence"]
    assert again.returncode == 1
    assert 1 < divergence["number"] < document["minimised"]["steps"]
    assert divergence["recorded"] != divergence["now"]
    assert "Invlpg" in divergence["now"]


def test_a_damaged_witness_is_refused(saved: Saved) -> None:
    _, file, _ = saved
    text = file.read_text()
    for broken, said in (
        (text.replace('"choice": 0', '"choice": 1', 1), "is damaged"),
        (text.replace(f'"version": {VERSION}', '"version": 7', 1), "has version 7"),
        (text.replace('"kstack": "witness"', '"kstack": "poem"', 1), "is no recording of kstack"),
        (text[:-40], "is no recording"),
    ):
        file.write_text(broken)
        again = kstack("replay", file)
        assert again.returncode == 2
        assert said in again.stderr


def test_there_is_no_time_in_a_witness(saved: Saved) -> None:
    again = kstack("replay", saved[1], "--to", 100)
    assert again.returncode == 2
    assert "in which there is no time" in again.stderr


def test_a_random_walk_s_finding_is_minimised() -> None:
    explored = kstack("explore", SCENARIO, "--policy", "entry-exit", "--engine", "sample", "--json")
    document = json.loads(explored.stdout)
    assert explored.returncode == 1
    assert document["minimised"]["steps"] <= 70 < document["steps"]
    assert document["minimised"]["switches"] <= 4
    assert document["critical_pair"] is not None


@pytest.mark.parametrize(("states", "way"), [(200, "one way: "), (2000, "shortest way: ")])
def test_a_way_is_called_the_shortest_only_if_every_move_was_tried(states: int, way: str) -> None:
    """The search with every move needs 429 states to the finding; the one that makes fewer finds another way in 98."""
    done = kstack("explore", SCENARIO, "--policy", "entry-exit", "--states", str(states))
    assert done.returncode == 1
    assert next(line for line in done.stdout.splitlines() if " way: " in line).startswith(way)
