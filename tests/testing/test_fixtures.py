"""Fixtures and markers, as a user's test sees them: each test here is one of a user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kstack.base.errors import ConfigError, ImageError
from kstack.fault import At, Fault, Moment, Send
from kstack.machine import Machine
from kstack.schedule import RoundRobin, ScriptedSchedule
from kstack.stacks import Policy
from kstack.stacks.loading.registry import find_policy
from kstack.testing import GuestRun, Schedule
from tests.support.inner_pytest import outcomes, pytest_in, write_guest

Guest = Callable[..., GuestRun]


def test_a_machine_is_bare_and_has_one_cpu(machine: Machine) -> None:
    assert (machine.cpu_count, machine.time, machine.config.ram) == (1, 0, 64 << 20)


@pytest.mark.smp(3)
@pytest.mark.mode("tlb=capacity:8", "speculation=none")
def test_markers_make_the_machine(machine: Machine, machine_factory: Callable[..., Machine]) -> None:
    assert (machine.cpu_count, machine.modes.tlb, machine.modes.speculation) == (3, "capacity 8", "none")
    other = machine_factory(cpus=2, ram="2M", modes=["tlb=retain"])
    assert (other.cpu_count, other.config.ram, other.modes.tlb, other.modes.speculation) == (
        2,
        2 << 20,
        "retain",
        "none",
    )
    assert machine_factory().cpu_count == 3


@pytest.mark.mode("speculation=none")
class TestModes:
    @pytest.mark.mode("speculation=keeps-accessed-clear")
    def test_the_closest_marker_decides(self, machine: Machine) -> None:
        assert machine.modes.speculation == "keeps-accessed-clear"

    def test_the_class_s_marker_holds_where_there_is_no_closer(self, machine: Machine) -> None:
        assert machine.modes.speculation == "none"


def test_the_policy_is_fixed_16k(policy: type[Policy], guest: Guest) -> None:
    assert policy is find_policy("fixed-16k")
    assert guest("laight").start.policy is policy


@pytest.mark.policy("entry-exit")
def test_a_guest_runs_under_the_policy_of_the_marker_by_the_scenario_s_script(
    policy: type[Policy], guest: Guest
) -> None:
    run = guest("laight")
    assert (policy.id, run.schedule) == ("entry-exit", "scripted")
    assert [found.kind.value for found in run.findings] == ["stale-translation", "wrong-data"]
    assert run.failure is not None
    assert (run.passed, run.failure.kind) == (False, "stale-translation")


class Mine(find_policy("fixed-16k")):  # type: ignore[misc] # a class found at run time
    """A policy of this file."""

    id = "mine"


@pytest.mark.policy(cls=Mine)
def test_a_policy_may_be_a_class(policy: type[Policy], guest: Guest) -> None:
    run = guest("laight")
    assert policy is Mine
    assert (type(run.session.runtime.policy), run.passed) == (Mine, True)


def test_a_run_may_have_a_policy_and_a_schedule_of_its_own(guest: Guest) -> None:
    one = guest("laight", policy="entry-exit", schedule="round-robin:100")
    other = guest("laight", policy="entry-exit", schedule=RoundRobin(100))
    assert one.choices == other.choices
    assert one.choices != guest("laight", policy="entry-exit", schedule=Schedule("random", 3)).choices


def test_what_a_scenario_expects_is_no_finding(guest: Guest) -> None:
    run = guest("recursion")
    assert {found.kind.value for found in run.result.findings} == {"overflow", "double-fault"}
    assert run.findings == ()
    assert run.passed


def test_an_image_runs_without_a_policy_and_its_report_lines_can_be_asked_for(guest: Guest) -> None:
    run = guest("selftest")
    assert run.start.policy is None
    assert run.passed
    assert len(run.reports) > 30
    assert {report.verdict for report in run.reports} <= {"PASS", "SKIP"}


def test_16_bit_code_that_is_no_boot_sector_runs_if_it_is_said_to_be_flat(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "code.bin"
    path.write_bytes(bytes.fromhex("baf803 b042 ee 30c0 e6f4"))  # 'B' to the serial port, 0 to debug exit
    with pytest.raises(ImageError, match="--format flat"):
        guest(path)
    run = guest(path, format="flat")
    assert run.passed and run.serial == "B"
    assert run.start.recording_of(run).format == "flat"
    with pytest.raises(ConfigError, match="is a scenario"):
        guest("laight", format="flat")


def test_a_guest_s_failed_line_is_a_failure(guest: Guest, tmp_path: Path) -> None:
    run = guest(write_guest(tmp_path, r"PASS one\nFAIL two: it is not\n"))
    assert run.findings == ()
    assert run.failure == ("FAIL two: it is not", "FAIL two: it is not")


def test_a_scenario_whose_source_has_changed_is_run_anew(guest: Guest, tmp_path: Path) -> None:
    first = guest(write_guest(tmp_path, r"first\n"))
    second = guest(write_guest(tmp_path, r"second\n"))
    assert (first.serial, second.serial) == ("first\n", "second\n")


@pytest.mark.smp(1)
def test_too_few_cpus_for_a_scenario_are_refused(guest: Guest) -> None:
    with pytest.raises(ConfigError, match="needs 2 CPUs"):
        guest("laight")


@pytest.mark.policy("switch-sp-ipi")
def test_faults_happen_in_the_runs_that_follow_and_it_is_told_when(guest: Guest, inject: Callable[..., Any]) -> None:
    before = guest("laight")
    injected = inject(Fault("nmi", Moment(before.result.time + 1)), Fault("hang", At("laight_watch"), cpu=1))
    assert injected.fired == (None, None)
    run = guest("laight", max_time=200_000)
    assert injected.fired == run.fired
    assert run.fired[1] is not None
    assert (before.passed, run.result.ended) == (True, "bound")
    inject()
    assert guest("laight").result.state_hash == before.result.state_hash


def test_a_fault_that_makes_no_sense_is_refused(guest: Guest, inject: Callable[..., Any]) -> None:
    inject(Fault("nmi", Send()))
    with pytest.raises(ConfigError, match="trigger must be"):
        guest("laight")


INJECTED = {
    "inject(Fault('drop-ipi', Send(2))); guest('laight', max_time=200_000)": "",
    "inject(NEVER); guest('laight')": "executions of its place, and it waits for number 1000",
    "inject(Fault('drop-ipi', Send(2)), NEVER); guest('laight', max_time=200_000)": "fault nmi, before execution 1000",
    "inject(NEVER, must_fire=False); assert guest('laight').fired == (None,)": "",
    "inject(NEVER)": "no guest has run since inject()",
    "inject(NEVER, must_fire=False)": "",
    "inject(NEVER); inject(); guest('laight')": "no guest has run since inject()",
    "inject(Fault('nmi', Moment(1 << 40))); guest('laight')": "and it waits for 1099511627776",
    "inject(Fault('raise', Step('Swap'))); guest('laight')": "there were 0 such steps",
    "inject(Fault('nmi', Where('rbx', 0xdead0))); guest('laight')": "at no instruction rbx was 0xdead0",
    "inject(Fault('flip-ram', Moment(1), address=1 << 40, bit=1)); guest('laight')": "there was nothing that it could do",
    "inject(Fault('nmi', At('laight_watch+2')), must_fire=False); guest('laight')": "the nearest begin at laight_watch",
}
"""Bodies of tests, and what one that fails says."""


def test_a_fault_that_did_not_happen_fails_the_test_unless_it_says_otherwise(tmp_path: Path) -> None:
    head = (
        "import pytest\nfrom kstack.fault import At, Fault, Moment, Send, Step, Where\n"
        "NEVER = Fault('nmi', At('laight_watch', nth=1000))\npytestmark = pytest.mark.policy('switch-sp-ipi')\n"
    )
    tests = [f"def test_{number}(guest, inject):\n    {body}\n" for number, body in enumerate(INJECTED)]
    (tmp_path / "test_it.py").write_text(head + "".join(tests))
    done = pytest_in(tmp_path, "--kstack-runs=0")
    reports = done.stdout.split("\n____")
    for number, (body, says) in enumerate(INJECTED.items()):
        assert outcomes(done)[f"test_it.py::test_{number}"] == ("FAILED" if says else "PASSED"), (body, done.stdout)
        failed = [report for report in reports if f" test_{number} ___" in report.splitlines()[0]]
        assert all(says in report for report in failed), (body, failed)
        assert len(failed) == bool(says)


def test_exploring_says_what_the_command_says(explore: Callable[..., Any]) -> None:
    assert explore("litmus-reuse", policy="switch-sp-ipi").verdict == "safe"
    assert explore("litmus-laight", policy="entry-exit").verdict == "unsafe"


SEEN: list[str] = []


@pytest.mark.schedules(5)
def test_schedules_make_several_tests(guest: Guest, schedule: Schedule) -> None:
    assert guest("laight").schedule == str(schedule)
    SEEN.append(str(schedule))


def test_schedules_have_names_that_tell_them_apart(tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.schedules({})\ndef test_it({}): pass\n"
    (tmp_path / "test_five.py").write_text(test.format(5, "guest"))
    ids = ["round-robin-10", "round-robin-100", "round-robin-1000", "random-seed-0", "random-seed-1"]
    assert outcomes(pytest_in(tmp_path)) == {f"test_five.py::test_it[{name}]": "PASSED" for name in ids}
    (tmp_path / "test_none.py").write_text(test.format(5, ""))
    assert "uses neither" in pytest_in(tmp_path, "test_none.py").stdout
    (tmp_path / "test_zero.py").write_text(test.format(0, "schedule"))
    assert "give 1 or more" in pytest_in(tmp_path, "test_zero.py").stdout


def test_the_scenario_s_script_is_the_schedule_where_none_is_asked_for(schedule: Schedule, guest: Guest) -> None:
    assert isinstance(guest("laight").session.scheduler, ScriptedSchedule)
    assert schedule == Schedule()
