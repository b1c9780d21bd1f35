"""A scenario of the user's own: a TOML by its path, its assembly beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.cli.compare import _pairs
from kstack.hw.modes import Modes
from kstack.judge.verdict import Portfolio
from tests.support.command import kstack
from tests.support.memory_order import parse, write_scenario


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """Two CPUs that store and load (litmus test SB)."""
    return write_scenario(tmp_path, [parse("x=1; r y"), parse("y=1; r x")])


def test_it_is_explored_judged_and_run(toml: Path) -> None:
    explored = kstack("explore", str(toml), "--policy", "fixed-16k", "--mode", "memory-order=tso")
    assert (explored.returncode, "x86-TSO" in explored.stdout) == (4, True), explored.stderr  # it asks nothing of it
    judged = kstack("compare", "--scenarios", str(toml), "--policies", "fixed-16k", "--schedules", "2", "--json")
    assert (judged.returncode, '"safe": true' in judged.stdout) == (0, True), judged.stderr
    run = kstack("run", str(toml), "--policy", "fixed-16k", "--record", str(toml.parent / "r.json"))
    assert run.returncode == 0, run.stderr
    again = kstack("replay", str(toml.parent / "r.json"))
    assert (again.returncode, "identical" in again.stderr) == (0, True), again.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.parent / "order.s").unlink(), "order.s"),
        (lambda path: path.write_text("id = 1"), "order.toml"),
        (lambda path: (path.parent / "order.s").write_text("nonsense here"), "order.s"),
    ],
    ids=["no file", "no source", "no scenario", "no assembly"],
)
def test_what_is_wrong_with_it_is_named(change: object, says: str, toml: Path) -> None:
    assert callable(change)
    change(toml)
    for words in (("explore", str(toml), "--policy", "fixed-16k"), ("run", str(toml))):
        failed = kstack(*words)
        assert (failed.returncode, says in failed.stderr) == (2, True), failed.stderr
        assert "Traceback" not in failed.stderr


def test_a_long_scenario_is_judged_only_where_it_is_named() -> None:
    usual = {pair.scenario for pair in _pairs("fixed-16k", None, Portfolio(), Modes())}
    named = {pair.scenario for pair in _pairs("fixed-16k", "pump-long", Portfolio(), Modes())}
    assert ("pump" in usual, "pump-long" in usual, named) == (True, False, {"pump-long"})
