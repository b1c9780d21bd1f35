"""A policy that falls before a scenario's programs are ready is unsafe, at once, and not a scenario that cannot be explored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import kstack
from vm.errors import PolicyError
from vm.explore.dpor import dpor
from vm.explore.problem import Bounds, Outcome
from vm.explore.sample import sample
from vm.explore.stateful import Problem, search
from vm.explore.world import NotReady
from vm.hw.modes import Modes
from vm.stacks import Policy
from vm.stacks.registry import find_policy

MODES = Modes(df_restart="exact")
SOURCE = """
from policies.fixed_16k import Fixed16K

class Forgetful(Fixed16K):
    "Maps nothing for a new thread."
    id = "forgetful"

    def create_thread(self, cpu, thread):
        return
        yield
"""


@pytest.fixture
def forgetful(tmp_path: Path) -> Path:
    file = tmp_path / "forgetful.py"
    file.write_text(SOURCE)
    return file


def _stateful(policy: type[Policy]) -> Outcome:
    return search(Problem("litmus-laight", policy, MODES), Bounds())


def _dpor(policy: type[Policy]) -> Outcome:
    return dpor("litmus-laight", policy, MODES, Bounds())


def _sample(policy: type[Policy]) -> Outcome:
    return sample("litmus-laight", policy, MODES, 3)


@pytest.mark.parametrize("engine", [_stateful, _dpor, _sample])
def test_every_engine_says_unsafe(forgetful: Path, engine: Callable[[type[Policy]], Outcome]) -> None:
    outcome = engine(find_policy(str(forgetful)))
    assert outcome.verdict == "unsafe"
    assert outcome.stuck
    assert not outcome.path


def test_a_finding_before_is_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "faults.py"
    file.write_text(
        SOURCE.replace(
            "        return\n        yield",
            "        yield from super().create_thread(cpu, thread)\n        raise KeyError",
        )
    )
    with pytest.raises(PolicyError):
        _stateful(find_policy(str(file)))


def test_a_program_that_never_gets_ready_is_the_scenarios_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vm.explore.world.TO_READY", 0)
    with pytest.raises(NotReady):
        _stateful(find_policy("switch-sp-ipi"))


def test_the_command_says_when(forgetful: Path) -> None:
    done = kstack("explore", "litmus-laight", "--policy", forgetful)
    assert done.returncode == 1
    assert "unsafe: no end can be reached" in done.stdout
