"""Each refusal and each verdict of `kstack.testing` outside its kits is seen to come, and is the only one of its kind.

A refusal is a `raise`; rows here make each of them happen, and the line that raised is compared with all there are. What
only a pytest run shows (`items`, `plugin`) is seen in pytest runs, by tests that are named here.
"""

from __future__ import annotations

import ast
import importlib
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

import kstack.kernels.kstack
import kstack.testing
from kstack.base.errors import ConfigError, PolicyError
from kstack.fault import At, Fault, Moment
from kstack.hw.modes import Modes
from kstack.kernels.kstack.language import Entry, parse
from kstack.kernels.kstack.litmus import Visit, write_scenario, write_visits
from kstack.kernels.kstack.pages import Litmus
from kstack.sanitizer.findings import Finding, Kind
from kstack.stacks.loading.registry import find_policy
from kstack.testing import outcomes
from kstack.testing.bench import Bench
from kstack.testing.guests import GuestRun, Schedule, reports
from kstack.testing.plugin import _one, pytest_generate_tests
from kstack.testing.reachable import Outcomes, read_test
from tests.support.definitions import is_defined
from tests.support.inner_pytest import write_guest
from tests.support.kit_assertions import KITS

FOLDER: Final = Path(kstack.testing.__file__).parent
KSTACK: Final = Path(kstack.kernels.kstack.__file__).parent
LITMUS: Final = [KSTACK / f"{name}.py" for name in ("language", "litmus", "pages")]
"""What litmus tests are made of, for our guest."""
OWN: Final = {"hooks", "worlds", *(kit.__module__.rpartition(".")[2] for kit in KITS)}
"""Modules of the kits, whose checks are gone through by `test_broken`."""


def bench(cpus: int | None = None) -> Bench:
    return Bench(FOLDER, None, Modes(), cpus, Schedule())


def unreached(fault: Fault) -> None:
    bench_ = bench()
    bench_.inject(fault)
    bench_.guest("laight", policy="switch-sp-ipi", max_time=60_000)


def inside_its_first_instruction() -> None:
    """Of an image whose first code is of 32 bits: which bytes are instructions is known as they run."""
    bench_ = bench()
    begin = bench_.guest("selftest", max_time=4).session.machine.cpus[0].registers.rip
    bench_.inject(Fault("nmi", At(hex(begin + 1))))  # of a MOV
    bench_.guest("selftest", max_time=20)


def never_run() -> None:
    bench_ = bench()
    bench_.inject(Fault("nmi", Moment(100_000)))
    bench_.check_injected()


class Raising(find_policy("fixed-16k")):  # type: ignore[misc] # a class found at run time
    """Its first thread is one too many."""

    id = "raising"

    def create_thread(self, cpu: int, thread: Any) -> Any:
        yield from ()
        raise ValueError("no thread")


def result_of_none() -> None:
    run = GuestRun(None, "", None, None, "", (), error=PolicyError("it failed"))  # type: ignore[arg-type] # as it is then
    assert run.result


def generated(fixtures: list[str], count: int) -> None:
    definition = SimpleNamespace(nodeid="test", get_closest_marker=lambda _: pytest.mark.schedules(count).mark)
    pytest_generate_tests(SimpleNamespace(definition=definition, fixturenames=fixtures))  # type: ignore[arg-type] # so much of it is used


def file_with(text: str, folder: Path) -> Path:
    path = folder / "test.toml"
    path.write_text(text)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "name": (lambda _: kstack.testing.conformance, AttributeError, "has no attribute 'conformance'"),
    "policy failed": (lambda _: bench().guest("laight", policy=Raising), PolicyError, "no thread"),
    "cpus": (lambda _: bench(1).guest("laight"), ConfigError, "needs 2 CPUs"),
    "never run": (lambda _: never_run(), AssertionError, r"did not happen: no guest has run since inject\(\)"),
    "unreached": (lambda _: unreached(Fault("nmi", Moment(1 << 40))), AssertionError, "did not happen in <laight"),
    "misplaced": (
        lambda _: inside_its_first_instruction(),
        ConfigError,
        r"fault nmi: place .* is inside an instruction",
    ),
    "no result": (lambda _: result_of_none(), PolicyError, "it failed"),
    "operation": (lambda _: parse("jump"), ConfigError, "no operation; write one of: "),
    "entry": (lambda _: Entry.of("q"), ConfigError, "entry 'q': write 0, or a location"),
    "location": (lambda _: parse("r q"), ConfigError, "location 'q' does not exist"),
    "value": (lambda _: parse("x=-1"), ConfigError, "value '-1': give a number"),
    "flag": (lambda _: parse("pte x+P"), ConfigError, r"flag '\+P': write one of"),
    "wait": (lambda _: parse("wait"), ConfigError, "operation 1, 'wait': write wait between two sends"),
    "page operation": (
        lambda folder: write_scenario(folder, [parse("invlpg x")]),
        ConfigError,
        "such a test is written by kstack.kernels.kstack.pages",
    ),
    "thread": (lambda folder: write_visits(folder, [[Visit(99, 8)]]), ConfigError, "thread 99: give each CPU"),
    "thread of two": (lambda folder: write_visits(folder, [[Visit(0, 8)], [Visit(0, 8)]]), ConfigError, "thread 0: "),
    "depth": (lambda folder: write_visits(folder, [[Visit(0, 7)]]), ConfigError, "depth 7: give a multiple of 8"),
    "no program": (lambda _: Litmus.of([]), ConfigError, "0 programs: give 1 to"),
    "long program": (lambda _: Litmus.of([";".join(["r x"] * 50)]), ConfigError, "50 operations with 50 results"),
    "init": (lambda _: Litmus.of(["r x"], {"q": 1}), ConfigError, "init: 'q' does not exist"),
    "init's value": (lambda _: Litmus.of(["r x"], {"x": -1}), ConfigError, "init: x = -1: give a number"),
    "init's entry": (lambda _: Litmus.of(["r x"], {"pte x": "q"}), ConfigError, "init: pte x: entry 'q'"),
    "policy of a litmus test": (lambda _: outcomes(["r x"], policy="fixed-4k"), ConfigError, "leave the policy out"),
    "init of a file": (lambda _: outcomes("a.toml", init={"x": 1}), ConfigError, "init and global_pages are for"),
    "no file": (lambda folder: read_test(folder / "none.toml"), ConfigError, "none.toml: No such file"),
    "no TOML": (lambda folder: read_test(file_with("programs = [", folder)), ConfigError, r"test\.toml: "),
    "wrong file": (lambda folder: read_test(file_with('programs = ["q"]', folder)), ConfigError, "program of CPU 0"),
    "marker": (lambda _: _one(pytest.mark.smp(1, 2).mark, "a number"), pytest.UsageError, "mark.smp: give a number"),
    "schedules of none": (lambda _: generated([], 5), pytest.UsageError, "this one uses neither"),
    "no schedules": (lambda _: generated(["schedule"], 0), pytest.UsageError, r"schedules\(0\): give 1 or more"),
    "outcome": (lambda _: {"q": 1} in Outcomes(("x",), (), True, 0, 0, 0, ""), ConfigError, "outcome 'q' does not"),
}
"""What is refused: by what, as what, in which words."""
IN_PYTEST: Final = {
    "items": (
        "test_a_mistake_in_a_scenario_is_an_error_that_names_it",
        "test_each_line_of_the_guest_s_report_is_an_item",
        "test_a_line_that_says_what_is_wrong_counts_however_it_is_written",
    ),
}
"""Tests of what only a pytest run shows, by module."""


def raised(row: str, folder: Path) -> BaseException:
    do, kind, says = REFUSED[row]
    with pytest.raises(kind, match=says) as caught:
        do(folder)
    return caught.value


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused_is_refused_with_words(row: str, tmp_path: Path) -> None:
    frames = traceback.extract_tb(raised(row, tmp_path).__traceback__)
    assert any(Path(frame.filename).parent == FOLDER or Path(frame.filename) in LITMUS for frame in frames)


def test_every_refusal_outside_the_kits_is_seen(tmp_path: Path) -> None:
    seen: set[tuple[str, int]] = set()
    for row in REFUSED:
        error: BaseException | None = raised(row, tmp_path)
        while error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            seen.update((Path(frame.filename).stem, frame.lineno or 0) for frame in frames)
            error = error.__cause__ or error.__context__
    assert all(is_defined(name) for names in IN_PYTEST.values() for name in names)
    unseen = []
    for path in [*sorted(FOLDER.glob("*.py")), *LITMUS]:
        if path.stem in OWN or path.stem in IN_PYTEST:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            lines = range(getattr(node, "lineno", 0), (getattr(node, "end_lineno", 0) or 0) + 1)
            if isinstance(node, ast.Raise) and not any((path.stem, line) in seen for line in lines):
                unseen.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not unseen, "\n".join(unseen)


# --- verdicts


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> GuestRun:
    """A run in which all is well."""
    folder = tmp_path_factory.mktemp("guest")
    return bench().guest(write_guest(folder, r"PASS one\nvery well\n", success="very well"))


FOUND: Final = Finding(Kind.LEAK, 0, "here", 0, 1, "a frame is lost")
WRONG: dict[str, tuple[Callable[[GuestRun], dict[str, Any]], str]] = {
    "policy failed": (lambda run: {"outcome": None, "error": PolicyError("it failed")}, "it failed"),
    "leak": (lambda run: {"outcome": replace(run.result, findings=(FOUND,))}, "a frame is lost"),
    "bound": (lambda run: {"outcome": replace(run.result, ended="bound")}, "did not end by itself, but by bound"),
    "exit 51": (lambda run: {"outcome": replace(run.result, exit_value=51)}, "ended with exit value 51"),
    "no success": (lambda run: {"serial": "PASS one\n"}, "it never printed 'very well'"),
    "FAIL": (lambda run: {"serial": "very well\nFAIL\n"}, "FAIL"),
    "FAIL: two": (lambda run: {"serial": "very well\nFAIL: two\n"}, "FAIL: two"),
    "XPASS three": (lambda run: {"serial": "very well\nXPASS three\n"}, "XPASS three"),
}


def test_a_run_in_which_all_is_well_has_passed(well: GuestRun) -> None:
    assert well.passed and well.failure is None and well.bad_end is None


@pytest.mark.parametrize("kind", WRONG)
def test_each_thing_that_is_wrong_with_a_run_is_its_failure(kind: str, well: GuestRun) -> None:
    change, says = WRONG[kind]
    run = replace(well, **change(well))
    assert run.failure is not None and not run.passed
    assert run.failure.kind == kind
    assert says in run.failure.text


@pytest.mark.parametrize(
    ("line", "verdict", "name"),
    [
        ("PASS one: it is", "PASS", "one"),
        ("FAIL: one: it is not", "FAIL", "one"),
        ("  FAIL\tone", "FAIL", "one"),
        ("FAIL", "FAIL", "unnamed"),
        ("FAIL:", "FAIL", "unnamed"),
        ("XPASS: one", "XPASS", "one"),
        ("SKIP one two", "SKIP", "one two"),
        ("XFAIL one", "XFAIL", "one"),
    ],
)
def test_a_report_line_is_read_however_it_is_written(line: str, verdict: str, name: str) -> None:
    (report,) = reports(f"before\n{line}\r\nafter")
    assert (report.verdict, report.name, report.line) == (verdict, name, line.strip())


@pytest.mark.parametrize(
    "line", ["PASS", "PASS:", "PASSED one", "FAILED one", "no FAIL one", "FAILURE", "SKIP", "fail x"]
)
def test_what_is_no_report_line_is_none(line: str) -> None:
    assert reports(line) == []


def test_every_public_name_is_there() -> None:
    for name in kstack.testing.__all__:
        assert getattr(kstack.testing, name) is not None
    for path in FOLDER.glob("*.py"):
        importlib.import_module(f"kstack.testing.{path.stem}")
