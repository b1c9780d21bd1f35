"""Nobody changes what the machine does and forgets that recordings of before are of another machine."""

from __future__ import annotations

import pytest

from kstack.hw.rules import RULES_VERSION
from tests.support.golden_runs import RUNS, changed, saved, source

# The policy of these runs is frozen, and still says `from vm.stacks import`.
pytestmark = pytest.mark.filterwarnings("ignore::kstack.stacks.loading.files.RenamedWarning")

WRITE = "python -m tests.support.golden_runs"


def test_the_states_were_written_under_this_version_of_the_rules() -> None:
    assert saved()["rules"] == RULES_VERSION, f"write them anew: {WRITE}"
    assert list(saved()["runs"]) == list(RUNS), f"write them anew: {WRITE}"


@pytest.mark.parametrize("name", RUNS)
def test_the_machine_comes_to_the_same_states_or_its_rules_have_another_version(name: str) -> None:
    before = saved()["runs"][name]
    assert source(RUNS[name]) == before[0], f"the run itself has changed, write them anew: {WRITE}"
    assert RUNS[name].state() == before[1], (
        f"the machine behaves otherwise than when this was written: bump RULES_VERSION in vm/hw/rules.py, then {WRITE}"
    )


def test_states_are_not_written_anew_over_a_machine_that_has_changed() -> None:
    found = {name: tuple(one) for name, one in saved()["runs"].items()}
    assert changed(found, saved()) == []
    made, state = found["retain"]
    assert changed({**found, "retain": (made, state[::-1])}, saved()) == ["retain"]
    assert changed({**found, "retain": ("another", state[::-1])}, saved()) == [], "another run"
