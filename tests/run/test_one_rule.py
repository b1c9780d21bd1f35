"""One rule says what is unexpected: run, replay, compare, inject and tests judge the same run alike."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from kstack.cli.replay import replay
from kstack.cli.run import run
from kstack.hw.modes import Modes
from kstack.inject.trial import judged
from kstack.judge.verdict import KEPT_FINDINGS, Portfolio, judge
from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.machine import size
from kstack.run.expected import ignored_kinds, unexpected
from kstack.run.options import RunOptions
from kstack.schedule import RoundRobin, Scheduler
from kstack.stacks.loading.registry import find_policy
from kstack.testing.guests import Start
from tests.support.boots import booted
from tests.support.command import ROOT

QUANTUM: Final = 300
USUAL: Final = [name for name, scenario in scenarios().items() if not scenario.long]
TOLERANT: Final = [name for name in USUAL if scenarios()[name].expects or name == "futex-sleepers"]
FEW: Final = ("litmus-laight", "litmus-gc")  # litmus scenarios, of which there are many and are much alike
PAIRS: Final = [
    pytest.param(name, "entry-exit", marks=[pytest.mark.long] if name.startswith("litmus-") and name not in FEW else [])
    for name in USUAL
]
PAIRS += [pytest.param(name, policy) for name in TOLERANT for policy in ("fixed-16k", "switch-sp-ipi")]


@dataclass(frozen=True)
class Once(Portfolio):
    """One run."""

    def runs(self, scenario: object) -> Iterator[Scheduler]:
        """Round robin."""
        yield RoundRobin(QUANTUM)


def kinds_and_texts(findings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["kind"], one["text"]) for one in findings]


@pytest.mark.parametrize(("name", "policy"), PAIRS)
def test_a_run_is_judged_alike_wherever_it_is_made(
    name: str, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario, cls, file = find_scenario(name), find_policy(policy), tmp_path / "r.json"
    modes, limit, schedule = Modes().resolved(cls.delivery), scenario.max_instructions, f"round-robin:{QUANTUM}"
    code = run(name, policy=policy, schedule=schedule, max_instructions=limit, record=file, json=True)
    found = json.loads(capsys.readouterr().out)
    again = replay(file, json=True)
    repeated = json.loads(capsys.readouterr().out)
    assert repeated["identical"]
    assert (again, repeated["findings"]) == (code, found["findings"])

    judgement = judge(cls, scenario, booted(name, modes), Once(enough=1), modes)
    assert (
        kinds_and_texts([one.as_dict() for one in judgement.findings])
        == kinds_and_texts(found["findings"])[:KEPT_FINDINGS]
    )
    assert (judgement.safe is False) == bool(found["findings"])

    start = Start(name, scenario.cpus, size(scenario.ram), Modes(), cls, RunOptions(limit))
    guest = start.run(RoundRobin(QUANTUM))
    assert kinds_and_texts([one.as_dict() for one in guest.findings]) == kinds_and_texts(found["findings"])
    outcome, by, _, _ = judged(name, guest.result)
    assert (code == 0) == ((outcome, by) == ("masked", "nobody"))


def test_what_a_scenario_did_not_ask_for_counts_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("futex-sleepers", policy="fixed-16k", json=True) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    scenario = find_scenario("futex-sleepers")
    result = (
        booted("futex-sleepers", Modes().resolved("df")).session(find_policy("fixed-16k")(), RoundRobin(1000)).run()
    )
    assert [one.kind.value for one in result.findings] == ["imbalance"], "which is the case in point"
    assert unexpected(scenario, result) == ()


def test_a_run_does_not_stop_at_a_finding_that_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pump", policy="switch-sp-ipi", stop_at_finding=True, json=True) == 0
    assert json.loads(capsys.readouterr().out)["exit"] == "exit"


def test_a_run_that_passed_over_a_finding_is_repeated_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.json"
    run("pump", policy="switch-sp-ipi", stop_at_finding=True, record=file, json=True)
    capsys.readouterr()
    assert replay(file, json=True) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True


def test_an_image_that_is_no_scenario_asks_for_nothing_and_expects_nothing() -> None:
    assert ignored_kinds(None) == {"imbalance"}
    assert ignored_kinds(find_scenario("recursion")) == {"imbalance", "overflow", "double-fault"}


def test_nobody_else_asks_what_a_scenario_expects_or_concerns() -> None:
    asking = []
    for path in sorted((ROOT / "vm").rglob("*.py")):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        if names & {"expects", "concerns"}:
            asking.append(str(path.relative_to(ROOT)))
    assert asking == ["vm/run/expected.py"]
