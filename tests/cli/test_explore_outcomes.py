"""kstack explore --outcomes: what it prints, and one clear error for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kstack.kernels.kstack.litmus import write_guest
from tests.support.command import kstack

SB = "x=1; r y | y=1; r x"


def test_a_program_on_the_command_line() -> None:
    done = kstack("explore", SB, "--outcomes", "--mode", "memory-order=tso")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert rows[0] == ["0:r", "y", "1:r", "x", "x", "y"]
    assert rows[2:6] == [["0", "0", "1", "1"], ["0", "1", "1", "1"], ["1", "0", "1", "1"], ["1", "1", "1", "1"]]
    assert "4 outcomes of x=1; r y | y=1; r x, all there are" in done.stdout


def test_a_file_as_json(tmp_path: Path) -> None:
    path = tmp_path / "mp.toml"
    path.write_text('programs = ["pte x=y; z=1", "r z; r x"]\n[init]\ny = 1\n"pte x" = "0"\n')
    done = kstack("explore", path, "--outcomes", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["version"], document["complete"], document["stuck"]) == (1, True, 0)
    assert document["modes"]["speculation"] == "sets-accessed"
    assert {(one["1:r z"], one["1:r x"]) for one in document["outcomes"]} == {(0, "fault"), (0, 1), (1, 1)}
    assert document["outcomes"][0].keys() == {"0:z=1", "1:r z", "1:r x", "x", "y", "z", "pte x", "pte y", "pte z"}


def test_a_scenario_that_names_its_final_values(tmp_path: Path) -> None:
    text = ".text\nprogram_0:\n    mov rbx, [r15]\n    jmp litmus_end\nprogram_1:\n    mov qword ptr [r15], 5\n    jmp litmus_end\n"
    toml = write_guest(tmp_path, text, 2, 0, {"read": "cpu 0 rbx"})
    done = kstack("explore", toml, "--outcomes", "--policy", "fixed-16k", "--json")
    assert (done.returncode, json.loads(done.stdout)["outcomes"]) == (0, [{"read": 0}, {"read": 5}]), done.stderr


def test_a_bound_is_said() -> None:
    done = kstack("explore", SB, "--outcomes", "--states", "2", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["complete"], document["bound"]["cut"]) == (4, False, "2 states")
    assert "before the bound (2 states) was reached" in kstack("explore", SB, "--outcomes", "--states", "2").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("x=1; jump | r x", "--outcomes"), "program of CPU 0, operation 2, 'jump': no operation; write one of"),
        (
            ("x=1 | pte x=q", "--outcomes"),
            "program of CPU 1, operation 1, 'pte x=q': entry 'q': write 0, or a location",
        ),
        (("none.toml", "--outcomes"), "none.toml: No such file"),
        (("litmus-laight", "--outcomes"), "names no final values; write a table [outcomes]"),
        (("laight", "--outcomes"), "is not made to be explored"),
        (("nonsense", "--outcomes"), "does not exist"),
        ((SB, "--outcomes", "--policy", "entry-exit"), "leave the policy out"),
        ((SB, "--outcomes", "--jobs", "2"), "--outcomes is for the engine stateful in one process"),
        ((SB, "--outcomes", "--engine", "sample"), "--outcomes is for the engine stateful"),
        ((SB, "--outcomes", "--witness", "w.json"), "--outcomes is for the engine stateful"),
        ((SB, "--outcomes", "--depth", "0"), "--depth 0: give more than 0"),
        ((SB, "--outcomes", "--mode", "memory-order=weak"), "mode memory-order=weak"),
        (("litmus-laight",), "give --policy, or --outcomes"),
        ((SB, "--policy", "fixed-16k"), "does not exist"),
    ],
)
def test_bad_input_is_one_clear_error(words: tuple[str, ...], says: str) -> None:
    done = kstack("explore", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    assert says in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
