"""All interleavings: the shortest way to a finding, or a proof; the same however it is computed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from kstack.base.errors import ConfigError, ScenarioError
from kstack.explore import batches, breadth_first
from kstack.explore.breadth_first import Bounds, Problem, search
from kstack.explore.sample import sample
from kstack.explore.witness import witness
from kstack.hw.modes import Modes
from kstack.policies.fixed_16k import Fixed16K
from kstack.stacks import Steps, Thread, unmap_pages
from kstack.stacks.idioms import shootdown
from kstack.stacks.loading.registry import find_policy
from tests.support.command import kstack
from tests.support.memory_order import write_guest
from tests.support.searches import LAIGHT, essence, problem

ROOT = Path(__file__).parents[2]


def test_laight_breaks_entry_exit_in_at_most_seventy_operations_and_four_switches() -> None:
    outcome = search(problem("entry-exit"))
    assert outcome.verdict == "unsafe"
    assert outcome.finding is not None
    assert outcome.finding.kind.value == "stale-translation"
    shown = witness(LAIGHT, find_policy("entry-exit"), Modes(), outcome.visible, outcome.path)
    assert len(shown.path) <= 70
    assert shown.switches <= 4
    assert shown.pair is not None
    assert "WritePte" in shown.pair.store.what
    assert "through what it has cached" in shown.pair.access.what


@pytest.mark.parametrize("policy", ["fixed-16k", "switch-sp-ipi", "switch-sp-invlpgb", "switch-sp-deferred"])
def test_a_policy_that_tells_everybody_first_is_proved(policy: str) -> None:
    outcome = search(problem(policy))
    assert (outcome.verdict, outcome.complete, outcome.stuck) == ("safe", True, 0)


def test_a_proof_says_how_many_accesses_could_have_gone_wrong() -> None:
    assert search(problem("switch-sp-ipi")).exercised > 0
    assert search(problem("fixed-16k")).exercised == 0


class Losing(Fixed16K):
    """Frames of a thread that exits are nobody's."""

    id = "losing"

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from unmap_pages(thread.pages)
        yield from shootdown(thread.pages)


def test_frames_that_are_lost_when_all_programs_have_ended_are_a_finding() -> None:
    found = search(Problem("litmus-reuse", Losing, Modes()))
    assert found.finding is not None
    assert (found.verdict, found.finding.kind.value) == ("unsafe", "leak")
    assert search(problem("fixed-16k", "litmus-reuse")).verdict == "safe"


@pytest.mark.parametrize(("policy", "workers"), [("entry-exit", 2), ("switch-sp-ipi", 2), ("switch-sp-ipi", 10)])
def test_the_outcome_does_not_depend_on_how_many_processes_expand_states(
    policy: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = search(problem(policy))
    monkeypatch.setattr(breadth_first, "BATCH", 4)
    with ProcessPoolExecutor(workers) as executor:
        together = search(problem(policy), executor=executor)
    assert essence(together) == essence(alone)


def test_a_search_goes_on_from_a_checkpoint_to_the_same_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(problem("switch-sp-ipi"))
    monkeypatch.setattr(breadth_first, "SAVE_SECONDS", 0.0)
    place = tmp_path / "search"
    cut = search(problem("switch-sp-ipi"), Bounds(states=200), checkpoint=place)
    assert (cut.verdict, cut.complete) == ("undecided", False)
    assert essence(search(problem("switch-sp-ipi"), checkpoint=place)) == essence(whole)


def test_a_search_that_is_killed_ten_times_goes_on(tmp_path: Path) -> None:
    """At moments drawn by a seed, each after it has got on by at least a layer."""
    place, rng = tmp_path / "search", random.Random(4)
    code = (
        "from pathlib import Path; from kstack.explore import breadth_first; breadth_first.SAVE_SECONDS = 0.0; "
        "from kstack.hw.modes import Modes; "
        f"breadth_first.search(breadth_first.Problem({LAIGHT!r}, 'switch-sp-ipi', Modes()), checkpoint=Path({str(place)!r}))"
    )
    kills = 0
    for _ in range(10):
        before = place.read_bytes() if place.exists() else None
        child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if place.exists() and place.read_bytes() != before:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    assert kills >= 5, "it has to be killed before it is done"
    assert essence(search(problem("switch-sp-ipi"), checkpoint=place)) == essence(search(problem("switch-sp-ipi")))


@pytest.mark.parametrize("what", ["policy", "modes", "damage", "text"])
def test_a_checkpoint_of_something_else_is_one_clear_error(what: str, tmp_path: Path) -> None:
    place = tmp_path / "search"
    search(problem("switch-sp-ipi"), Bounds(states=100), checkpoint=place)
    wanted = problem("switch-sp-ipi")
    if what == "policy":
        wanted = problem("entry-exit")
    elif what == "modes":
        wanted = problem("switch-sp-ipi", speculation="none")
    elif what == "damage":
        place.write_bytes(place.read_bytes()[:-7])
    else:
        place.write_text("hello")
    with pytest.raises(ConfigError, match=r"--checkpoint .* is (of another search|no checkpoint|damaged)"):
        search(wanted, checkpoint=place)


def test_a_bound_that_cuts_leaves_it_undecided() -> None:
    outcome = search(problem("entry-exit"), Bounds(depth=20))
    assert (outcome.verdict, outcome.complete, outcome.cut) == ("undecided", False, "depth 20")


def test_random_walks_find_it_too_and_prove_nothing() -> None:
    outcome = sample(Problem(LAIGHT, "entry-exit", Modes()), Bounds(executions=200))
    assert outcome.verdict == "unsafe"
    clean = sample(Problem(LAIGHT, "switch-sp-ipi", Modes()), Bounds(executions=20))
    assert (clean.verdict, clean.complete) == ("undecided", False)


def test_a_large_scenario_is_refused() -> None:
    with pytest.raises(ScenarioError, match="not made to be explored"):
        search(problem("fixed-16k", "laight"))


def test_the_command_prints_what_others_rely_on() -> None:
    done = kstack("explore", LAIGHT, "--policy", "entry-exit", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    expected = {"version", "verdict", "engine", "bound", "modes", "complete", "exercised", "executions", "states"}
    expected |= {"steps", "seconds", "finding", "witness", "minimised", "critical_pair"}
    assert expected <= set(found)
    assert found["minimised"]["steps"] == len(found["witness"])
    assert kstack("explore", LAIGHT, "--policy", "switch-sp-ipi").returncode == 0
    nothing = kstack("explore", LAIGHT, "--policy", "fixed-16k", "--json")
    assert (nothing.returncode, json.loads(nothing.stdout)["asks_nothing"]) == (4, True)
    assert kstack("explore", LAIGHT, "--policy", "entry-exit", "--depth", "9").returncode == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("laight", "--policy", "fixed-16k"), "not made to be explored"),
        ((LAIGHT, "--policy", "fixd-16k"), "did you mean"),
        ((LAIGHT, "--policy", "fixed-16k", "--budget", "0"), "give more than 0"),
        ((LAIGHT, "--policy", "fixed-16k", "--dask", "tcp://127.0.0.1:1"), "no scheduler answers there"),
    ],
)
def test_bad_usage_is_one_clear_error(words: tuple[str, ...], says: str) -> None:
    done = kstack("explore", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_compare_explores_litmus_scenarios_where_it_is_asked_to() -> None:
    words = ("--scenarios", LAIGHT, "--policies", "entry-exit,switch-sp-ipi", "--schedules", "1", "--explore", "--json")
    results = json.loads(kstack("compare", *words).stdout)["results"]
    assert [(one["safe"], one["basis"]) for one in results] == [(False, "exhaustive"), (True, "exhaustive")]
    short = json.loads(kstack("compare", *words, "--budget", "0.001").stdout)["results"]
    assert short[1]["safe"] is None
    assert "undecided" in short[1]["reason"]


LATE = """.text
program_0:
    mov rax, [r15]
    cmp rax, 1
    jne .Lon
    mov rbx, [rip+late]
    test rbx, rbx
    jnz litmus_wrong
.Lon:
    xor eax, eax
    xor ebx, ebx
    mov qword ptr [r15+64], 1
    jmp litmus_end
program_1:
    mov qword ptr [r15], 1
    mov qword ptr [r15], 0
PADDING
    mov qword ptr [rip+late], 1
    jmp litmus_end
.data
late:
    .quad 0
"""


@pytest.mark.parametrize("every_move", [True, False])
@pytest.mark.parametrize("states", [20, 60, 100])
def test_a_search_that_goes_on_knows_who_has_touched_which_page(states: int, every_move: bool, tmp_path: Path) -> None:
    """A page that one CPU has touched before the search was cut, in a state on no way to where it goes on."""
    toml = write_guest(tmp_path, LATE.replace("PADDING", "    mov rcx, [r15+192]\n" * 40), 2, 0)
    late, place = Problem(str(toml), "fixed-16k", Modes()), tmp_path / "search"
    search(late, Bounds(states=states, every_move=every_move), checkpoint=place)
    whole, resumed = (
        search(late, Bounds(every_move=every_move)),
        search(late, Bounds(every_move=every_move), checkpoint=place),
    )
    assert (whole.verdict, resumed.verdict) == ("unsafe", "unsafe")
    assert resumed.visible.frames == whole.visible.frames
    assert resumed.finding == whole.finding


def test_workers_that_outlive_a_search_do_not_answer_for_another_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breadth_first, "BATCH", 1)
    file = tmp_path / "mine.py"
    mine = Problem(LAIGHT, str(file), Modes())
    with ProcessPoolExecutor(1) as executor:
        file.write_text((ROOT / "policies/switch_sp_invlpgb.py").read_text())
        assert search(mine, executor=executor).verdict == "safe"
        file.write_text((ROOT / "policies/switch_sp_local.py").read_text())
        assert search(mine, executor=executor).verdict == "unsafe"


def test_workers_may_be_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breadth_first, "BATCH", 4)
    with ThreadPoolExecutor(4) as executor:
        together = search(problem("switch-sp-ipi"), executor=executor)
    assert essence(together) == essence(search(problem("switch-sp-ipi")))


def test_a_worker_with_other_files_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="another policy source"):
        batches.worker(problem("switch-sp-ipi"), "a search", (("policy source", "0" * 32),))
