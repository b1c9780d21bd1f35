"""What a failed test says: a recording that repeats it, the schedule made simpler, last instructions, commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from kstack.recording import read_recording
from kstack.run.spec import replay_session
from tests.support.command import kstack
from tests.support.inner_pytest import outcomes, pytest_in, section

STALE: Final = """
import pytest
@pytest.mark.policy("entry-exit")
@pytest.mark.schedules(4)
def test_stale(guest):
    assert guest("laight").passed
"""
OWN: Final = """
from kstack.stacks import Policy, map_pages
class Mine(Policy):
    id, title, proposer, source = "mine", "t", "p", "s"
    def create_thread(self, cpu, thread):
        yield from map_pages((thread.top,))
    def enter_kernel(self, cpu, thread):
        raise ValueError("no")
        yield
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("stale")
    (folder / "test_stale.py").write_text(STALE)
    done = pytest_in(folder, "--kstack-dir=kept", "-k", "random", "-n", "1")
    assert outcomes(done) == {"test_stale.py::test_stale[random-seed-0]": "FAILED"}, done.stdout
    return folder, section(done)


def recording_in(text: str) -> str:
    found = re.search(r"^recording: (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return found[1]


def test_it_names_the_run_and_what_is_wrong_with_it(failed: tuple[Path, str]) -> None:
    first = failed[1].splitlines()[0]
    assert first.startswith("laight under entry-exit, random-seed-0: stale-translation: CPU 1 read thread 3 page 1")


def test_its_recording_replays_to_the_same_kind_of_finding(failed: tuple[Path, str]) -> None:
    folder, text = failed
    name = recording_in(text)
    assert name.startswith("kept/")
    recording = read_recording(folder / name)
    result = replay_session(recording).run()
    assert result.state_hash == recording.state_hash
    assert result.findings[0].kind.value == "stale-translation"
    assert result.time - result.findings[0].time <= 1, "it ends there"


def test_each_command_can_be_typed_as_it_is_shown(failed: tuple[Path, str]) -> None:
    folder, text = failed
    commands = [line.split() for line in text.splitlines() if line.startswith("    kstack")]
    name = recording_in(text)
    assert [command[1:-1] for command in commands[:2]] == [["replay"], ["gdb"]]
    assert commands[2][1:-1] == ["trace", "show", name, "--from"]
    replayed = kstack(*commands[0][1:-1], str(folder / name))
    assert (replayed.returncode, "identical" in replayed.stderr) == (1, True), replayed.stderr
    traced = kstack("trace", "show", str(folder / name), "--from", commands[2][-1])
    assert "finding stale-translation" in "".join(traced.stdout.splitlines()[-3:]), traced.stdout + traced.stderr


def test_the_schedule_is_made_simpler(failed: tuple[Path, str]) -> None:
    assert re.search(
        r"^schedule: \d+ slices; everybody in turn for 1000 will do; 1 run tried$", failed[1], re.MULTILINE
    )


def test_the_last_instructions_of_each_cpu_have_symbols(failed: tuple[Path, str]) -> None:
    _, _, rest = failed[1].partition("CPU 0: ")
    first, _, second = rest.partition("CPU 1: ")
    assert re.search(r"^    0x[0-9a-f]{16}  \w+(\+0x[0-9a-f]+)? +\w+", first, re.MULTILINE)
    assert "laight_watch+0x" in second.splitlines()[-1]


def test_it_is_the_same_under_xdist_and_in_any_order(failed: tuple[Path, str]) -> None:
    folder, text = failed
    done = pytest_in(folder, "--kstack-dir=kept", "-n", "2", "-p", "randomly", randomly=True)
    assert len(outcomes(done)) == 4, done.stdout
    sections = done.stdout.split(" kstack ---")[1:]
    assert sum(text.splitlines()[2] in one for one in sections) == 1, "the same recording of the same test"
    assert all("schedule: " in one and "kstack replay kept/" in one for one in sections)


def test_nothing_is_written_into_the_folder_of_who_does_not_ask(tmp_path: Path) -> None:
    (tmp_path / "test_stale.py").write_text(STALE)
    text = section(pytest_in(tmp_path, "-k", "seed-0", "--kstack-runs=0"))
    assert recording_in(text).startswith(".pytest_cache/")
    assert re.search(r"^schedule: \d+ slices, as it was$", text, re.MULTILINE), "no run was tried"


def test_a_run_that_ended_well_is_recorded_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "test_more.py").write_text("def test_it(guest):\n    assert guest('laight').result.exercised > 0\n")
    text = section(pytest_in(tmp_path))
    assert "the guest itself came to a good end" in text
    assert replay_session(read_recording(tmp_path / recording_in(text))).run().ended == "exit"


def test_a_test_that_passes_or_ran_no_guest_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(
        "def test_well(guest):\n    assert guest('laight').passed\ndef test_none(machine):\n    assert not machine\n"
        "import pytest\n@pytest.mark.xfail\n@pytest.mark.policy('entry-exit')\ndef test_x(guest): assert guest('laight').passed\n"
    )
    done = pytest_in(tmp_path)
    assert list(outcomes(done).values()) == ["PASSED", "XFAIL", "FAILED"]
    assert section(done) == ""


def test_a_policy_that_fails_is_recorded_up_to_there(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "test_own.py").write_text(
        "import pytest\n@pytest.mark.policy('own.py')\ndef test_it(guest): guest('laight')\n"
    )
    text = section(pytest_in(tmp_path))
    assert "under mine, scripted: policy failed: " in text
    replayed = kstack("replay", str(tmp_path / recording_in(text)))
    assert (replayed.returncode, "ValueError: no" in replayed.stderr) == (1, True), replayed.stderr


def test_a_policy_that_cannot_be_found_again_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import pytest\nfrom kstack.policies.entry_exit import EntryExit\n"
        "def make():\n    class A(EntryExit): id = 'a'\n    return A\n"
        "@pytest.mark.policy(cls=make())\ndef test_it(guest): assert guest('laight').passed\n"
    )
    text = section(pytest_in(tmp_path))
    assert "no recording: policy make.<locals>.A cannot be found again by a name: define it in a file" in text
    assert "laight_watch" in text


def test_one_of_several_policies_in_a_test_s_file_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import pytest\nfrom kstack.policies.entry_exit import EntryExit\nclass A(EntryExit): id = 'a'\nclass B(A): id = 'b'\n"
        "@pytest.mark.policy(cls=A)\ndef test_it(guest): assert guest('laight').passed\n"
    )
    recording = read_recording(tmp_path / recording_in(section(pytest_in(tmp_path))))
    assert recording.policy == f"{tmp_path / 'test_own.py'}:A"
    assert replay_session(recording).run().findings[0].kind.value == recording.finding


@pytest.mark.parametrize("name", ["family.py:Local", "family.py:local"])
def test_a_marker_takes_one_of_several_policies_of_a_file_beside_the_test(name: str, tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(
        "from kstack.policies.switch_sp_local import SwitchSpLocal\nfrom kstack.policies.switch_sp import SwitchSp\n"
        "class Local(SwitchSpLocal): id = 'local'\nclass Other(SwitchSp): id = 'other'\n"
    )
    (tmp_path / "test_own.py").write_text(
        f"import pytest\n@pytest.mark.policy({name!r})\ndef test_it(guest, policy): assert guest('laight').passed, policy.id\n"
    )
    text = section(pytest_in(tmp_path))
    assert "laight under local, " in text
    recording = read_recording(tmp_path / recording_in(text))
    assert recording.policy == f"{tmp_path / 'family.py'}:{name.partition(':')[2]}"
    assert replay_session(recording).run().findings[0].kind.value == recording.finding


def test_a_search_that_found_something_leaves_a_witness(tmp_path: Path) -> None:
    (tmp_path / "test_all.py").write_text(
        "import pytest\n@pytest.mark.policy('entry-exit')\n"
        "def test_it(explore): assert explore('litmus-laight').verdict == 'safe'\n"
    )
    text = section(pytest_in(tmp_path, "--kstack-dir=kept"))
    assert "CPU 1 loads from thread 1000 page 1 through what it has cached" in text
    replayed = kstack("replay", str(tmp_path / text.splitlines()[-1].split()[-1]))
    assert (replayed.returncode, "identical" in replayed.stderr) == (1, True), replayed.stderr
