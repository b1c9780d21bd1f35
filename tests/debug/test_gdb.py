"""Whole sessions: GDB itself on the other side of `kstack gdb`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kstack.explore.path import KIND
from kstack.explore.path import VERSION as PATH_VERSION
from kstack.hw.cpu.decode import disassemble
from kstack.kernels.kstack.scenarios import find_image
from kstack.recording import write_document, write_recording
from kstack.schedule import RoundRobin
from tests.support.command import ROOT, kstack
from tests.support.debugger import laight
from tests.support.gdb_sessions import gdb_is_needed, gdb_says, served
from tests.support.recordings import recorded


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gdb") / "laight.json"
    write_recording(path, recorded("laight", "entry-exit"))
    return path


@gdb_is_needed
def test_a_breakpoint_stops_cpu_1_and_both_can_be_looked_at(recording: Path) -> None:
    text = gdb_says((recording,), "break laight_watch", "continue", "info threads", "x/i $pc", "p/x $cr3", "p $eflags")
    assert "Thread 2 hit Breakpoint 1," in text
    assert re.search(r"\* 2 +Thread 2 \(CPU 1: running, ring 0 at laight_watch, on the stack of thread 2\)", text)
    assert re.search(r"  1 +Thread 1 \(CPU 0: running", text)
    assert "push   %rbx" in text
    assert "$1 = 0x405000" in text and "IF ]" in text


@gdb_is_needed
def test_a_word_on_a_stack_is_watched_backwards_and_forwards(recording: Path) -> None:
    text = gdb_says(
        (recording,),
        "break laight_watch",
        "continue",
        "continue",
        "set $item = *(unsigned long *)&list_head",
        "watch *(unsigned long *)($item + 8)",
        "reverse-continue",
        "x/i $pc",
        "continue",
        "info threads",
    )
    old, new = re.findall(r"Old value = (\d+)\nNew value = (\d+)", text)[:2]
    magic = 0x4C41494748540001
    assert int(old[0]) == magic and int(new[1]) == magic and old[1] == new[0]
    assert re.search(r"=> 0x\w+ <laight_inner\+\d+>:\tmov +%rax,0x8\(%rsp\)", text), "back at the store"
    assert "Thread 1 hit Hardware watchpoint" in text


@gdb_is_needed
def test_reverse_stepi_over_a_context_switch_gives_the_stack_back(recording: Path) -> None:
    switch = _find("context_switch", "mov rsp, qword ptr [rsi")
    show = 'printf "%lx %lx\\n", $rip, $rsp'
    text = gdb_says((recording,), f"break *{switch:#x}", "continue", show, "stepi", show, "reverse-stepi", show)
    before, after, again = re.findall(r"^([0-9a-f]{16}) ([0-9a-f]{16})$", text, re.M)
    assert int(before[0], 16) == switch
    assert before == again
    assert abs(int(after[1], 16) - int(before[1], 16)) >= 4096, "the stack of another thread"


def _find(symbol: str, text: str) -> int:
    """The address of the first instruction of such a text behind a symbol of the guest."""
    start = laight()
    at = start.symbols.address(symbol)
    assert at is not None
    cpu = start.session(RoundRobin(1)).machine.cpus[0]
    while True:
        length, found = disassemble(cpu.linear.code(at), at, 64)
        if found.startswith(text):
            return at
        at += length


@gdb_is_needed
def test_reverse_stepi_over_a_page_fault_goes_back_to_the_access(tmp_path: Path) -> None:
    path = tmp_path / "fault.json"
    write_recording(path, recorded("laight", "fault-ist"))
    text = gdb_says((path,), "break trap_14", "continue", "p/x $cr2", "reverse-stepi", "x/i $pc", "p/x $rsp", "stepi")
    assert "Breakpoint 1," in text
    at = re.search(r"=> 0x\w+ <deep\+7>:\tmov +%rdi,\(%rsp\)", text)
    assert at is not None, "the access that faulted"
    cr2, rsp = (int(value, 16) for value in re.findall(r"^\$\d = (0x\w+)", text, re.M))
    assert cr2 == rsp
    assert re.search(r"Breakpoint 1, 0x\w+ in trap_14", text[at.end() :]), "and forwards it faults again"


@gdb_is_needed
def test_the_stale_read_can_be_seen_from_both_cpus(recording: Path) -> None:
    text = gdb_says(
        (recording,),
        "monitor goto 102544",
        "maintenance flush register-cache",
        "thread 2",
        "x/i $pc",
        "p/x $r13",
        "monitor walk 0xffffc90000016b38",
        "x/gx $r13+8",
        "stepi",
        "p/x $rax",
        "thread 1",
        "monitor walk 0xffffc90000016b38",
        "monitor findings",
        "monitor frames",
    )
    assert re.search(r"=> 0x\w+ <laight_watch\+\d+>:\tmov +0x8\(%r13\),%rax", text)
    ours, other = (part for part in text.split("CR3 ")[1:])
    assert "data TLB: frame 0x201000 kernel rw- D global (4 KiB), STALE" in ours
    assert "STALE" not in other.split("structure cache")[0]
    tables = re.search(r"tables: frame (0x\w+)", ours)
    assert tables is not None and f"tables: frame {tables[1]}" in other and tables[1] != "0x201000"
    shown = re.search(r"^0x\w+:\t(0x\w+)$", text, re.M)
    loaded = re.search(r"^\$2 = (0x\w+)$", text, re.M)
    assert shown is not None and loaded is not None
    assert int(shown[1], 16) == 0x4C41494748540101, "what the tables give"
    assert int(loaded[1], 16) != int(shown[1], 16), "what CPU 1 got"
    assert "stale-translation: CPU 1 read thread 3 page 1" in text
    assert "0x201000: mapped, thread 3 page 3; before: thread 3 page 1" in text


@gdb_is_needed
def test_a_write_forks_and_is_there_again_after_going_back_over_it(recording: Path) -> None:
    text = gdb_says(
        (recording,),
        "break laight_watch",
        "continue",
        "set var *(unsigned long *)&wrong = 7",
        "stepi",
        "reverse-stepi",
        "reverse-stepi",
        "p *(unsigned long *)&wrong",
        "stepi",
        "p *(unsigned long *)&wrong",
        "monitor schedule",
    )
    assert text.count("forks a new recording") == 1
    assert re.findall(r"^\$\d = (\d+)", text, re.M) == ["0", "7"]
    assert "forked by what was written" in text


@gdb_is_needed
def test_a_fork_is_a_recording_that_everything_reads(recording: Path, tmp_path: Path) -> None:
    own = tmp_path / "run.json"
    own.write_bytes(recording.read_bytes())
    text = gdb_says((own,), "break laight_watch", "continue", "set $rbx = 0x1234", "stepi", "stepi", "monitor snapshot")
    fork = tmp_path / "run.fork-1.json"
    assert own.read_bytes() == recording.read_bytes() and fork.exists()
    state = re.search(r"state (\w{32})", text)
    replayed = kstack("replay", fork)
    assert state is not None and f"state {state[1]}, identical" in replayed.stderr
    assert (replayed.returncode, replayed.stdout) == (4, "kstack guest kernel, cpus 2\n")
    shown = kstack("trace", "diff", own, fork).stdout
    assert re.search(
        r"written rbx value=0x1234\n +\d+ CPU 1 .* laight_watch +push rbx +\S+ <- 0x0000000000001234", shown
    )
    text = gdb_says((fork, "--record", tmp_path / "named.json"), "set $rip = 0", "monitor schedule", "monitor record")
    assert "rip = 0x0 on CPU" in text and "rbx = 0x1234" not in text, "that would have come later"
    assert f"wrote {tmp_path / 'named.json'}: up to time " in text


@gdb_is_needed
@pytest.mark.parametrize("write", ["set $rax = 0x77", "set var *(unsigned long *)&wrong = 7"])
def test_a_write_before_anything_else_forks_too(recording: Path, write: str) -> None:
    """GDB asks then what vCont can do, and takes no text there."""
    text = gdb_says((recording,), write, "stepi", "p $rax", "p *(unsigned long *)&wrong")
    assert text.count("forks a new recording") == 1
    assert "Invalid remote reply" not in text
    assert re.search(r"^\$\d = (119|7)$", text, re.M)


@gdb_is_needed
def test_the_ends_of_history_are_what_gdb_calls_them(recording: Path) -> None:
    text = gdb_says((recording,), "continue", "info threads", "reverse-continue", "reverse-stepi", "monitor snapshot")
    assert text.count("No more reverse-execution history.") == 3
    assert "kstack: the run ends here: exit" in text
    assert text.rstrip().splitlines()[-1].startswith(("time 88098, state ", "[Inferior"))


@gdb_is_needed
def test_a_live_scenario_runs_to_its_end_under_gdb() -> None:
    text = gdb_says(
        ("laight", "--policy", "fixed-16k", "--mode", "tlb=retain"),
        "rwatch *(unsigned long *)&published",
        "continue",
        "delete",
        "continue",
    )
    assert "Thread 2 hit Hardware read watchpoint 1" in text
    assert re.search(r"\[Inferior 1 \(.*\) exited normally\]", text)


@gdb_is_needed
def test_an_image_that_is_a_file_has_its_own_symbols(tmp_path: Path) -> None:
    path = tmp_path / "own.elf"
    path.write_bytes(find_image("selftest"))
    with served(path) as (target, file):
        assert file == path
        done = subprocess.run(
            ["gdb", "-nx", "-q", "-batch", "-ex", f"target remote {target}", "-ex", "stepi", "-ex", "kill"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert path.exists() and "Error" not in done.stderr


def test_a_server_that_is_terminated_takes_its_file_along() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from kstack.cli import main; main()", "gdb", "laight"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        server.stdout.readline()
        file = Path(server.stdout.readline().split("'file ")[1].split("'")[0])
        assert file.read_bytes().startswith(b"\x7fELF")
        server.terminate()
        assert server.wait(60) == 128 + 15
    assert not file.exists()


# --- what is wrong is one line and exit code 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nosuch",), "kstack: image 'nosuch' is neither built in nor a file; see: kstack images"),
        (("laight", "--policy", "nosuch"), "kstack: policy 'nosuch' does not exist; "),
        (("laight", "--cpus", "1"), "kstack: scenario laight needs 2 CPUs; give --cpus 2 or more"),
        (("laight", "--port", "65536"), "kstack: --port 65536: give 0 to 65535"),
        (("laight", "--mode", "nonsense"), "kstack: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: tuple[str, ...], message: str) -> None:
    done = kstack("gdb", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_a_recording_has_its_own_policy_and_must_be_whole(recording: Path, tmp_path: Path) -> None:
    done = kstack("gdb", recording, "--policy", "fixed-16k")
    assert (done.returncode, done.stderr) == (
        2,
        "kstack: --policy, --cpus, --mode, --format: a recording has its own\n",
    )
    damaged = tmp_path / "damaged.json"
    damaged.write_text(recording.read_text().replace('"cpus": 2', '"cpus": 3'))
    done = kstack("gdb", damaged)
    assert done.returncode == 2 and "is damaged" in done.stderr and done.stderr.count("\n") == 1


def test_a_witness_of_explore_has_no_time_to_travel_in(tmp_path: Path) -> None:
    path = tmp_path / "path.json"
    write_document(path, KIND, {"version": PATH_VERSION})
    done = kstack("gdb", path)
    assert done.returncode == 2 and "is a witness of kstack explore" in done.stderr
