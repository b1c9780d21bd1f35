"""A comparison that is killed, interrupted or repeated: nothing finished is lost, nothing else is believed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kstack.base.errors import ConfigError, KstackError
from kstack.hw.modes import Modes
from kstack.judge.pairs import PairCheckpoint, _begin_worker, judge_pairs
from kstack.judge.verdict import JudgedPair, Portfolio
from kstack.stacks.host.pool import PoolConfig
from tests.support.command import kstack, kstack_process
from tests.support.own_policy import OWN_POLICY

ROOT = str(Path(__file__).parents[2])
WORDS = (
    "compare",
    "--policies",
    "fixed-16k,entry-exit,fixed-8k",
    "--scenarios",
    "laight,recursion",
    "--schedules",
    "0",
)
ADVERSARIAL = Modes(tlb="adversarial")
FEW = Portfolio(0)


def started(*words: str) -> subprocess.Popen[str]:
    """The command, running in a process group of its own."""
    command = [sys.executable, "-c", "from kstack.cli import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "120", "NO_COLOR": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def wait_for_lines(path: Path, number: int) -> None:
    """Wait until a checkpoint has so many lines."""
    for _ in range(1200):
        if path.exists() and path.read_bytes().count(b"\n") >= number:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never had {number} lines")


def pairs(*policies: str, portfolio: Portfolio = FEW, modes: Modes = ADVERSARIAL) -> list[JudgedPair]:
    """Pairs with `laight`."""
    return [JudgedPair(policy, "laight", portfolio, modes) for policy in policies]


def saved(path: Path, todo: list[JudgedPair]) -> dict[int, Any]:
    """Judge pairs into a checkpoint."""
    checkpoint = PairCheckpoint(path, todo)
    try:
        return dict(judge_pairs(todo, 1, checkpoint))
    finally:
        checkpoint.close()


def changed(path: Path, old: str, new: str) -> None:
    """Change a policy's source."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def whole() -> str:
    """What the command prints in one go."""
    return kstack(*WORDS, "--json").stdout


def test_a_killed_comparison_goes_on_where_it_was_and_prints_the_same_bytes(tmp_path: Path, whole: str) -> None:
    path = tmp_path / "c.jsonl"
    process = started(*WORDS, "--json", "--jobs", "1", "--resume", str(path))
    wait_for_lines(path, 3)
    process.kill()
    process.communicate()
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'0123456789abcdef {"policy":"fix')  # a line that was torn
    done = kstack(*WORDS, "--json", "--resume", str(path))
    assert done.stdout == whole
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "what was finished is kept as it was"
    assert path.read_bytes().count(b"\n") == 7
    assert kstack(*WORDS, "--json", "--resume", str(path)).stdout == whole, "the torn line has gone"


def test_results_are_in_the_order_of_the_command_line_whatever_was_saved_first(tmp_path: Path, whole: str) -> None:
    path = str(tmp_path / "c.jsonl")
    last = ("compare", "--policies", "fixed-8k", "--scenarios", "recursion", "--schedules", "0", "--resume", path)
    assert kstack(*last).returncode == 0
    assert kstack(*WORDS, "--json", "--resume", path).stdout == whole


def test_workers_leave_an_interrupt_to_their_parent() -> None:
    with ProcessPoolExecutor(1, initializer=_begin_worker) as executor:
        assert executor.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_IGN


def test_a_comparison_that_is_stopped_ends_its_own_workers_alone() -> None:
    """A generator is closed when it is collected, at any time: other comparisons go on then."""
    first, second = judge_pairs(pairs("fixed-16k", "entry-exit"), 2), judge_pairs(pairs("fixed-16k", "entry-exit"), 2)
    seen = [next(first), next(second)]
    first.close()
    assert len([*seen, *second]) == 3


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"),
        (lambda _: os._exit(7), "ended with exit code 7"),
    ],
)
def test_how_a_worker_died_is_said(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[JudgedPair], None], says: str
) -> None:
    end.__name__ = "judge"  # by which a worker finds it
    monkeypatch.setattr(JudgedPair, "judge", end)
    with pytest.raises(KstackError, match=says):
        list(judge_pairs(pairs("fixed-16k"), 1))


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    process = started(*WORDS, "--jobs", "2", "--resume", str(path))
    wait_for_lines(path, 2)
    process.kill()
    process.communicate(timeout=20)  # both ends of the pipes are closed when the last worker has gone


def test_what_is_saved_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = pairs("fixed-16k", "entry-exit")
    first = saved(tmp_path / "c.jsonl", todo)

    def never(self: JudgedPair) -> None:
        raise AssertionError("judged again")

    monkeypatch.setattr(JudgedPair, "judge", never)
    assert saved(tmp_path / "c.jsonl", todo) == first


def test_a_checkpoint_serves_other_pairs_of_the_same_options(tmp_path: Path) -> None:
    first = saved(tmp_path / "c.jsonl", pairs("entry-exit"))
    again = saved(tmp_path / "c.jsonl", pairs("fixed-16k", "entry-exit"))
    assert again[1] == first[0]
    assert len(again) == 2


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path: Path, whole: str) -> None:
    assert kstack(*WORDS, "--json", "--jobs", "2").stdout == whole


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (pairs("fixed-16k", portfolio=Portfolio(3)), "schedules was 0 and is 3"),
        (pairs("fixed-16k", portfolio=Portfolio(0, PoolConfig("fifo"))), "pool order was lifo and is fifo"),
        (pairs("fixed-16k", modes=Modes()), "mode tlb was adversarial and is retain"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused_with_what_differs(
    tmp_path: Path, other: list[JudgedPair], says: str
) -> None:
    path = tmp_path / "c.jsonl"
    saved(path, pairs("fixed-16k"))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=says):
        PairCheckpoint(path, other)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_source_of_a_policy_is_refused(tmp_path: Path) -> None:
    policy, path = tmp_path / "mine.py", tmp_path / "c.jsonl"
    policy.write_text(OWN_POLICY)
    words = ("compare", "--policies", str(policy), "--scenarios", "laight", "--schedules", "0", "--resume", str(path))
    assert kstack_process(*words).returncode == 0
    changed(policy, "all at once", "all at 1ce")
    done = kstack_process(*words)
    assert done.returncode == 2
    assert "source of policy" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_checkpoint_of_another_kstack_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.jsonl"
    saved(path, pairs("fixed-16k"))
    monkeypatch.setattr("kstack.judge.pairs._code_hash", lambda: "another")
    with pytest.raises(ConfigError, match=r"kstack was .* and is .*another"):
        PairCheckpoint(path, pairs("fixed-16k"))


def test_a_damaged_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    saved(path, pairs("fixed-16k"))
    path.write_bytes(path.read_bytes().replace(b'"safe":true', b'"safe":null'))
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        PairCheckpoint(path, pairs("fixed-16k"))


@pytest.mark.parametrize("content", ["my letters\n", "my letters", "{}\n"])
def test_a_file_that_is_no_checkpoint_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "letters.txt"
    path.write_text(content)
    done = kstack(*WORDS, "--resume", str(path))
    assert done.returncode == 2
    assert "no checkpoint" in done.stderr
    assert path.read_text() == content


def test_two_comparisons_cannot_write_one_checkpoint(tmp_path: Path) -> None:
    first = PairCheckpoint(tmp_path / "c.jsonl", pairs("fixed-16k"))
    with pytest.raises(ConfigError, match="another kstack"):
        PairCheckpoint(tmp_path / "c.jsonl", pairs("fixed-16k"))
    first.close()


def test_an_interrupt_prints_what_is_finished_and_one_line(tmp_path: Path, whole: str) -> None:
    path = tmp_path / "c.jsonl"
    process = started(*WORDS, "--json", "--jobs", "1", "--resume", str(path))
    wait_for_lines(path, 3)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.startswith("kstack: interrupted after ")
    assert len(stderr.strip().splitlines()) == 1
    found, everything = json.loads(stdout), json.loads(whole)
    assert found["complete"] is False
    assert 0 < len(found["results"]) < 6
    assert all(result in everything["results"] for result in found["results"])
