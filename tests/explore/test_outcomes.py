"""Final values of litmus scenarios: which there are, what names them, and what a search for them says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.base.errors import ScenarioError
from kstack.explore.outcomes import outcomes
from kstack.explore.problem import Bounds, Problem
from kstack.hw.modes import Modes
from kstack.kernels.kstack.litmus import write_guest

RACE = """.text
program_0:
    mov qword ptr [r15+8], 7
    mov rbx, [r15]
    jmp litmus_end
program_1:
    mov qword ptr [r15], 5
    mov rbx, [r15+8]
    jmp litmus_end
"""
WATCHED = {"first": "cpu 0 rbx", "second": "cpu 1 rbx", "word": "word litmus_words+0x8"}
SC = {(0, 7, 7), (5, 0, 7), (5, 7, 7)}


@pytest.fixture
def race(tmp_path: Path) -> Problem:
    """Two CPUs that store and load."""
    return Problem(str(write_guest(tmp_path, RACE, 2, 0, WATCHED)), "fixed-16k", Modes())


def test_all_final_values_are_found(race: Problem) -> None:
    for every_move in (False, True):
        found = outcomes(race, Bounds(every_move=every_move))
        assert (found.names, found.complete, found.stuck, found.cut) == (tuple(WATCHED), True, 0, "")
        assert found.outcomes == tuple(sorted(SC))
    weak = outcomes(Problem(race.scenario, race.policy, Modes(memory_order="tso")))
    assert set(weak.outcomes) == SC | {(0, 0, 7)}


@pytest.mark.parametrize(
    ("bounds", "says"),
    [(Bounds(depth=3), "depth 3"), (Bounds(states=2), "2 states"), (Bounds(budget=1e-9), "budget 1e-09 s")],
)
def test_what_a_bound_has_cut_is_not_complete(bounds: Bounds, says: str, race: Problem) -> None:
    found = outcomes(race, bounds)
    assert (found.complete, found.cut) == (False, says)
    assert set(found.outcomes) < SC


def test_a_depth_that_is_not_reached_cuts_nothing(race: Problem) -> None:
    assert outcomes(race, Bounds(depth=100)).complete


def test_progress_is_told(race: Problem) -> None:
    told: list[tuple[int, int, int]] = []
    found = outcomes(race, progress=lambda *words: told.append(words))
    assert told[-1][:2] == (found.states, 0)


def test_states_without_an_end_are_counted(tmp_path: Path) -> None:
    """CPU 0 waits for a word that CPU 1 writes only where it has come first."""
    text = """.text
program_0:
    lock bts qword ptr [r15], 0
    jc litmus_end
    L_AWAIT 8, 1
    jmp litmus_end
program_1:
    lock bts qword ptr [r15], 0
    setc bl
    movzx ebx, bl
    jmp litmus_end
"""
    toml = write_guest(tmp_path, text, 2, 0, {"second": "cpu 1 rbx"})
    found = outcomes(Problem(str(toml), "fixed-16k", Modes()))
    assert (found.complete, found.outcomes, found.stuck > 0) == (True, ((0,),), True)


def test_what_the_oracle_finds_is_no_matter(tmp_path: Path) -> None:
    """A page of the stack that the policy has not mapped is found fault with, and all final values are there still."""
    text = RACE.replace(
        "    jmp litmus_end\nprogram_1", "    cmp rbx, 5\n    je litmus_wrong\n    jmp litmus_end\nprogram_1"
    )
    toml = write_guest(tmp_path, text, 2, 0, WATCHED)
    assert set(outcomes(Problem(str(toml), "fixed-16k", Modes())).outcomes) == SC


@pytest.mark.parametrize(
    ("watched", "says"),
    [
        ({}, r"names no final values; write a table \[outcomes\]"),
        ({"a": "cpu 0"}, r"outcomes\.a: 'cpu 0' is no value; write a table"),
        ({"a": "cpu 2 rbx"}, "outcomes.a: 'cpu 2 rbx': give a CPU from 0 to 1, and one of rcx"),
        ({"a": "cpu 0 rax"}, "give a CPU from 0 to 1, and one of rcx"),
        ({"a": "word nowhere"}, "the guest has no symbol 'nowhere' that it maps"),
        ({"a": "word litmus_words+x"}, "'x' is no number"),
        ({"a": "word litmus_words+0x7000000000000"}, "that it maps"),
        ({"a": "entry mailboxes+0x1000000"}, "that it maps"),
    ],
)
def test_what_is_no_final_value_is_refused(watched: dict[str, str], says: str, tmp_path: Path) -> None:
    toml = write_guest(tmp_path, RACE, 2, 0, watched)
    with pytest.raises(ScenarioError, match=says):
        outcomes(Problem(str(toml), "fixed-16k", Modes()))


def test_an_entry_is_a_final_value(tmp_path: Path) -> None:
    toml = write_guest(tmp_path, RACE, 2, 0, {"entry": "entry litmus_words"})
    found = outcomes(Problem(str(toml), "fixed-16k", Modes()))
    ((entry,),) = found.outcomes
    assert entry & 0x8000000000000163 == 0x8000000000000163  # NX, G, D, A, W, P
