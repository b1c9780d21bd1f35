"""Whatever a policy's hook does, the host lives and says one clear thing: a `PolicyError`, or a finding.

A policy is Python in this process: what it does without a step (an endless loop, `os._exit`) nobody can catch; see the
last section. What a step is given is checked before anything is changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import pytest

from kstack.base.errors import PolicyError
from kstack.policies.entry_exit import EntryExit
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.schedule import RandomSchedule
from kstack.stacks import Policy, Thread, steps
from kstack.stacks.area import Page, Pte
from kstack.stacks.host.runtime import MAX_STEPS
from kstack.stacks.loading.registry import find_policy
from tests.fuzz.bounds import bounded
from tests.fuzz.wild_steps import HUGE, WILD, Strange, Unshown
from tests.support.boots import booted
from tests.support.command import kstack

SCENARIO: Final = "exit-reuse"
UNITS: Final = 200_000
Hook = Callable[[Any, int, Thread], Any]
Body = Callable[[int, Thread], Generator[Any, Any, Any]]


def run_bounded(policy: Policy, units: int = UNITS) -> RunResult:
    """A run of a scenario, within bounds of the host's time and memory."""
    with bounded(seconds=60, memory=256 << 20):
        return booted(SCENARIO).session(policy, RandomSchedule(0), RunOptions(units, hashed=False)).run()


def with_hook(enter: Hook, **more: Any) -> Policy:
    """entry-exit with another `enter_kernel`, and more that is other."""
    return type("Hostile", (EntryExit,), {"enter_kernel": enter, **more})()


def refused(policy: Policy, units: int = UNITS) -> str:
    """The one line that is said of a policy."""
    with pytest.raises(PolicyError) as error:
        run_bounded(policy, units)
    text = str(error.value)
    assert "\n" not in text and len(text) < 1000 and re.match("policy entry-exit(: |, hook )enter_kernel", text), text
    return text


def yields(make: Callable[[int, Thread], Any]) -> Policy:
    """Yields one thing in `enter_kernel`."""

    def enter(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        yield make(cpu, thread)

    return with_hook(enter)


def test_the_scenario_runs_with_the_policy_as_it_is() -> None:
    assert run_bounded(EntryExit()).ended == "exit"


# --- hooks that raise


class Own(Exception):
    """Whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x\ny" * 1000),
        RecursionError("x"),
        MemoryError("x"),
        SystemExit(0),
        GeneratorExit("x"),
        StopIteration("x"),
        Own(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("when", ["before the first step", "behind it", "before it is a generator"])
def test_a_hook_that_raises_is_named(error: BaseException, when: str) -> None:
    def late(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        if when == "behind it":
            yield steps.OtherCpus()
        raise error

    def at_once(self: Any, cpu: int, thread: Thread) -> None:
        raise error

    text = refused(with_hook(at_once if when == "before it is a generator" else late))
    assert "raised" in text


def test_a_policy_that_calls_itself_for_ever_is_named() -> None:
    def enter(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        yield from self.enter_kernel(cpu, thread)

    assert "RecursionError" in refused(with_hook(enter))


def test_a_keyboard_interrupt_is_the_users() -> None:
    def enter(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        yield steps.OtherCpus()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bounded(with_hook(enter))


# --- hooks that are none, or answer nonsense


@pytest.mark.parametrize("hook", [None, 7, lambda: None, staticmethod(EntryExit.enter_kernel), Thread])
def test_a_hook_that_is_no_generator_is_refused(hook: Any) -> None:
    assert "write `def enter_kernel(self, cpu, thread):`" in refused(with_hook(hook))


@pytest.mark.parametrize("hook", [lambda self, cpu, thread: None, lambda self, cpu, thread: 5])
def test_a_hook_that_makes_no_generator_is_refused(hook: Any) -> None:
    assert re.search("no `yield`|no generator", refused(with_hook(hook)))


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError("neither")


@pytest.mark.parametrize("answer", ["yes", Undecided(), [1], object])
def test_an_answer_that_is_none_is_refused(answer: Any) -> None:
    def create(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, Any]:
        yield from EntryExit.create_thread(self, cpu, thread)
        return answer

    with pytest.raises(PolicyError, match=r"hook create_thread answered .{1,100}, which is neither True nor False"):
        run_bounded(with_hook(EntryExit.enter_kernel, create_thread=create))


@pytest.mark.parametrize(
    "step",
    [None, 0, "ReadPte", steps.ReadPte, [], Unshown(), steps.Step(), Strange(Page(1, 0, 0)), "x" * 10_000_000],
    ids=["None", "0", "a string", "a class", "a list", "unshown", "the base", "unknown", "much text"],
)
def test_what_is_no_step_is_refused(step: Any) -> None:
    assert re.search("no micro-step|does not know", refused(yields(lambda cpu, thread: step)))


# --- steps with wild arguments


@pytest.mark.parametrize("what", WILD)
def test_a_step_with_wild_arguments_is_refused(what: str) -> None:
    text = refused(yields(WILD[what]))
    assert "has a wrong argument" in text or "without unlocking" in text


@pytest.mark.parametrize(
    "step", [lambda: steps.ThreadAt(HUGE), lambda: steps.ThreadAt(-1), lambda: steps.Sleepers(-HUGE)]
)
def test_a_question_about_nothing_has_an_answer(step: Callable[[], Any]) -> None:
    run_bounded(yields(lambda cpu, thread: step()))


@pytest.mark.parametrize(
    "frame", [0x100000, 0x0, 0xFEE00000, (1 << 52) - 4096], ids=["kernel", "zero", "APIC", "beyond"]
)
def test_a_frame_that_is_not_the_policys_is_refused_where_it_would_be_mapped(frame: int) -> None:
    assert "no frame of the pool" in refused(yields(lambda cpu, thread: steps.WritePte(thread.lower[0], Pte.of(frame))))


# --- policies that do not end, or keep what they should give


def test_endless_steps_end_with_the_bound_on_time() -> None:
    def enter(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        while True:
            yield steps.OtherCpus()

    assert run_bounded(with_hook(enter), 20_000).ended == "bound"


def test_endless_steps_of_one_hook_end_with_a_bound_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kstack.stacks.host.runtime.MAX_STEPS", 1000)
    made = []

    def enter(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        while True:
            made.append(1)
            yield steps.OtherCpus()

    assert "1000 steps" in refused(with_hook(enter))
    assert len(made) < 5000 and MAX_STEPS <= 1 << 20  # what each answered is kept: a bound on memory


def test_variables_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kstack.stacks.host.execute._MAX_VARIABLES", 500)

    def enter(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        for number in range(100_000):
            yield steps.Store("x", 1, number)

    assert "variables" in refused(with_hook(enter))


def test_a_lock_that_is_kept_is_refused() -> None:
    assert "without unlocking" in refused(yields(lambda cpu, thread: steps.Lock("kept")))


def test_frames_that_are_kept_are_findings() -> None:
    def leaks(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        for _ in range(4):
            yield steps.TakePage()

    result = run_bounded(with_hook(leaks))
    assert {finding.kind.value for finding in result.findings} & {
        "leak",
        "out-of-pages",
        "imbalance",
        "unhandled-fault",
    }


def test_a_thread_that_a_policy_changes_is_no_other_for_the_machine() -> None:
    def enter(self: Any, cpu: int, thread: Thread) -> Generator[Any, Any, None]:
        pages = thread.lower
        thread.size, thread.bottom, thread.id = 1 << 50, -(1 << 70), 12345
        for one in pages:
            pte = yield steps.ReadPte(one)
            if not pte.present:
                frame = yield steps.TakePage()
                yield steps.WritePte(one, Pte.of(frame))
                yield steps.Invlpg(one)

    assert run_bounded(with_hook(enter)).state_hash == "" and run_bounded(with_hook(enter)).ended == "exit"


# --- classes that are no policies, and the command line

HEAD: Final = """
import os, sys
from kstack.policies.entry_exit import EntryExit
from kstack.stacks import Policy, steps
class Mine(EntryExit):
    id = "mine"
"""
FILES: Final = {
    "exits at import": ("import sys\nsys.exit(0)", "SystemExit"),
    "raises at import": ("1 / 0", "ZeroDivisionError"),
    "is nested without end": ("x = " + "(" * 5000, "policy file"),
    "has no class": ("x = 1", "0 policy classes"),
    "is no text": ("\0\0", "null bytes"),
    "cannot be made": (HEAD + "    def __init__(self):\n        raise ValueError('no')", "cannot be made"),
    "exits when it is made": (HEAD + "    def __init__(self):\n        sys.exit(0)", "cannot be made"),
    "wants arguments": (HEAD + "    def __init__(self, what):\n        pass", "cannot be made"),
    "is delivered by nobody": (HEAD + "    delivery = 'post'", "delivery"),
    "has a pool of text": (HEAD + "    pool_pages = 'many'", "pool_pages"),
    "has a pool below zero": (HEAD + "    pool_pages = -5", "pool_pages"),
    "says neither that it reclaims nor that it does not": (HEAD + "    reclaims = 'no'", "reclaims"),
    "exits in a hook": (
        HEAD + "    def enter_kernel(self, cpu, thread):\n        sys.exit(0)\n        yield",
        "SystemExit",
    ),
    "has no hook": (HEAD + "    switch_out = 5", "def switch_out(self, cpu, thread):"),
    "has a misspelled hook": (
        HEAD + "    def switchout(self, cpu, thread):\n        yield",
        "did you mean switch_out?",
    ),
    "has a misspelled attribute": (HEAD + "    delivry = 'ist'", "did you mean delivery?"),
    "forgets `yield from`": (
        HEAD + "    def switch_out(self, cpu, thread):\n        yield\n        self.exit_thread(cpu, thread)",
        "yield from self.exit_thread(...)",
    ),
    "yields nonsense": (HEAD + "    def enter_kernel(self, cpu, thread):\n        yield 5", "no micro-step"),
}


@pytest.mark.parametrize("what", FILES)
def test_the_command_line_says_one_line_and_exits_with_2(what: str, tmp_path: Path) -> None:
    source, says = FILES[what]
    path = tmp_path / "mine.py"
    path.write_text(source)
    done = kstack("run", SCENARIO, "--policy", path, "--record", tmp_path / "never.json")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr[-2000:]
    assert done.stderr.startswith("kstack: policy") and says in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("compare", "--schedules", "1", "--scenarios", SCENARIO, "--policies"), ("explore", "litmus-laight", "--policy")],
)
def test_other_commands_do_so_too(command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILES["exits in a hook"][0])
    done = kstack(*command, path)
    where, code = (done.stdout, 0) if command[0] == "compare" else (done.stderr, 2)  # a table is made, with that in it
    assert (done.returncode, "SystemExit" in where, "Traceback" in done.stderr) == (code, True, False), done


def test_a_class_that_is_none_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD)
    assert find_policy(str(path)).id == "mine"
    path.write_text(HEAD + "    title = 5")
    with pytest.raises(PolicyError, match="title"):
        find_policy(str(path))


# --- what is not caught


def test_an_endless_loop_without_a_step_ends_with_ctrl_c(tmp_path: Path) -> None:
    """No step, no time: nothing but a clock could bound it, and runs must not depend on one. Ctrl-C ends it, with 130."""
    import signal
    import subprocess

    path = tmp_path / "mine.py"
    path.write_text(
        HEAD
        + "    def enter_kernel(self, cpu, thread):\n        print('here', flush=True)\n        while True: pass\n        yield"
    )
    command = [sys.executable, "-c", "from kstack.cli import main; main()", "run", SCENARIO, "--policy", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        while "here" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        text = process.stderr.read()
    assert process.returncode == 130 and "Traceback" not in text
