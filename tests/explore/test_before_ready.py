"""A policy that falls before a scenario's programs are ready is unsafe, at once, and not a scenario that cannot be explored.

So is a program that fails before its first visible operation, which no move makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kstack.base.errors import PolicyError
from kstack.explore.breadth_first import Problem, search
from kstack.explore.dpor import dpor
from kstack.explore.problem import Bounds, Outcome
from kstack.explore.sample import sample
from kstack.explore.start import NotReady
from kstack.hw.modes import Modes
from kstack.stacks import Policy
from kstack.stacks.loading.registry import find_policy
from tests.support.command import kstack

MODES = Modes(df_restart="exact")
SOURCE = """
from kstack.policies.fixed_16k import Fixed16K

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


def _stateful(policy: type[Policy], scenario: str = "litmus-laight") -> Outcome:
    return search(Problem(scenario, policy, MODES), Bounds())


def _dpor(policy: type[Policy], scenario: str = "litmus-laight") -> Outcome:
    return dpor(Problem(scenario, policy, MODES))


def _sample(policy: type[Policy], scenario: str = "litmus-laight") -> Outcome:
    return sample(Problem(scenario, policy, MODES), Bounds(executions=3))


ENGINES = pytest.mark.parametrize("engine", [_stateful, _dpor, _sample])
PROGRAMS = """
.text
p0:
    {0}
    mov qword ptr [r15], 1
    jmp litmus_end
p1:
    {1}
    jmp litmus_end
.section .rodata
scenario_name:
    .asciz "early"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 0
litmus_programs:
    .quad p0, p1, 0
.data
.p2align 3
private:
    .quad 0
"""
SCENARIO = """
id = "early"
title = "a program fails before it does anything visible"
question = "Does a search see that?"
source = "a test"
cpus = 2
sources = ["lib_litmus.s", "early.s"]
success = ""
events = ["ready", "done", "wrong"]
litmus = true
[mutant]
policy = "fixed-16k"
"""
NOTHING = "nop"
WRONG = {
    "at once": "jmp litmus_wrong",
    "by a word of its own": "cmp qword ptr [rip+private], 5\n    jne litmus_wrong",
    "after 300 instructions": ".rept 300\n    nop\n    .endr\n    jmp litmus_wrong",
    "after an instruction of the model": "mov rax, cr3\n    jmp litmus_wrong",
    "after a visible operation": "mov rax, [r15+8]\n    jmp litmus_wrong",
    "by the exit port": "mov edx, 0xf4\n    mov al, 0x11\n    out dx, al",
    "by the exit port, with another value": "mov edx, 0xf4\n    mov al, 1\n    out dx, al",
    "by the exit port, later": "mov rax, [r15+8]\n    mov edx, 0xf4\n    mov al, 0x11\n    out dx, al",
}


@ENGINES
@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("cpu", [0, 1])
def test_a_program_that_fails_before_its_first_visible_operation(
    engine: Callable[[type[Policy], str], Outcome], how: str, cpu: int, tmp_path: Path
) -> None:
    (tmp_path / "early.toml").write_text(SCENARIO)
    programs = [WRONG[how] if number == cpu else NOTHING for number in range(2)]
    (tmp_path / "early.s").write_text(PROGRAMS.format(*programs))
    outcome = engine(find_policy("fixed-16k"), str(tmp_path / "early.toml"))
    assert outcome.verdict == "unsafe"
    assert outcome.finding is not None
    assert outcome.finding.kind.value == "wrong-data"


@ENGINES
def test_every_engine_says_unsafe(engine: Callable[[type[Policy]], Outcome], forgetful: Path) -> None:
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
    monkeypatch.setattr("kstack.explore.start.TO_READY", 0)
    with pytest.raises(NotReady):
        _stateful(find_policy("switch-sp-ipi"))


def test_the_command_says_when(forgetful: Path) -> None:
    done = kstack("explore", "litmus-laight", "--policy", forgetful)
    assert done.returncode == 1
    assert "unsafe: no end can be reached" in done.stdout


def test_a_comparison_that_explores_finds_a_livelock(forgetful: Path) -> None:
    words = ("--policies", forgetful, "--scenarios", "litmus-laight", "--explore", "--schedules", "1", "--json")
    (result,) = json.loads(kstack("compare", *words).stdout)["results"]
    assert (result["safe"], result["finding"]["kind"], result["found_by"]) == (False, "livelock", "exploration")
    assert result["finding"]["text"] == "no end can be reached from 1 of 1 states"
