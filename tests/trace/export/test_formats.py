"""The other formats, read back by parsers of their own, say what the trace's tables say."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from kstack.guest.images import build_image
from kstack.recording import pack
from kstack.run.spec import RunSpec
from kstack.trace.export import FORMATS, drcov, export, read
from kstack.trace.make import make_trace
from kstack.trace.store import Trace, read_trace
from tests.support.traces import rows

TEXTS = ("qemu", "drcov", "tenet", "vcd", "coverage")


def exported(trace: Trace, format: str, folder: Path) -> Path:
    path = folder / f"out{FORMATS[format].suffix}"
    export(trace, format, path)
    return path


@pytest.fixture(params=["laight", "double_fault", "fred"])
def trace(request: pytest.FixtureRequest) -> Trace:
    found: Trace = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("format", TEXTS)
def test_an_export_does_not_depend_on_how_the_tables_are_read(
    format: str, laight: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = exported(laight, format, tmp_path).read_bytes()
    monkeypatch.setattr(read, "BATCH", 113)
    assert exported(laight, format, tmp_path).read_bytes() == first


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_in_which_nothing_has_run_has_an_export_too(format: str, tmp_path: Path) -> None:
    """A journal that was cut behind its head."""
    setup = RunSpec("litmus-laight", 2, 64 << 20, policy="fixed-16k")
    make_trace(replace(setup.head(), choices=pack([])), tmp_path / "trace")
    assert read_trace(tmp_path / "trace").meta.rows["instructions"] == 0
    assert exported(read_trace(tmp_path / "trace"), format, tmp_path).stat().st_size >= 0


# --- qemu


class Log:
    """A log of QEMU's: blocks executed by CPU with their instructions, and events."""

    def __init__(self, text: str) -> None:
        self.ran: dict[int, list[tuple[int, int, bytes]]] = {}  # CPU -> time, address, bytes
        self.events: list[dict[str, str]] = []
        listings: dict[int, list[tuple[int, bytes]]] = {}  # start -> the last listing
        listing: list[tuple[int, bytes]] = []
        for line in text.splitlines():
            if line.startswith("IN: "):
                listing = []
            elif match := re.match(r"(0x[0-9a-f]{16}):  ((?:[0-9a-f]{2} )+) *\S", line):
                listing.append((int(match[1], 16), bytes.fromhex(match[2])))
                listings[listing[0][0]] = listing
            elif match := re.match(r"Trace (\d+): (\d+) \[0{16}/([0-9a-f]{16})/0{7}[0-3]/0{8}\] \S+$", line):
                cpu, time, start = int(match[1]), int(match[2]), int(match[3], 16)
                own = self.ran.setdefault(cpu, [])
                own += [(time, rip, code) for rip, code in listings[start]]
            elif match := re.match(r" *\d+: (v=.*)", line):
                self.events.append(dict(re.findall(r"(\w+)=(\S+)", match[1])))
            else:
                known = ("", "----------------", "Servicing hardware INT=", "check_exception old: 0xffffffff new ")
                assert line.startswith(known[2:]) or line in known[:2], line


def test_the_blocks_of_a_qemu_log_are_each_cpus_instructions_in_order(trace: Trace, tmp_path: Path) -> None:
    log = Log(exported(trace, "qemu", tmp_path).read_text())
    known = {row["rip"] for row in rows(trace, "code")}
    for cpu in range(trace.meta.cpus):
        expected = [row["rip"] for row in rows(trace, "instructions") if row["cpu"] == cpu and row["rip"] in known]
        assert [rip for _, rip, _ in log.ran[cpu]] == expected
        assert len(expected) > 500


def test_a_qemu_log_has_the_bytes_that_ran(laight: Trace, tmp_path: Path) -> None:
    log = Log(exported(laight, "qemu", tmp_path).read_text())
    codes = {row["rip"]: row["code"] for row in rows(laight, "code")}
    for _, rip, code in (one for ran in log.ran.values() for one in ran):
        assert code == codes[rip]
    text = (tmp_path / "out.log").read_text()
    assert re.search(r"^IN: context_switch$", text, re.MULTILINE)
    assert re.search(r"48 cf {20}iretq$", text, re.MULTILINE)


def test_a_qemu_log_has_every_event_with_vector_error_and_where_it_was(trace: Trace, tmp_path: Path) -> None:
    log = Log(exported(trace, "qemu", tmp_path).read_text())
    events = [row for row in rows(trace, "events") if row["kind"] in ("fault", "interrupt", "nmi", "software")]
    assert len(log.events) == len(events) >= 3
    vectors = {"#PF": 14, "#DF": 8, "#GP": 13}
    pushed = [row for row in rows(trace, "accesses") if row["model"] and row["store"]]
    for found, event in zip(log.events, events, strict=True):
        vector = vectors[event["name"]] if event["kind"] == "fault" else event["value"]
        assert int(found["v"], 16) == vector
        assert int(found["time"]) == event["count"]
        assert int(found["cpu"]) == event["cpu"]
        assert int(found["i"]) == (event["kind"] == "software")
        assert int(found["e"], 16) == (event["value"] or 0 if event["kind"] == "fault" else 0)
        assert ("CR2" in found) == (vector == 14)
        if vector == 14:
            assert int(found["CR2"], 16) == event["address"]
        values = {row["value"] for row in pushed if row["count"] == event["count"]}
        assert int(found["pc"], 16) in values
        assert int(found["SP"].split(":")[1], 16) in values
        assert int(found["IP"].split(":")[0], 16) & 3 == int(found["cpl"])


# --- drcov


class Drcov:
    """A file of DRcov, version 2."""

    def __init__(self, data: bytes) -> None:
        lines, rest = data.split(b" bbs\n", 1)
        head = lines.decode().split("\n")
        assert head[0] == "DRCOV VERSION: 2"
        assert head[1].startswith("DRCOV FLAVOR: ")
        count = int(head[2].removeprefix("Module Table: version 2, count "))
        assert head[3] == "Columns: id, base, end, entry, path"
        self.modules = [line.split(", ") for line in head[4 : 4 + count]]
        assert [int(module[0]) for module in self.modules] == list(range(count))
        number = int(head[4 + count].removeprefix("BB Table: "))
        assert len(rest) == 8 * number
        self.blocks = list(struct.iter_unpack("<IHH", rest))


def test_drcov_covers_exactly_the_bytes_that_ran(trace: Trace, tmp_path: Path) -> None:
    found = Drcov(exported(trace, "drcov", tmp_path).read_bytes())
    covered = set[int]()
    for start, size, module in found.blocks:
        base, end = (int(word, 16) for word in found.modules[module][1:3])
        assert base + start + size <= end
        covered |= set(range(base + start, base + start + size))
    ran = {(row["rip"], row["size"]) for row in rows(trace, "instructions")}
    assert covered == {at for rip, size in ran for at in range(rip, rip + size)}
    assert len(found.blocks) == len(set(found.blocks)) > 50


def test_drcov_has_a_block_for_each_target_of_a_jump(laight: Trace, tmp_path: Path) -> None:
    found = Drcov(exported(laight, "drcov", tmp_path).read_bytes())
    bases = [int(module[1], 16) for module in found.modules]
    starts = {bases[module] + start for start, _, module in found.blocks}
    before: dict[int, int] = {}
    for row in rows(laight, "instructions"):
        if before.get(row["cpu"]) != row["rip"]:
            assert row["rip"] in starts
        before[row["cpu"]] = row["rip"] + row["size"]


def test_drcovs_module_with_the_kernel_is_based_where_the_image_is(laight: Trace, tmp_path: Path) -> None:
    found = Drcov(exported(laight, "drcov", tmp_path).read_bytes())
    image = build_image("laight")
    (main,) = [module for module in found.modules if module[4] == "laight"]
    sections = [one for one in image.sections if one.vaddr >= image["text_start"]]
    assert int(main[1], 16) == image["text_start"]
    assert int(main[2], 16) == max(one.vaddr + one.size for one in sections)
    names = [module[4] for module in found.modules]
    assert len(set(names)) == len(names)


def test_a_block_that_is_too_large_for_drcov_is_cut(laight: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drcov.unique(laight)
    monkeypatch.setattr(drcov, "MAX_SIZE", 7)
    pieces = drcov.unique(laight)
    assert max(size for _, size in pieces.tolist()) == 7
    assert {at for start, size in pieces.tolist() for at in range(start, start + size)} == {
        at for start, size in whole.tolist() for at in range(start, start + size)
    }


# --- tenet


def test_tenet_has_a_line_an_instruction_with_rip_and_rsp(trace: Trace, tmp_path: Path) -> None:
    lines = exported(trace, "tenet", tmp_path).read_text().splitlines()
    instructions = rows(trace, "instructions")
    assert len(lines) == len(instructions)
    rsp = None
    for line, row in zip(lines, instructions, strict=True):
        told = dict(item.split("=") for item in line.split(",") if item.startswith("r"))
        assert int(told["rip"], 16) == row["rip"]
        assert ("rsp" in told) == (row["rsp"] != rsp), "only where it has changed"
        rsp = int(told["rsp"], 16) if "rsp" in told else rsp
        assert rsp == row["rsp"]


def test_tenet_has_every_access_in_the_line_after_its_instruction(trace: Trace, tmp_path: Path) -> None:
    lines = exported(trace, "tenet", tmp_path).read_text().splitlines()
    counts = [row["count"] for row in rows(trace, "instructions")]
    expected: list[list[tuple[bool, int, int, int]]] = [[] for _ in counts]
    for row in rows(trace, "accesses"):
        line = bisect_right(counts, row["count"])  # the first that is later
        if line < len(counts):
            value = row["value"] & (1 << 8 * row["size"]) - 1
            expected[line].append((row["store"], row["address"], row["size"], value))
    assert sum(map(len, expected)) > 1000
    for line, accesses in zip(lines, expected, strict=True):
        found = [
            (kind == "mw", int(address, 16), len(data) // 2, int.from_bytes(bytes.fromhex(data), "little"))
            for kind, address, data in re.findall(r",(m[rw])=(0x[0-9a-f]+):([0-9a-f]+)", line)
        ]
        assert found == accesses


# --- vcd


class Waves:
    """A value change dump: values of signals by scope and name, from time to time."""

    def __init__(self, text: str) -> None:
        head, body = text.split("$enddefinitions $end\n")
        names: dict[str, tuple[str, int]] = {}
        scope = ""
        for line in head.splitlines():
            words = line.split()
            if words[0] == "$scope":
                scope = words[2]
            elif words[0] == "$var":
                assert words[3] not in names
                names[words[3]] = f"{scope}.{words[4]}", int(words[2])
        self.changes: dict[str, list[tuple[int, int]]] = {name: [] for name, _ in names.values()}
        time = -1
        for line in body.splitlines():
            if line.startswith("#"):
                assert int(line[1:]) > time
                time = int(line[1:])
            elif not line.startswith("$"):
                value, name = line[1:].split() if line.startswith("b") else (line[0], line[1:])
                assert int(value, 2) < 1 << names[name][1]
                self.changes[names[name][0]].append((time, int(value, 2)))
        self.end = time

    def at(self, signal: str, time: int) -> int:
        """A signal's value at a time."""
        return [value for when, value in self.changes[signal] if when <= time][-1]


def test_a_dump_has_each_cpus_rip_and_ring_at_every_time(trace: Trace, tmp_path: Path) -> None:
    waves = Waves(exported(trace, "vcd", tmp_path).read_text())
    instructions = rows(trace, "instructions")
    for cpu in range(trace.meta.cpus):
        own = [row for row in instructions if row["cpu"] == cpu]
        for column in ("rip", "ring"):
            expected = [(trace.meta.begun, 0)] if own[0]["count"] != trace.meta.begun or not own[0][column] else []
            for row in own:
                if not expected or expected[-1][1] != row[column]:
                    expected.append((row["count"], row[column]))
            found = dict(waves.changes[f"cpu{cpu}.{column}"])
            assert found == dict(expected)


def test_a_dump_has_threads_pages_and_findings(laight: Trace, tmp_path: Path) -> None:
    waves = Waves(exported(laight, "vcd", tmp_path).read_text())
    events = rows(laight, "events")
    for event in events:
        if event["kind"] == "switch":
            assert waves.at(f"cpu{event['cpu']}.thread", event["count"]) == event["thread"]
        elif event["kind"] == "thread-gone":
            assert waves.at(f"cpu{event['cpu']}.thread", event["count"]) != event["thread"]
    grown = Counter(event["thread"] for event in events if event["kind"] == "grow")
    shrunk = Counter(event["thread"] for event in events if event["kind"] == "shrink")
    for thread in (1, 2, 3, 4):
        assert waves.at(f"thread{thread}.pages", waves.end) == grown[thread] - shrunk[thread]
    times = sorted({event["count"] for event in events if event["kind"] == "finding"})
    assert [time for time, value in waves.changes["kstack.finding"] if value] == times
    assert waves.at("kstack.finding", times[0] + 1) == 0


def test_a_dump_has_a_cpu_halted_from_hlt_to_what_wakes_it(laight: Trace, tmp_path: Path) -> None:
    waves = Waves(exported(laight, "vcd", tmp_path).read_text())
    code = {row["rip"]: row["code"] for row in rows(laight, "code")}
    own = [row for row in rows(laight, "instructions") if row["cpu"] == 1]
    halts = [row["count"] for row in own if code.get(row["rip"]) == b"\xf4"]
    assert halts
    woken = [row["count"] for row in rows(laight, "events") if row["kind"] == "interrupt" and row["cpu"] == 1]
    for halt in halts:
        assert (halt + 1, 1) in waves.changes["cpu1.halted"]
        later = [time for time in woken if time > halt]
        assert waves.at("cpu1.halted", later[0] if later else waves.end) == (not later)


def test_identifiers_of_a_dump_are_different_and_printable() -> None:
    from kstack.trace.export.vcd import _identifier

    names = [_identifier(number) for number in range(20_000)]
    assert len(set(names)) == len(names)
    assert all(33 <= ord(letter) <= 126 for name in names for letter in name)
