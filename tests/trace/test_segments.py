"""Code is shown as wide as it was executed, and at its linear address, whatever segment it is in and whoever shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from kstack.guest.asm import assemble
from kstack.hw.cpu.decode import disassemble
from kstack.recording import read_recording
from kstack.run.spec import replay_session
from kstack.x86.registers import Seg
from tests.support.command import ROOT, kstack
from tests.support.images import signed
from tests.support.real_mode import BASE, EXIT, VECTOR, written

LINE: Final = re.compile(r" *(\d+) CPU 0   k0 +([0-9a-f]{16}) \S+ +(.*?)(?:  .*)?")


class Step(NamedTuple):
    """An instruction as the CPU was about to execute it: virtual time, linear address, text, width."""

    time: int
    at: int
    text: str
    bits: int


def steps(recording: Path) -> list[Step]:
    """One unit at a time."""
    session = replay_session(read_recording(recording))
    machine, found = session.machine, []
    cpu = machine.cpus[0]
    while machine.end() is None:
        registers, time = cpu.registers, machine.time
        at = registers.rip + (0 if registers.bits == 64 else registers.segment(Seg.CS).base)
        step = Step(time, at, disassemble(cpu.linear.code(at), at, registers.bits)[1], registers.bits)
        machine.run(0, 1)
        found.append(step)
    return found


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segments")
    path = folder / "segments.json"
    assert kstack("run", written(folder), "--record", path).returncode == 0
    return path


def shown(*words: object) -> list[tuple[int, int, str]]:
    """Virtual time, address and text of what `trace show` shows."""
    found = [LINE.fullmatch(line) for line in kstack("trace", "show", *words).stdout.splitlines()]
    return [(int(one[1]), int(one[2], 16), one[3]) for one in found if one is not None]


def test_a_trace_shows_each_instruction_where_it_is_and_as_wide_as_it_was(recording: Path) -> None:
    expected = steps(recording)
    assert {step.bits for step in expected} == {16, 32}
    assert shown(recording) == [(step.time, step.at, step.text) for step in expected]
    assert all(step.at >= BASE for step in expected)
    texts = [step.text for step in expected]
    assert "mov ax, 0x1234" in texts and "mov eax, 0x12345678" in texts
    assert texts.index("inc ax") < texts.index("inc eax"), "the same bytes in another mode"


def test_ports_are_at_linear_addresses_though_the_engine_does_not_execute_them(recording: Path) -> None:
    ports = [at for _, at, text in shown(recording) if text.startswith("out")]
    assert len(ports) == 3 and BASE < ports[0] < BASE + 0x100 < ports[1]


def test_the_width_of_code_is_in_a_column_that_can_be_asked_for(recording: Path) -> None:
    asked = kstack("trace", "query", recording, "--sql", "select rip, bits from code order by rip", "--json")
    assert {tuple(row) for row in json.loads(asked.stdout)["rows"]} == {
        (step.at, step.bits) for step in steps(recording)
    }


def test_every_instruction_of_real_mode_is_of_ring_0_whatever_its_selector(tmp_path: Path) -> None:
    image, recording = tmp_path / "ring.bin", tmp_path / "ring.json"
    code = assemble("cli\n.byte 0xea\n.word 6\n.word 0x7c3", 0, 16) + bytes(0x30)
    code += assemble(f"mov al, {EXIT}\nout 0x80, al\nout 0xf4, al", 6, 16)
    image.write_bytes(signed(code))
    assert kstack("run", image, "--record", recording).returncode == 0
    asked = kstack("trace", "query", recording, "--sql", "select rip, ring from instructions order by count", "--json")
    assert json.loads(asked.stdout)["rows"][2:] == [[BASE + 0x36, 0], [BASE + 0x38, 0], [BASE + 0x3A, 0]]


def test_code_that_changes_within_a_stretch_is_shown_as_it_was_each_time(tmp_path: Path) -> None:
    image, recording = tmp_path / "self.bin", tmp_path / "self.json"
    text = f"mov cx, 2\ntarget:\nmov bl, 1\nmov byte ptr [target+1], 2\nloop target\nmov al, {EXIT}\nout 0xf4, al"
    image.write_bytes(signed(assemble(text, BASE, 16)))
    assert kstack("run", image, "--record", recording).returncode == 0
    assert [text for _, _, text in shown(recording) if text.startswith("mov bl")] == ["mov bl, 1", "mov bl, 2"]


def test_a_qemu_log_has_linear_addresses_and_the_width_of_code(recording: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert kstack("trace", "export", recording, "--format", "qemu", "--output", log).returncode == 0
    text = log.read_text()
    expected = {(step.at, " ".join(step.text.split())) for step in steps(recording)}
    listed = re.findall(r"^0x([0-9a-f]{16}):  (?:[0-9a-f]{2} )+ *(.*)$", text, re.MULTILINE)
    assert {(int(at, 16), " ".join(words.split())) for at, words in listed} == expected
    (event,) = re.findall(r"v=([0-9a-f]+) .* IP=([0-9a-f]+):([0-9a-f]+) pc=([0-9a-f]+) SP=0000:([0-9a-f]+)", text)
    vector, cs, ip, pc, sp = (int(word, 16) for word in event)
    after = next(step.at for step in steps(recording) if step.text.startswith("call"))
    assert (vector, cs, ip, pc, sp) == (VECTOR, 0x7C0, after - BASE, after, 0x7000)


def test_what_a_guest_died_of_is_at_a_linear_address(tmp_path: Path) -> None:
    image = tmp_path / "dies.bin"
    image.write_bytes(
        signed(assemble("cli\n.byte 0xea\n.word 6\n.word 0x7c0", 0, 16) + bytes.fromhex("0f011e0500cc") + bytes(8))
    )
    done = kstack("run", image)
    assert "shut down at 0x7c0b (RIP 0xb, linear 0x7c0b)" in done.stderr
    assert "(triple fault) at 0x7c0b" in done.stderr


# --- one CPU


@pytest.fixture(scope="module")
def two_cpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two") / "laight.json"
    assert kstack("run", "laight", "--record", path).returncode == 0
    return path


@pytest.mark.parametrize("cpu", [0, 1])
def test_of_one_cpu_there_is_the_stretch_in_which_it_runs_and_nothing_of_others(two_cpus: Path, cpu: int) -> None:
    lines = json.loads(kstack("trace", "show", two_cpus, "--cpu", cpu, "--json").stdout)["lines"]
    assert len(lines) > 50
    assert {line["cpu"] for line in lines} == {cpu}
    everything = json.loads(kstack("trace", "show", two_cpus, "--from", lines[0]["count"], "--json").stdout)["lines"]
    assert [line for line in everything if line["cpu"] == cpu] == lines


@pytest.mark.parametrize("cpu", [0, 1])
def test_registers_of_one_cpu_are_its_alone(two_cpus: Path, cpu: int) -> None:
    state = kstack("trace", "show", two_cpus, "--cpu", cpu, "--registers").stdout
    assert re.findall(r"^CPU (\d):", state, re.MULTILINE) == [str(cpu)]
    assert re.findall(r"^CPU (\d):", kstack("trace", "show", two_cpus, "--registers").stdout, re.MULTILINE) == [
        "0",
        "1",
    ]


def test_a_cpu_that_never_ran_is_said(tmp_path: Path) -> None:
    image, recording = tmp_path / "one.bin", tmp_path / "one.json"
    image.write_bytes(signed(assemble(f"mov al, {EXIT}\nout 0xf4, al", BASE, 16)))
    assert kstack("run", image, "--cpus", 2, "--record", recording).returncode == 0
    done = kstack("trace", "show", recording, "--cpu", 1)
    assert (done.returncode, done.stdout) == (2, "") and "CPU 1 has executed nothing" in done.stderr


def test_every_command_that_takes_a_cpu_is_known_here() -> None:
    taking = [
        path.stem for path in (ROOT / "vm" / "cli").glob("*.py") if re.search(r"^    cpu: ", path.read_text(), re.M)
    ]
    assert sorted(taking) == ["probe", "trace"]  # the first takes one of the host's
