"""Logs: what is added is on the disk, a torn line goes, a damaged one is told, and files of earlier versions are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstack.base import journal
from kstack.base.journal import BEFORE, INSIDE, Contents, LineForm, Log, parse
from tests.support.command import ROOT

FORMS: Final = pytest.mark.parametrize("form", [INSIDE, BEFORE], ids=["inside", "before"])
DOCUMENTS: Final = [{"a": 1}, {"b": ["\u00e9\n", None]}, {"c": {"d": 1.5}}]


def lines(form: LineForm, documents: list[dict[str, Any]] = DOCUMENTS) -> list[bytes]:
    return [f"{form.written(document)}\n".encode("ascii") for document in documents]


def written(path: Path, form: LineForm, documents: list[dict[str, Any]] = DOCUMENTS, **how: bool) -> None:
    with Log(path, form, **how) as log:
        for document in documents:
            log.add(document)


@FORMS
def test_what_is_added_is_read_in_its_order(form: LineForm, tmp_path: Path) -> None:
    written(tmp_path / "log", form, DOCUMENTS[:2])
    written(tmp_path / "log", form, DOCUMENTS[2:])
    data = (tmp_path / "log").read_bytes()
    assert data == b"".join(lines(form))
    assert parse(data, form) == Contents(DOCUMENTS, len(data), None)


@FORMS
@given(st.data())
def test_a_torn_line_is_dropped_wherever_it_was_torn(form: LineForm, data: st.DataObject) -> None:
    *before, last = lines(form)
    kept = b"".join(before)
    torn = last[: data.draw(st.integers(0, len(last) - 1))]
    assert parse(kept + torn, form) == Contents(DOCUMENTS[:-1], len(kept), None)


@FORMS
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("torn", [b"", b"x"])
def test_a_damaged_line_is_told_and_nothing_behind_it_is_believed(form: LineForm, number: int, torn: bytes) -> None:
    found = lines(form)
    found[number - 1] = found[number - 1].replace(b'"', b"'", 1)
    documents, size, damage = parse(b"".join(found) + torn, form)
    assert documents == DOCUMENTS[: number - 1]
    assert size == len(b"".join(found[: number - 1]))
    assert damage is not None and (damage.line, damage.last) == (number, number == 3 and not torn)


@FORMS
@pytest.mark.parametrize("byte", [b"2", b" ", b"\n", b"}", b"\xff"])
def test_no_changed_byte_gives_another_document(form: LineForm, byte: bytes) -> None:
    data = b"".join(lines(form))
    for place in range(len(data)):
        changed = data[:place] + byte + data[place + 1 :]
        documents, size, damage = parse(changed, form)
        assert documents == DOCUMENTS[: len(documents)], place
        assert len(documents) == 3 or damage is not None or size < len(changed), "what is lost is told, or was torn"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": 1, "digest": "00"}', "its digest does not fit"),
        (b'{"a": 1}', "'digest'"),
        (b"[1]", "'str' object cannot be interpreted as an integer"),
        (b"5", "'int' object has no attribute 'pop'"),
        (b"", "Expecting value"),
        (b"\xff", "'utf-8' codec can't decode"),
        (b"[" * 100_000, "maximum recursion depth"),
    ],
)
def test_a_line_that_is_anything_is_damage_and_no_exception(line: bytes, why: str) -> None:
    damage = parse(line + b"\n", INSIDE).damage
    assert damage is not None and damage.why.startswith(why)


@pytest.mark.parametrize("text", ["", "0123456789abcdef", "my letters", "[1]", "5", "{"])
def test_a_digest_before_what_is_no_document_is_damage_too(text: str) -> None:
    for line in (text, f"{journal.digest(text, journal.SHORT)} {text}"):
        damage = parse(f"{line}\n".encode(), BEFORE).damage
        assert damage is not None and damage.line == 1


def test_nothing_is_nothing() -> None:
    assert parse(b"", INSIDE) == Contents([], 0, None)


@FORMS
def test_lines_that_something_has_ended_as_windows_does_are_read(form: LineForm) -> None:
    data = b"".join(lines(form)).replace(b"\n", b"\r\n")
    assert parse(data, form) == Contents(DOCUMENTS, len(data), None)


# --- files of earlier versions


def test_a_line_of_an_earlier_checkpoint_is_read_and_would_be_written_so_today() -> None:
    line = b'1fd4b6e8d0e643b1 {"file":"kstack checkpoint","format":1,"mode tlb":"retain","\\u00e9":[1,null,{"b":2,"a":true}]}'
    documents, _, damage = parse(line + b"\n", BEFORE)
    assert damage is None and documents[0]["\u00e9"] == [1, None, {"b": 2, "a": True}]
    assert BEFORE.written(documents[0]).encode() == line


def test_a_line_of_an_earlier_campaign_is_read_and_would_be_written_so_today() -> None:
    line = b'{"batch": "0f", "rules": 9, "outcomes": [{"site": "b\\u00e9", "at": null}], "digest": "4d2271b08a43858c32f8f6e5f0f8bced"}'
    documents, _, damage = parse(line + b"\n", INSIDE)
    assert damage is None and documents[0]["outcomes"] == [{"site": "b\u00e9", "at": None}]
    assert INSIDE.written(documents[0]).encode() == line


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "golden").glob("journal-*")), ids=lambda path: path.stem)
def test_the_journal_of_an_earlier_recording_is_written_so_today(path: Path) -> None:
    data = path.read_bytes()
    documents, size, damage = parse(data, INSIDE)
    assert damage is None and documents
    assert b"".join(lines(INSIDE, documents)) == data[:size]


# --- writing


@FORMS
def test_a_torn_line_is_cut_off_before_the_next_is_added(form: LineForm, tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path, form, DOCUMENTS[:1])
    path.write_bytes(path.read_bytes() + lines(form)[1][:-3])
    with Log(path, form) as log:
        found = parse(log.data(), form)
        assert found.documents == DOCUMENTS[:1]
        log.cut(found.size)
        for document in DOCUMENTS[len(found.documents) :]:
            log.add(document)
    assert path.read_bytes() == b"".join(lines(form))


def test_a_line_is_on_the_disk_when_it_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "log", list[bytes]()
    real = os.fsync

    def fsync(file: int) -> None:
        synced.append(path.read_bytes())
        real(file)

    monkeypatch.setattr(journal.os, "fsync", fsync)
    written(path, INSIDE)
    assert synced == [b"".join(lines(INSIDE)[:number]) for number in (1, 2, 3)]


def test_an_emptied_log_has_only_what_was_added(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("something else\n" * 9)
    written(tmp_path / "log", INSIDE, emptied=True)
    assert (tmp_path / "log").read_bytes() == b"".join(lines(INSIDE))


HOLDS: Final = """
import sys
from pathlib import Path
from kstack.base.journal import INSIDE, Log
log = Log(Path(sys.argv[1]), INSIDE, locked=True)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_locked_log_is_nobody_elses_until_it_is_closed_or_its_process_has_died(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first = Log(path, INSIDE, locked=True)
    with pytest.raises(BlockingIOError):
        Log(path, INSIDE, locked=True)
    first.close()
    command = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError):
            Log(path, INSIDE, locked=True)
        other.kill()
    Log(path, INSIDE, locked=True).close()


def test_what_the_system_refuses_is_its_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Log(tmp_path, INSIDE)


def test_a_document_that_json_cannot_hold_is_the_callers_mistake_and_leaves_no_line(tmp_path: Path) -> None:
    with Log(tmp_path / "log", INSIDE) as log, pytest.raises(TypeError):
        log.add({"a": {1, 2}})
    assert json.dumps((tmp_path / "log").read_text()) == '""'
