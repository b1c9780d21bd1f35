"""One way to ask for a search: each engine is the one that is asked, and what is of another engine is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kstack.base.errors import ConfigError
from kstack.explore import Bounds, Problem, explore
from kstack.hw.modes import Modes
from kstack.stacks.oracle import Oracle

SMALL = Problem("litmus-heir", "accessed-atomic", Modes(df_restart="exact"))


def test_random_walks_are_made_where_they_are_asked_for() -> None:
    outcome = explore(SMALL, Bounds(executions=3), engine="sample")
    assert (outcome.verdict, outcome.executions) == ("undecided", 3)


@pytest.mark.parametrize(
    ("engine", "bounds", "more", "says"),
    [
        ("stateful", Bounds(preemptions=1), {}, "--preemptions is for the engine dpor"),
        ("dpor", Bounds(every_move=True), {}, "--every-move is for the engine stateful"),
        ("sample", Bounds(), {"checkpoint": Path("none")}, "--checkpoint are for the engine stateful"),
        ("quick", Bounds(), {}, "engine 'quick' does not exist"),
    ],
)
def test_what_is_of_another_engine_is_refused(engine: Any, bounds: Bounds, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        explore(SMALL, bounds, engine, **more)


def test_who_hears_drops_of_translations_adds_nothing_to_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = explore(SMALL)
    monkeypatch.delattr(Oracle, "on_drop")
    assert explore(SMALL).states == heard.states
