"""However a run ends, each command that makes or repeats it says why, in text and in JSON, and none says more.

A table: the ways in which a run can end, and run, replay, trace, GDB's server and fault injection.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from msgspec import structs

from kstack.debug.origin import Origin
from kstack.guest.asm import assemble
from kstack.inject.trial import judged
from kstack.kernels.kernel import Exits
from kstack.recording import UNFINISHED, read_recording, write_recording
from kstack.run.ending import ENDS
from kstack.run.spec import RunSpec, replay_session
from tests.support.command import document, kstack
from tests.support.debugger import Client
from tests.support.images import signed

scripted = importlib.import_module("kstack.schedule.scripted")

FLAT: Final = 0x7C00
EXIT: Final = "mov al, {value}\nout 0xf4, al\nhlt"
HELLO: Final = "mov dx, 0x3f8\nmov al, 'h'\nout dx, al\nmov al, 'i'\nout dx, al\n"
TRIPLE: Final = "lidt [5]\nint3\n.zero 8"  # an IDT of no size
PAGING: Final = "mov eax, 0x80000001\nmov cr0, eax"
TIMER: Final = "\n".join(  # of the local APIC, by x2APIC's registers: once every thousand units, while nobody listens
    f"mov ecx, {register:#x}\nmov eax, {value:#x}\nxor edx, edx\nwrmsr"
    for register, value in ((0x1B, 0xFEE00D00), (0x80F, 0x1FF), (0x83E, 0xB), (0x832, 0x20020), (0x838, 1000))
)
POLICY: Final = """
from tests.support.seeded_bugs import ShootsWithInterruptsOff
from kstack.stacks import Policy, Steps, Thread, GiveBack, map_pages


class Dead(ShootsWithInterruptsOff):
    id, title, proposer, source = "dead", "dead", "", ""


class Wrong(Policy):
    id, title, proposer, source = "wrong", "wrong", "", ""
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.pages)

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield GiveBack(12345)
"""
SCRIPT: Final = """
id = "stuck"
title = "a script that cannot be followed"
question = "?"
source = "here"
cpus = 2
sources = ["laight.s", "laight_spin.s"]
success = "laight: rounds 2 wrong 0"
events = ["published", "never"]
script = [{ cpu = 0, until = "never" }]
mutant = { policy = "entry-exit" }
"""


class End(NamedTuple):
    """A run.

    Attributes:
        ended, code: how it ends, and with which exit code.
        reason: in it are these words.
        code16: a guest, for want of an image; `image` and `options` as `kstack run` takes them.
        value: what the guest writes to the debug-exit port, if that is how it ends.
    """

    ended: str
    code: int
    reason: str
    code16: str = ""
    image: str = ""
    options: tuple[str, ...] = ()
    value: int | None = None


def exits(value: int, code: int, before: str = "") -> End:
    said = f"the guest wrote {value:#x} to the debug-exit port"
    return End("exit", code, said, before + EXIT.format(value=value), value=value)


RUNS: Final = {
    "exit 0": exits(0, 0),
    "passed": exits(0x10, 0),
    "failed": exits(0x11, 1),
    "panicked": exits(0x12, 3, HELLO)._replace(reason="the guest wrote 0x12 to the debug-exit port, and had printed 'hi'"),
    "its own value": exits(0x55, 1),
    "triple fault": End("shutdown", 3, "CPU 0 shut down (triple fault) at 0x7c05: INT 0x3, then #GP, then #DF", TRIPLE),
    "not modelled": End("shutdown", 3, "CPU 0 was asked for what is not modelled: 32-bit or PAE paging", PAGING),
    "asleep": End("asleep", 3, "every CPU sleeps, and no timer is set: CPU 0 halted, interrupts off", "cli\nhlt"),
    "asleep for ever": End("asleep", 3, "the last 64 timers woke nobody", TIMER + "\ncli\nhlt"),
    "bound": End("bound", 4, "5000 units of virtual time have passed", "here: jmp here", options=("--max-instructions", "5000")),
    "bound of host work": End(
        "bound of host work", 4, "units of work, which is the bound; --max-work 2000 lets it go on",
        "here: in al, 0x80\njmp here", options=("--max-work", "200"),
    ),
    "deadlock": End(
        "deadlock", 1, "every CPU waits for others in a step of the policy", image="laight",
        options=("--policy", "{policies}:Dead", "--schedule", "random", "--seed", "1"),
    ),
    "finding": End(
        "finding", 1, "it was to end at a finding: stale-translation: CPU 1 read", image="laight",
        options=("--policy", "entry-exit", "--stop-at-finding"),
    ),
}  # fmt: skip


class Made(NamedTuple):
    """A run that has been made: its image and its recording."""

    end: End
    words: tuple[str, ...]
    recording: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ends")
    (place / "policies.py").write_text(POLICY)
    return place


@pytest.fixture(scope="module", params=RUNS)
def made(request: pytest.FixtureRequest, folder: Path) -> Made:
    end = RUNS[request.param]
    image, name = end.image, request.param.replace(" ", "-")
    if not image:
        (folder / f"{name}.bin").write_bytes(signed(assemble(end.code16, FLAT, 16)))
        image = str(folder / f"{name}.bin")
    options = tuple(one.format(policies=folder / "policies.py") for one in end.options)
    return Made(end, (image, *options), folder / f"{name}.json")


def said(text: str) -> list[str]:
    """Lines but for what names the command."""
    return [line.removesuffix(", identical") for line in text.splitlines() if not line.startswith("again: ")]


def test_run_and_replay_say_why_and_the_same(made: Made) -> None:
    end, words, recording = made
    done = kstack("run", *words, "--record", recording)
    again = kstack("replay", recording)
    assert (done.returncode, again.returncode) == (end.code, end.code)
    assert end.reason in done.stderr
    assert f"{end.ended}: virtual time" in done.stderr
    assert done.stdout == again.stdout
    assert said(done.stderr) == said(again.stderr)
    died = end.code == 3 and (end.ended == "shutdown" or end.value is not None)
    for text in (done.stderr, again.stderr):
        assert ("guest died" in text) == died


def test_json_of_run_and_replay_has_the_reason(made: Made) -> None:
    end, words, recording = made
    found, again = document("run", *words, "--record", recording), document("replay", recording)
    for one in (found, again):
        assert (one["exit"], one["code"], one["stuck"]) == (end.ended, end.code, None)
        assert one["exit_value"] == end.value or (end.value is None and end.image)
        assert end.reason in one["reason"]
    assert found["reason"] == again["reason"] and again["identical"]


def test_a_replay_to_the_end_and_beyond_says_why(made: Made) -> None:
    end, words, recording = made
    time = document("run", *words, "--record", recording)["instructions"]
    done = kstack("replay", recording, "--to", time + 1000)
    found = document("replay", recording, "--to", time + 1000, told=True)
    assert end.reason in done.stderr and end.reason in found["reason"]
    assert (found["exit"], found["time"]) == (end.ended, time)
    assert ("died" in done.stdout) == (end.ended == "shutdown" or end.value == 0x12)
    begun = document("replay", recording, "--to", 1, told=True)
    assert (begun["exit"], begun["reason"]) == (None, None)


def test_a_trace_ends_with_the_reason(made: Made, tmp_path: Path) -> None:
    end, words, recording = made
    time = document("run", *words, "--record", recording)["instructions"]
    lines = kstack("trace", "show", recording, "--from", time).stdout.splitlines()
    shown = document("trace", "show", recording, "--from", time)
    assert f"* end {end.ended}" in lines[-1] and end.reason in lines[-1]
    assert end.value is None or f"value={end.value:#x}" in lines[-1]
    assert shown["exit"] == end.ended and end.reason in shown["lines"][-1]["text"]
    assert "died" not in "\n".join(lines)


def test_gdb_is_told_why_a_recording_ends_and_why_a_live_run_does(made: Made) -> None:
    end, words, recording = made
    kstack("run", *words, "--record", recording)
    client = Client(Origin.of_recording(read_recording(recording)))
    assert client.ask("c").startswith("T05")
    assert f"the run ends here: {end.ended}: " in client.console and end.reason in client.console
    assert end.reason in client.monitor("schedule")
    if end.image or end.ended.startswith("bound"):
        return  # live it goes another way, or does not end
    live = Client(Origin.of_setup(RunSpec(words[0])))
    reply = live.ask("c")
    assert end.reason in live.console
    status = None if end.value is None else 0 if end.value in Exits().passed else end.value
    assert reply == f"W{status:02x}" if status is not None else reply.startswith("T05")


def test_a_trial_that_ends_so_says_why(made: Made) -> None:
    end, words, recording = made
    kstack("run", *words, "--record", recording)
    result = replay_session(read_recording(recording)).run()
    outcome, _, text, _kind = judged("laight", unseen(result))
    wanted = {
        "shutdown": "shutdown",
        "asleep": "hang",
        "bound": "hang",
        "bound of host work": "hang",
        "deadlock": "hang",
    }.get(end.ended)
    if wanted is not None:
        assert outcome == wanted and end.reason in text
    elif end.value not in (None, *Exits().passed, 0x55):
        assert outcome == "detected" and text


def unseen(result: Any) -> Any:
    """A result that only its end says anything of."""
    return replace(result, findings=())


def test_every_way_to_end_has_such_a_run() -> None:
    assert {end.ended for end in RUNS.values()} | {UNFINISHED} == set(ENDS)


# --- ends that only some commands have


@pytest.fixture
def bound(folder: Path) -> Path:
    image, recording = folder / "loop.bin", folder / "loop.json"
    image.write_bytes(signed(assemble("here: jmp here", FLAT, 16)))
    kstack("run", image, "--max-instructions", 5000, "--record", recording)
    return recording


def test_a_recording_that_was_cut_off_says_that_it_was(bound: Path) -> None:
    write_recording(bound, structs.replace(read_recording(bound), ended=UNFINISHED, state_hash="", max_time=10**6))
    done, found = kstack("replay", bound), document("replay", bound)
    assert (found["exit"], found["code"], done.returncode) == ("unfinished", 4, 4)
    assert found["reason"] == "the recording was cut off here" and found["reason"] in done.stderr
    assert "died" not in done.stderr
    assert "the recording was cut off here" in kstack("trace", "show", bound, "--from", 5000).stdout
    assert "cut off" in kstack("replay", bound, "--to", 10**5).stderr


def test_a_policy_that_fails_is_an_end_with_a_reason(folder: Path) -> None:
    recording = folder / "wrong.json"
    words = ("run", "laight", "--policy", f"{folder / 'policies.py'}:Wrong", "--record", recording)
    done = kstack(*words)
    assert done.returncode == 2 and "GiveBack" in done.stderr
    again = kstack(*words, "--json")
    found = json.loads(again.stdout)
    assert (again.returncode, found["code"], found["exit"]) == (2, 2, "policy-failed")
    assert found["reason"] in done.stderr and found["recording"] == str(recording)
    for replayed in (("replay", recording), ("replay", recording, "--to", 10**9)):
        repeated = document(*replayed, told=True)
        assert (repeated["exit"], repeated["reason"]) == ("policy-failed", found["reason"])
    assert found["reason"] in kstack("replay", recording).stderr
    last = kstack("trace", "show", recording, "--from", found["instructions"]).stdout.splitlines()[-1]
    assert "end policy-failed" in last and found["reason"] in last


def test_a_script_that_could_not_be_followed_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "STEP_LIMIT", 5000)
    scenario = folder / "stuck.toml"
    scenario.write_text(SCRIPT)
    stuck = "step 1 of the script: CPU 0 never marked 'never'"
    assert stuck in kstack("run", scenario).stderr
    assert document("run", scenario)["stuck"] == stuck


def test_the_state_before_a_stretch_of_a_good_run_is_not_that_of_a_dead_guest(folder: Path) -> None:
    image, recording = folder / "good.bin", folder / "good.json"
    image.write_bytes(signed(assemble(HELLO + EXIT.format(value=0x10), FLAT, 16)))
    assert kstack("run", image, "--record", recording).returncode == 0
    shown = kstack("trace", "show", recording, "--from", 7, "--registers").stdout
    assert re.match("guest has ended, with exit value 0x10, at virtual time 7", shown)
    assert "guest has not ended at virtual time 3" in kstack("replay", recording, "--to", 3).stdout


def test_a_replay_prints_what_the_guest_printed(folder: Path) -> None:
    image, recording = folder / "hello.bin", folder / "hello.json"
    image.write_bytes(signed(assemble(HELLO + EXIT.format(value=0x10), FLAT, 16)))
    assert kstack("run", image, "--record", recording).stdout == "hi"
    assert kstack("replay", recording).stdout == "hi"
    assert document("replay", recording)["serial"] == "hi"
