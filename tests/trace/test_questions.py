"""Questions to a trace, differences between two, and the commands that ask for them."""

from __future__ import annotations

import json
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest

from kstack.base.errors import TraceError
from kstack.recording import read_recording
from kstack.trace.diff import diff
from kstack.trace.make import make_trace
from kstack.trace.query import QUERIES, Database, ask
from kstack.trace.show import lines
from kstack.trace.store import Trace, read_trace
from tests.support.command import kstack
from tests.support.recordings import recorded
from tests.support.traces import table


def test_who_wrote_the_item_is_the_thread_through_two_frames(laight: Trace) -> None:
    """Laight's case: the same address, written twice, in frames that are not the same; the reader has the first."""
    database = Database(laight)
    finding = dict(zip(database.findings().columns, database.findings().rows[0], strict=True))
    answer = ask(database, "writes", [finding["address"], finding["count"]])
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    assert [row["thread"] for row in rows[:2]] == [3, 3]
    assert rows[0]["count"] > rows[1]["count"]
    assert rows[0]["physical"] >> 12 != rows[1]["physical"] >> 12
    assert rows[1]["physical"] & ~0xFFF == finding["frame"]
    assert rows[0]["symbol"].startswith("laight_outer")


def test_every_use_of_an_entry_is_told(laight: Trace) -> None:
    database = Database(laight)
    address = database.findings().rows[0][4]
    kinds = Counter(row[2] for row in ask(database, "entry", [address]).rows)
    assert kinds["grow"] >= 2
    assert kinds["shrink"] >= 1
    assert kinds["tlb-fill"] >= 2
    assert kinds["tlb-stale"] == 1
    assert kinds["finding"] == 2


def test_the_depth_of_a_stack_over_time_reaches_the_second_page(laight: Trace) -> None:
    answer = ask(Database(laight), "stack", [3])
    most = [row[answer.columns.index("most_bytes")] for row in answer.rows]
    assert max(most) > 8192
    assert min(most) < 4096
    assert max(most) == {row[0]: row[5] for row in ask(Database(laight), "threads", []).rows}[3]


def test_what_happened_between_two_findings(laight: Trace) -> None:
    answer = ask(Database(laight), "between", [1, 2])
    assert [row[2] for row in answer.rows if row[2] == "finding"] == ["finding"] * 2


def test_functions_by_instructions_add_up(laight: Trace) -> None:
    database = Database(laight)
    total = sum(row[1] for row in database.sql("select 1, count(*) from instructions").rows)
    hot = ask(database, "hot", []).rows
    assert hot[0][1] >= hot[1][1]
    assert sum(row[1] for row in hot) <= total == laight.meta.rows["instructions"]


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("nothing", [], "there is no query 'nothing'"),
        ("writes", [], "takes ADDRESS"),
        ("hot", [1], "takes nothing more"),
        ("stack", [99], "thread 99 is not in this trace"),
        ("between", [1, 77], "there is no finding 77"),
    ],
)
def test_a_wrong_question_is_one_clear_error(name: str, arguments: list[int], error: str, laight: Trace) -> None:
    with pytest.raises(TraceError, match=error):
        ask(Database(laight), name, arguments)


def test_wrong_sql_is_one_clear_error(laight: Trace) -> None:
    with pytest.raises(TraceError, match="the query is wrong"):
        Database(laight).sql("select nothing from nowhere")


@pytest.mark.parametrize("sql", ["", "select 1; select 2", "copy (select 1) to '/nowhere/x'", "create table t (x int)"])
def test_sql_that_is_no_question_is_one_clear_error(sql: str, laight: Trace) -> None:
    with pytest.raises(TraceError, match="one SELECT or EXPLAIN"):
        Database(laight).sql(sql)


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("select 'mov rax, [r13 + 8]' as \"[/x]\"", "mov rax, [r13 + 8]"),
        ("select 1.5::decimal(4,2) as d", "1.50"),
        ("select date '2026-01-02' as d", "2026-01-02"),
        ("select {'a': 'b'::blob} as d", "{'a': b'b'}"),
    ],
)
def test_answers_are_shown_as_they_are(sql: str, shown: str, laight: Trace) -> None:
    for more in ((), ("--json",)):
        done = kstack("trace", "query", str(laight.folder), "--sql", sql, *more)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout


@pytest.mark.parametrize(
    "words", [("--from", "99999999"), ("--from", "88100", "--to", "5"), ("--cpu", "2"), ("--to", "10")]
)
def test_a_stretch_that_is_not_there_is_one_clear_error(words: tuple[str, ...], laight: Trace) -> None:
    done = kstack("trace", "show", str(laight.folder), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"from {laight.meta.begun} to {laight.meta.time}, and has CPUs 0 to 1" in done.stderr


def test_a_recording_is_not_replaced_by_its_export(laight: Trace, tmp_path: Path) -> None:
    file = tmp_path / "r.vcd"
    file.write_text("mine")
    done = kstack("trace", "export", str(file), "--format", "vcd")
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert "is the recording itself" in done.stderr


def test_the_ready_made_queries_are_a_document_too(laight: Trace, tmp_path: Path) -> None:
    found = json.loads(kstack("trace", "query", str(laight.folder), "--json").stdout)
    assert [query["name"] for query in found["queries"]] == list(QUERIES)
    assert kstack("trace", "query", str(tmp_path / "none")).returncode == 2


def test_a_stretch_shows_the_stale_read_with_its_value(laight: Trace) -> None:
    database = Database(laight)
    count = database.findings().rows[0][1]
    shown = list(lines(database, count - 5, count + 5))
    read = next(line for line in shown if line.count == count and not line.event)
    assert "laight_watch" in read.text
    assert "-> 0x0000000000000000" in read.text
    assert any("stale-translation" in line.text for line in shown)
    assert [line.count for line in shown] == sorted(line.count for line in shown)


# --- differences


def test_a_recording_does_not_differ_from_itself(laight: Trace) -> None:
    assert diff(laight, laight) == []


def test_two_policies_part_where_the_second_makes_a_step(laight: Trace, tmp_path: Path) -> None:
    make_trace(recorded("laight", "switch-sp-ipi", "round-robin:1000"), tmp_path / "other")
    first = diff(laight, read_trace(tmp_path / "other"))[0]
    assert first.cpu is None
    assert first.here.number == first.there.number
    assert "hypercall" in first.here.symbol
    assert "here: nothing; there: hook " in first.why


def test_two_schedules_part_in_the_schedule(laight: Trace, tmp_path: Path) -> None:
    make_trace(recorded("laight", "entry-exit", "round-robin:997"), tmp_path / "other")
    first = diff(laight, read_trace(tmp_path / "other"))[0]
    assert first.here.rip != first.there.rip
    assert "interrupt" in first.why, "it comes at another moment"


def test_two_traces_part_at_the_first_instruction_that_differs(laight: Trace, tmp_path: Path) -> None:
    """Counted row by row: of all CPUs together, and of each; with and without a switch of CPUs at that place."""
    for name, policy, quantum in (("a", "switch-sp-ipi", 1000), ("b", "entry-exit", 997), ("c", "fixed-16k", 1000)):
        make_trace(recorded("laight", policy, f"round-robin:{quantum}"), tmp_path / name)
        other = read_trace(tmp_path / name)
        partings = {parting.cpu: parting for parting in diff(laight, other)}
        rows = []
        for each in (laight, other):
            found = table(each, "instructions")
            rows.append(list(zip(found["cpu"].tolist(), found["rip"].tolist(), strict=True)))
        for cpu in (None, 0, 1):
            here, there = ([row for row in each if cpu in (None, row[0])] for each in rows)
            first = next(at for at, (one, two) in enumerate(zip_longest(here, there)) if one != two)
            assert partings[cpu].here.number == partings[cpu].there.number == first
            for place, row in ((partings[cpu].here, here), (partings[cpu].there, there)):
                assert (place.cpu, place.rip) == (row[first] if first < len(row) else (None, None))


# --- the command


def test_the_commands_take_a_recording_or_a_trace(laight: Trace, tmp_path: Path) -> None:
    file = tmp_path / "laight.json"
    assert kstack("run", "laight", "--policy", "entry-exit", "--record", str(file)).returncode == 1
    asked = kstack("trace", "query", str(file), "findings", "--json")
    counts = {file: json.loads(asked.stdout)["rows"][0][1], laight.folder: Database(laight).findings().rows[0][1]}
    for place, count in counts.items():
        shown = kstack("trace", "show", str(place), "--from", str(count), "--to", str(count), "--json")
        assert shown.returncode == 0, shown.stderr
        assert any("laight_watch" in line["text"] for line in json.loads(shown.stdout)["lines"])
    asked = kstack("trace", "query", str(laight.folder), "findings", "--json")
    assert json.loads(asked.stdout)["rows"][0][3] == "stale-translation"
    same = kstack("trace", "diff", str(file), str(file))
    assert (same.returncode, same.stdout) == (0, "the same instructions, on every CPU\n")
    listed = kstack("trace", "query", str(file))
    assert all(name in listed.stdout for name in QUERIES)
    first = str(counts[file])
    registers = kstack("trace", "show", str(file), "--from", first, "--to", first, "--registers")
    assert "RSP" in registers.stdout.upper()
    missing = kstack("trace", "show", str(tmp_path / "no"))
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert read_recording(file).policy == "entry-exit"
