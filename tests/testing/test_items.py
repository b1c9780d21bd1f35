"""A scenario's TOML as a test file: its guest's report lines are items."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.inner_pytest import outcomes, pytest_in, section, write_guest

LINES = r"PASS one: it is\nFAIL two: it is not\nSKIP three: no such CPU\nXFAIL four\nPASS one\nPASSING by\n"


def test_each_line_of_the_guest_s_report_is_an_item(tmp_path: Path) -> None:
    write_guest(tmp_path, LINES)
    done = pytest_in(tmp_path)
    found = outcomes(done)
    names = {name.partition("::")[2]: outcome for name, outcome in found.items() if "::" in name}
    expected = {
        "one": "PASSED",
        "two": "FAILED",
        "four": "XFAIL",
        "one (2)": "PASSED",
        "guest": "PASSED",
        "oracle": "PASSED",
    }
    assert names == expected
    assert "SKIP three: no such CPU" in done.stdout
    assert "FAIL two: it is not" in done.stdout
    assert "kstack replay" in section(done)


def test_a_line_that_says_what_is_wrong_counts_however_it_is_written(tmp_path: Path) -> None:
    """With a colon, as those of kvm-unit-tests; without a name; of a test that was to fail; PASS alone says nothing."""
    lines = (
        r"PASS: one: it is\nFAIL: two: it is not\n  FAIL\tthree\nFAIL\nFAIL:\nXPASS four\nPASS\nFAILED\nXFAIL: five\n"
    )
    write_guest(tmp_path, lines)
    found = {name.partition("::")[2]: outcome for name, outcome in outcomes(pytest_in(tmp_path)).items()}
    failed = dict.fromkeys(("two", "three", "unnamed", "unnamed (2)", "four"), "FAILED")
    assert found == {"one": "PASSED", **failed, "five": "XFAIL", "guest": "PASSED", "oracle": "PASSED"}


def test_a_guest_that_ends_with_a_bad_value_fails(tmp_path: Path) -> None:
    """The oracle sees the kernel's own bad values only."""
    write_guest(tmp_path, r"PASS one\n", code="mov al, 0x33\n    out 0xf4, al")
    done = pytest_in(tmp_path)
    assert outcomes(done) == {
        "test_own.toml::one": "PASSED",
        "test_own.toml::guest": "FAILED",
        "test_own.toml::oracle": "PASSED",
    }, done.stdout
    assert "the guest ended with exit value 51" in done.stdout


def test_one_item_can_be_asked_for(tmp_path: Path) -> None:
    write_guest(tmp_path, LINES)
    assert outcomes(pytest_in(tmp_path, "test_own.toml::oracle")) == {"test_own.toml::oracle": "PASSED"}


def test_a_guest_that_dies_is_one_failed_item_with_the_panic_report(tmp_path: Path) -> None:
    write_guest(tmp_path, r"PASS one\n", code="ud2")
    done = pytest_in(tmp_path)
    assert outcomes(done) == {"test_own.toml::one": "PASSED", "test_own.toml::guest": "FAILED"}
    said = done.stdout.partition("kstack ---")[0]
    assert "guest died at virtual time" in said
    assert "its last block" in said
    assert "out 0xf4, eax" in section(done).splitlines()[-1], "by which the kernel ends it"
    assert "CR2" not in section(done), "once is enough"
    assert "kstack gdb" in section(done)


def test_what_the_oracle_finds_fails_its_item_alone(tmp_path: Path) -> None:
    deep = "lea rdi, [rip+over]\n    mov esi, 1\n    call try_call\n    jmp on\nover:\n    cli\n    mov rax, gs:[0]\n"
    code = deep + "    sub rsp, 0x4100\n    mov qword ptr [rsp], 1\n    add rsp, 0x4100\n    ret\non:\n    sti"
    write_guest(tmp_path, r"PASS one\n", code=code)
    done = pytest_in(tmp_path)
    assert outcomes(done) == {
        "test_own.toml::one": "PASSED",
        "test_own.toml::guest": "PASSED",
        "test_own.toml::oracle": "FAILED",
    }, done.stdout
    assert "overflow: " in done.stdout


def test_a_guest_that_does_not_say_what_it_should_fails(tmp_path: Path) -> None:
    write_guest(tmp_path, r"well\n", success="very well")
    done = pytest_in(tmp_path)
    assert outcomes(done) == {"test_own.toml::guest": "FAILED", "test_own.toml::oracle": "PASSED"}
    assert "it never printed 'very well'" in done.stdout


def test_a_guest_that_does_not_end_fails(tmp_path: Path) -> None:
    toml = write_guest(tmp_path, r"PASS one\n", code=".Lon: jmp .Lon")
    toml.write_text("max_instructions = 20000\n" + toml.read_text())
    done = pytest_in(tmp_path)
    assert outcomes(done)["test_own.toml::guest"] == "FAILED"
    assert "the guest did not end by itself, but by bound" in done.stdout


def test_a_mistake_in_a_scenario_is_an_error_that_names_it(tmp_path: Path) -> None:
    toml = write_guest(tmp_path, "")
    toml.write_text("cups = 2\n" + toml.read_text())
    assert "unknown field `cups`" in pytest_in(tmp_path).stdout
    write_guest(tmp_path, "", code="nonsense here")
    said = pytest_in(tmp_path)
    assert "ERROR collecting test_own.toml" in said.stdout
    assert "own.s" in said.stdout
    assert said.returncode == 2


@pytest.mark.parametrize(("old", "new", "says"), [("sources", "source_files", "source_files"), ('"]', "", "own.toml")])
def test_a_scenario_that_is_broken_does_not_vanish(old: str, new: str, says: str, tmp_path: Path) -> None:
    """What is left would be green."""
    toml = write_guest(tmp_path, r"PASS one\n")
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new, 1))
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    done = pytest_in(tmp_path)
    assert done.returncode == 2
    assert "ERROR collecting test_own.toml" in done.stdout
    assert says in done.stdout


def test_toml_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_data.toml").write_text("cpus = 2\n")
    (tmp_path / "test_broken.toml").write_text("cpus = \n")
    write_guest(tmp_path, r"PASS one\n", name="own.toml")
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    assert outcomes(pytest_in(tmp_path)) == {"test_it.py::test_it": "PASSED"}


def test_every_process_collects_the_same(tmp_path: Path) -> None:
    write_guest(tmp_path, r"PASS one\nPASS two\n")
    found = outcomes(pytest_in(tmp_path, "-n", "2", randomly=True))
    assert found == {f"test_own.toml::{name}": "PASSED" for name in ("one", "two", "guest", "oracle")}
