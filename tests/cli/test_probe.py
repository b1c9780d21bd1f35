"""kstack probe: what it prints, writes and exits with; the processor is made up."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kstack.cli import probe as command
from kstack.probe.cpu import CpuModel
from kstack.probe.file import read_probe
from kstack.probe.measure import Progress
from kstack.probe.result import ProbeResult, judged
from tests.support.command import document, kstack
from tests.support.probed import READINGS, observe, probed

CPU = CpuModel("GenuineIntel", 6, 106, 6, "0xd0003a5", "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, ProbeResult]:
    """What the command finds, under `found`."""
    chosen = {"found": replace(probed(READINGS["needs-accessed"], 600), cpu=CPU, hypervisor="KVMKVMKVM")}

    def ask(trials: int, seed: int, cpu: int | None, progress: Progress) -> ProbeResult:
        progress(1, 2)
        return replace(chosen["found"], trials=trials, seed=seed, number=cpu)

    monkeypatch.setattr(command, "ask", ask)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    return chosen


def failed(why: str) -> ProbeResult:
    measured = observe(READINGS["needs-accessed"], 5)
    measured.failure, measured.complete = why, False
    return judged(measured, 400, 0)


def interrupted() -> ProbeResult:
    measured = observe(READINGS["needs-accessed"], 100)
    measured.complete = False
    return judged(measured, 400, 0)


@pytest.mark.usefixtures("made_up")
def test_json_has_the_fields_that_others_rely_on() -> None:
    found = document("probe", "--trials", "600", "--seed", "7", "--cpu", "3")
    assert {name: found["cpu"][name] for name in ("vendor", "family", "model", "stepping", "microcode")} == {
        "vendor": "GenuineIntel",
        "family": 6,
        "model": 106,
        "stepping": 6,
        "microcode": "0xd0003a5",
    }
    assert (found["cpu"]["hypervisor"], found["cpu"]["number"]) == ("KVMKVMKVM", 3)
    assert (found["trials"], found["seed"], found["complete"], found["failure"]) == (600, 7, True, None)
    assert found["kernel"] == platform.release() and found["kstack"].keys() == {"version", "commit"}
    speculation = found["modes"]["speculation"]
    assert (speculation["value"], speculation["conclusive"]) == ("needs-accessed", True)
    assert list(speculation["refuted"]) == ["none"]
    assert speculation["not_contradicted"] == ["needs-accessed", "sets-accessed", "keeps-accessed-clear"]
    assert speculation["bounded_below"].keys() == {"sets-accessed", "keeps-accessed-clear"}
    assert all(control["held"] for control in speculation["controls"].values())
    assert (found["modes"]["dirty-rewalk"]["value"], found["modes"]["dirty-rewalk"]["conclusive"]) == ("yes", True)


@pytest.mark.usefixtures("made_up")
def test_json_has_all_counts_and_what_was_made_of_them() -> None:
    found = document("probe", "--trials", "600")
    trials = found["modes"]["speculation"]["trials"]
    assert trials.keys() == {"jump-load", "ret-load", "ret-store", "ret-fetch", "ret-prefetch", "next-page"}
    for question in trials.values():
        assert question["arms"].keys() == {"A=0", "A=1", "A=0, idle", "A=1, idle"}
        for arm in question["arms"].values():
            assert sum(arm["seen"].values()) == arm["trials"] == 600 and arm["spoiled"] == {}
    through = [one for one in trials["ret-load"]["evidence"] if one["arm"] == "A=1" and one["sight"] == "data"]
    assert through[0]["believed"] and through[0]["refutes"] == ["none"] and through[0]["of"] == 600
    assert {"prefetcht0", "clflush", "write-fault", "load", "nothing"} <= found["questions"].keys()


@pytest.mark.usefixtures("made_up")
def test_people_get_counts_refutations_and_bounds_in_80_columns() -> None:
    done = kstack("probe", "--trials", "600")
    assert done.returncode == 0 and done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = " ".join(done.stdout.split())
    for part in (
        "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz (GenuineIntel family 6 model 106 stepping 6, microcode 0xd0003a5)",
        "under KVMKVMKVM",
        "speculation=needs-accessed is not contradicted",
        "none is refuted. load, mispredicted jump: the line comes where A is set in",
        "sets-accessed is not contradicted; what it says is done in less than 0.6",
        "dirty-rewalk=yes is not contradicted: every other value is refuted",
        "All 15 controls held",
    ):
        assert part in text
    assert "proved" not in text


def test_where_a_control_fails_it_is_inconclusive_and_says_which(made_up: dict[str, ProbeResult]) -> None:
    found = probed(READINGS["none"], 50)
    control = found.controls[2]._replace(rate=found.controls[4].rate)
    verdicts = tuple(
        replace(
            one, value=None, why="control load-marks failed", evidence=(), refuted={}, bounded={}, controls=(control,)
        )
        for one in found.verdicts
    )
    made_up["found"] = replace(found, verdicts=verdicts)
    done = kstack("probe")
    assert done.returncode == 0
    assert "speculation: inconclusive: control load-marks failed" in done.stdout
    assert "Control load-marks failed: a load that retires set A in 0 of" in done.stdout


def test_where_it_cannot_measure_it_is_inconclusive_and_says_why(made_up: dict[str, ProbeResult]) -> None:
    made_up["found"] = failed("/proc/self/clear_refs: Permission denied")
    done = kstack("probe")
    assert done.returncode == 0 and "not contradicted" not in done.stdout
    assert "speculation: inconclusive: /proc/self/clear_refs: Permission denied" in done.stdout
    found = document("probe")
    assert found["failure"] == "/proc/self/clear_refs: Permission denied" and not found["complete"]
    assert found["modes"]["speculation"]["value"] is None and not found["modes"]["speculation"]["conclusive"]


def test_ctrl_c_prints_what_there_is(made_up: dict[str, ProbeResult]) -> None:
    made_up["found"] = interrupted()
    done = kstack("probe")
    assert done.returncode == 130 and "interrupted after 5100 trials" in done.stderr
    assert "speculation: inconclusive: interrupted" in done.stdout and "none is refuted" in done.stdout
    found = document("probe", told=True)
    assert not found["complete"] and list(found["modes"]["speculation"]["refuted"]) == ["none"]


@pytest.mark.usefixtures("made_up")
def test_the_file_is_the_document(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    printed = document("probe", "-o", path)
    assert json.loads(path.read_text()) == printed
    read = read_probe(path)
    assert read.cpu is not None and read.cpu.is_same(CPU) and read.modes["speculation"].value == "needs-accessed"


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--trials", "0"), "--trials 0: give 1 to 100000"),
        (("--trials", "100001"), "--trials 100001: give 1 to 100000"),
        (("--cpu", "2"), "--cpu 2: this process may use 0, 3"),
        (("-o", "/nowhere/p"), "cannot be written"),
    ],
)
def test_bad_options_are_one_error(words: tuple[str, ...], why: str) -> None:
    done = kstack("probe", *words)
    assert done.returncode == 2 and why in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("system", "machine"), [("Darwin", "x86_64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_elsewhere_it_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    done = kstack("probe")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"kstack: kstack probe needs Linux on x86-64, and this is {system} on {machine}\n"


def test_progress_is_a_line_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 4.0, 12.0, 13.0, 25.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    progress: Any = command._ProbeProgress()
    for done in (10, 30, 31, 60):
        progress(done, 100)
    progress.end()
    told = capsys.readouterr().err.splitlines()
    assert told == ["kstack probe: 30 of 100 trials, 28 s left", "kstack probe: 60 of 100 trials, 17 s left"]
