"""The command line as others rely on it: JSON fields, exit codes, one clear error for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kstack.recording.journal import Journal
from tests.support.command import document, kstack
from tests.support.own_policy import OWN_POLICY

THREE = "fixed-16k,entry-exit,switch-sp-ipi"


def test_compare_prints_the_fields_that_others_rely_on() -> None:
    found = document("compare", "--policies", THREE, "--scenarios", "laight", "--schedules", "2")
    assert found["modes"]["tlb"] == "adversarial"
    assert found["modes"]["speculation"] == "sets-accessed"
    results = {result["policy"]: result for result in found["results"]}
    assert set(results) == {"fixed-16k", "entry-exit", "switch-sp-ipi"}
    for result in results.values():
        assert result["basis"] in ("scripted", "sampled", "exhaustive")
        assert result["cycles"]["low"] <= result["cycles"]["nominal"] <= result["cycles"]["high"]
        counts = {"faults", "pte_writes", "invlpg", "ipis", "walks", "switches", "syscalls"}
        assert set(result["counts"]) == counts
        assert result["bound"]["runs"] == (3 if result["safe"] is False else 6), "three findings are enough"
        assert result["kib_per_thread"] > 4
    unsafe = results["entry-exit"]
    assert unsafe["safe"] is False
    assert unsafe["finding"]["kind"] == "stale-translation"
    assert unsafe["finding"]["cpu"] == 1
    assert {"symbol", "address"} <= set(unsafe["finding"])
    assert results["fixed-16k"]["finding"] is None


def test_compare_is_complete_with_exit_code_0_and_strict_makes_it_1() -> None:
    words = ("compare", "--scenarios", "laight", "--schedules", "0", "--policies", "entry-exit")
    assert kstack(*words).returncode == 0
    assert kstack(*words, "--strict").returncode == 1


def test_the_table_names_cpu_symbol_address_both_owners_and_the_step_that_freed() -> None:
    done = kstack("compare", "--scenarios", "laight", "--schedules", "0", "--policies", "entry-exit")
    for part in (
        "unsafe",
        "CPU 1 read",
        "0xffffc9",
        "laight_watch+",
        "belonged to thread",
        "freed by exit_kernel",
        "GiveBack",
    ):
        assert part in done.stdout


def test_run_gives_serial_findings_and_state() -> None:
    found = document("run", "laight", "--policy", "entry-exit")
    assert (found["exit"], found["code"]) == ("exit", 1)
    assert "laight: rounds 2 wrong 1" in found["serial"]
    assert found["findings"][0]["kind"] == "stale-translation"
    assert len(found["cpus"]) == 2
    assert found["instructions"] > 0
    assert len(found["state_hash"]) == 32


def test_run_exit_codes() -> None:
    assert kstack("run", "laight", "--policy", "switch-sp-ipi").returncode == 0
    assert kstack("run", "laight", "--policy", "entry-exit").returncode == 1
    assert kstack("run", "selftest", "--max-instructions", "10000").returncode == 4


def test_run_ends_at_the_first_finding_if_asked() -> None:
    found = document("run", "laight", "--policy", "entry-exit", "--stop-at-finding")
    assert found["exit"] == "finding"
    assert found["code"] == 1


def test_a_dead_guest_gives_code_3_and_a_panic_report(tmp_path: Path) -> None:
    image = tmp_path / "dies.bin"
    image.write_bytes(bytes.fromhex("0f011e0500cc") + bytes(8))  # lidt [5]; int3
    done = kstack("run", str(image), "--format", "flat")
    assert done.returncode == 3
    for part in ("guest died", "RIP 0x", "RAX", "CR3", "int3"):
        assert part in done.stderr


def test_a_users_own_policy_in_a_file_is_judged_like_the_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    says_so = OWN_POLICY.replace('"here"', '"here"\n    reclaims = False')
    for text, safe in ((OWN_POLICY, None), (says_so, True)):
        path.write_text(text)
        found = document("compare", "--policies", str(path), "--scenarios", "laight", "--schedules", "0")
        assert [(result["policy"], result["safe"]) for result in found["results"]] == [("mine", safe)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "no-such-image"), "neither built in nor a file"),
        (("run", "laight", "--policy", "entry-exti"), "did you mean entry-exit"),
        (("run", "selftest", "--schedule", "sometimes"), "one of scripted, round-robin"),
        (("run", "selftest", "--schedule", "scripted"), "no script"),
        (("run", "selftest", "--cpus", "65"), "1 to 64"),
        (("run", "selftest", "--cpus", "0"), "1 to 64"),
        (("run", "selftest", "--ram", "lots"), "like 64M"),
        (("run", "selftest", "--ram", "5G"), "1M to 3G"),
        (("run", "selftest", "--mode", "tlb=forget"), "capacity"),
        (("run", "selftest", "--mode", "colour=red"), "name=value"),
        (("run", "laight", "--cpus", "1"), "needs 2 CPUs"),
        (("run", "selftest", "--pool", "heap"), "lifo, fifo, seeded"),
        (("run", "selftest", "--max-instructions", "0"), "1 or more"),
        (("run", "selftest", "--max-work", "0"), "1 or more"),
        (("compare", "--scenarios", "laigth"), "did you mean laight"),
        (("compare", "--schedules", "-1"), "0 or more"),
        (("compare", "--policies", "./none.py"), "does not exist"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(words: tuple[str, ...], says: str) -> None:
    done = kstack(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_option_is_exit_code_2() -> None:
    assert kstack("run", "selftest", "--bogus").returncode == 2


def test_a_policy_file_that_raises_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("raise RuntimeError('half-written')")
    done = kstack("run", "laight", "--policy", str(path))
    assert done.returncode == 2
    assert "RuntimeError: half-written" in done.stderr


@pytest.mark.parametrize(
    ("command", "key", "fields"),
    [
        ("policies", "policies", {"id", "title", "proposer", "source"}),
        ("scenarios", "scenarios", {"id", "title", "source", "question"}),
        ("images", "images", {"name", "title"}),
    ],
)
def test_lists_give_their_fields(command: str, key: str, fields: set[str]) -> None:
    listed = document(command)[key]
    assert listed
    assert all(fields <= set(entry) for entry in listed)


def test_a_policy_that_raises_leaves_the_others_judged(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN_POLICY.replace("yield from map_pages(thread.pages)", "yield 7"))
    done = kstack("compare", "--policies", f"fixed-16k,{path}", "--scenarios", "laight", "--schedules", "0", "--json")
    assert done.returncode == 0
    results = json.loads(done.stdout)["results"]
    assert [result["safe"] for result in results] == [True, None]
    assert "no micro-step" in results[1]["reason"]


def test_too_little_memory_for_a_scenario_is_refused() -> None:
    done = kstack("run", "laight", "--ram", "4M")
    assert done.returncode == 2
    assert "64M" in done.stderr


def test_a_recording_s_file_is_closed_where_the_policy_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Journal] = []
    close = Journal.close

    def closing(self: Journal) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Journal, "close", closing)
    (tmp_path / "mine.py").write_text(OWN_POLICY.replace("yield from map_pages(thread.pages)", "yield 7"))
    done = kstack("run", "laight", "--policy", str(tmp_path / "mine.py"), "--record", str(tmp_path / "r.json"))
    assert done.returncode == 2, done.stderr
    assert len(closed) == 1
