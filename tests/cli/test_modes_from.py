"""--modes-from: what is taken from a probe's file, what results say then, and which files are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kstack.base.digests import digest_of
from kstack.probe import taken
from kstack.probe.cpu import CpuModel
from kstack.probe.document import document as document_of
from kstack.probe.document import text
from kstack.probe.result import ProbeResult
from tests.support.command import document, kstack
from tests.support.probed import READINGS, probed

CPU = CpuModel("AuthenticAMD", 25, 17, 1, "0xa101148", "AMD EPYC 9R14")
OTHER = CpuModel("AuthenticAMD", 25, 17, 1, "0xa101154", "AMD EPYC 9R14")
NAME = "AMD EPYC 9R14 (AuthenticAMD family 25 model 17 stepping 1, microcode 0xa101148)"
FOUND = replace(probed(READINGS["needs-accessed"], 600), cpu=CPU)

COMPARE = ("compare", "--policies", "accessed-latch,fixed-16k", "--scenarios", "laight", "--schedules", "0")
EXPLORE = ("explore", "litmus-quiet", "--policy", "fixed-16k")
RUN = ("run", "laight", "--policy", "switch-sp-ipi")
INJECT = ("inject", "laight", "--policy", "switch-sp-ipi", "--faults", "drop-ipi", "--limit", "1")
OUTCOMES = ("explore", "x=1; r y | y=1; r x", "--outcomes")
ALL = pytest.mark.parametrize("words", [COMPARE, EXPLORE, RUN, INJECT, OUTCOMES], ids=lambda words: words[0])


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[CpuModel | None], None]:
    """Sets the host's processor."""

    def is_now(cpu: CpuModel | None) -> None:
        monkeypatch.setattr(taken, "host_cpu", lambda: cpu)

    is_now(CPU)
    return is_now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "probe.json", FOUND)


def written(path: Path, found: ProbeResult) -> Path:
    path.write_text(text(document_of(found)))
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], None], sealed: bool = False) -> Path:
    content = json.loads(path.read_text())
    change(content)
    if sealed:
        del content["digest"]
        content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))
    return path


@ALL
def test_the_value_is_taken_and_results_say_on_which_cpu_it_is_not_contradicted(
    words: tuple[str, ...], file: Path
) -> None:
    found = document(*words, "--modes-from", file)
    assert found["modes"]["speculation"] == "needs-accessed"
    said = found["modes_from"]
    assert (said["file"], said["same_cpu"], said["cpu"]["microcode"]) == (str(file), True, "0xa101148")
    assert said["taken"] == {"speculation": "needs-accessed", "dirty-rewalk": "yes"}
    assert said["said"][0] == f"speculation=needs-accessed: not contradicted on CPU {NAME}, by {file}; no proof."
    assert not [result for result in found.get("results", []) if "mark" in result]


@ALL
def test_people_are_told_too(words: tuple[str, ...], file: Path) -> None:
    done = kstack(*words, "--modes-from", file)
    told = " ".join((done.stdout + done.stderr).split())
    assert "speculation=needs-accessed: not contradicted on CPU AMD EPYC 9R14" in told
    assert "OTHER CPU" not in told and "proved" not in told


@ALL
def test_a_probe_of_another_cpu_is_marked(
    words: tuple[str, ...], file: Path, host: Callable[[CpuModel | None], None]
) -> None:
    host(OTHER)
    found = document(*words, "--modes-from", file)
    assert not found["modes_from"]["same_cpu"] and found["modes_from"]["host"]["microcode"] == "0xa101154"
    assert any(
        line.startswith("MODES OF ANOTHER CPU: this host's is AMD EPYC 9R14") for line in found["modes_from"]["said"]
    )
    assert all(result["mark"] == "modes of another CPU" for result in found.get("results", []))
    done = kstack(*words, "--modes-from", file)
    assert "MODES OF ANOTHER CPU" in done.stdout + done.stderr


def test_each_verdict_of_a_comparison_is_marked(
    file: Path, host: Callable[[CpuModel | None], None], tmp_path: Path
) -> None:
    host(None)
    page = tmp_path / "page.html"
    done = kstack(*COMPARE, "--modes-from", file, "--report", page)
    table = done.stdout.partition("Found in how many runs")[0]
    assert table.count("accessed-latch ") == table.count("fixed-16k ") == 1 and table.count("modes of") == 2
    assert "this host's is unknown" in " ".join(done.stdout.split())
    assert page.read_text().count("modes of another CPU") >= 2 and "MODES OF ANOTHER CPU" in page.read_text()


def test_a_page_of_faults_says_it(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "faults.html"
    kstack(*INJECT, "--modes-from", file, "--report", page)
    assert "not contradicted on CPU AMD EPYC 9R14" in page.read_text()


def test_mode_wins_and_what_the_probe_refutes_is_said(file: Path) -> None:
    found = document(*RUN, "--modes-from", file, "--mode", "speculation=none")
    assert found["modes"]["speculation"] == "none"
    assert found["modes_from"]["taken"] == {"dirty-rewalk": "yes"}
    assert (
        found["modes_from"]["said"][-1] == f"speculation=none, as --mode has it, is refuted on CPU {NAME}, by {file}."
    )
    allowed = document(*RUN, "--modes-from", file, "--mode", "speculation=sets-accessed")
    assert not [line for line in allowed["modes_from"]["said"] if "speculation" in line]


def test_without_it_nothing_is_said() -> None:
    assert "modes_from" not in document(*RUN)
    assert "contradicted" not in kstack(*EXPLORE).stdout


def test_a_mode_that_the_probe_leaves_open_is_not_taken(tmp_path: Path) -> None:
    file = written(tmp_path / "p.json", replace(probed(READINGS["needs-accessed"], 60), cpu=CPU))
    found = document(*RUN, "--modes-from", file)
    assert found["modes_from"]["taken"] == {"dirty-rewalk": "yes"}
    assert found["modes"]["speculation"] == "sets-accessed", "as by default"
    why = found["modes_from"]["not_taken"]["speculation"]
    assert why.startswith("too little is excluded")
    assert f"speculation: not taken, since {file} is inconclusive: {why}." in found["modes_from"]["said"]


def refused(words: tuple[object, ...]) -> str:
    done = kstack(*words)
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
    return done.stderr


@ALL
def test_an_edited_file_is_refused(words: tuple[str, ...], file: Path) -> None:
    changed(file, lambda content: content["modes"]["speculation"].update(value="sets-accessed"))
    assert "was changed after it was written: measure again" in refused((*words, "--modes-from", file))


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_file_of_another_version_is_refused(file: Path, version: object) -> None:
    changed(file, lambda content: content.update(version=version), sealed=True)
    assert f"has version {version}, and this kstack reads 1" in refused((*RUN, "--modes-from", file))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no JSON"),
        ("[" * 100000, "no JSON"),
        ("[]", "no file of kstack probe"),
        ('{"version": 1, "modes": {}, "results": []}', "no file of kstack probe"),
    ],
)
def test_what_is_no_probe_is_refused(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    assert why in refused((*RUN, "--modes-from", path))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content["modes"].update(speculation=3), "no file of kstack probe"),
        (lambda content: content["modes"]["speculation"].update(value="perhaps"), "no mode speculation with values"),
        (lambda content: content["modes"].update(weather=content["modes"]["speculation"]), "no mode weather"),
        (lambda content: content.update(cpu="AMD"), "no file of kstack probe"),
    ],
)
def test_what_makes_no_sense_is_refused_whoever_sealed_it(
    file: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    assert why in refused((*RUN, "--modes-from", changed(file, change, sealed=True)))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused((*RUN, "--modes-from", tmp_path / "none.json"))
    assert "cannot be read: Is a directory" in refused((*RUN, "--modes-from", tmp_path))


@pytest.mark.parametrize(("kind", "why"), [("pipe", "is no file"), ("device", "is no file"), ("large", "is too large")])
def test_what_is_no_file_of_a_probe_is_not_read(tmp_path: Path, kind: str, why: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    assert why in refused((*RUN, "--modes-from", path))


def test_a_file_that_decides_nothing_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "p.json", replace(probed(READINGS["needs-accessed"], 0), cpu=CPU))
    assert "decides no mode: speculation: control timer-slow failed" in refused((*RUN, "--modes-from", file))


def test_a_campaign_says_all_of_it_itself(file: Path, tmp_path: Path) -> None:
    assert "--mode or --modes-from beside it" in refused(
        ("inject", "--campaign", tmp_path / "c.toml", "--modes-from", file)
    )


def test_where_the_system_does_not_say_its_cpu_a_probe_is_anothers(
    tmp_path: Path, host: Callable[[CpuModel | None], None]
) -> None:
    file = written(tmp_path / "p.json", replace(FOUND, cpu=None))
    assert not document(*RUN, "--modes-from", file)["modes_from"]["same_cpu"]
