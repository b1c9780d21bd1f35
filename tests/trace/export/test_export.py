"""An export is written whole or not at all, and what cannot be done is said in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kstack.base.errors import TraceError
from kstack.trace import export as package
from kstack.trace.export import FORMATS, Exporter, export
from kstack.trace.store import Trace
from tests.support.command import ROOT


def test_there_is_a_format_for_each_viewer_with_a_suffix_of_its_own() -> None:
    assert list(FORMATS) == ["perfetto", "qemu", "drcov", "tenet", "vcd", "coverage"]
    assert len({exporter.suffix for exporter in FORMATS.values()}) == len(FORMATS)
    for name, exporter in FORMATS.items():
        assert exporter.name == name
        assert exporter.suffix.startswith(".")
        assert exporter.title and "\n" not in exporter.title


def test_an_export_lies_beside_its_trace_where_nothing_else_is_said(laight: Trace) -> None:
    assert FORMATS["vcd"].default(laight) == laight.folder.parent / "laight.vcd"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written_and_nothing_else_and_twice_the_same(
    format: str, double_fault: Trace, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    export(double_fault, format, path)
    first = path.read_bytes()
    assert len(first) > 500
    export(double_fault, format, path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_a_format_that_does_not_exist_is_told_with_the_nearest(laight: Trace, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"--format 'perfeto' does not exist; did you mean perfetto\?"):
        export(laight, "perfeto", tmp_path / "out")
    with pytest.raises(TraceError, match="there are perfetto, qemu, drcov, tenet, vcd, coverage"):
        export(laight, "xyz", tmp_path / "out")


def test_a_place_that_cannot_be_written_is_told_before_anything_is_done(laight: Trace, tmp_path: Path) -> None:
    for place, why in ((tmp_path, "is a folder"), (tmp_path / "no" / "such" / "out", "there is no folder")):
        with pytest.raises(TraceError, match=why) as told:
            export(laight, "qemu", place)
        assert "\n" not in f"{told.value}"
        assert f"--output {place}" in f"{told.value}"
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_what_was_there(
    laight: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_text("the old one")

    def full(trace: Trace, place: Path) -> NoReturn:
        place.write_text("half")
        raise OSError(28, os.strerror(28))

    def wrong(trace: Trace, place: Path) -> NoReturn:
        place.write_text("half")
        raise ZeroDivisionError

    for write, error in ((full, TraceError), (wrong, ZeroDivisionError)):
        monkeypatch.setitem(package.FORMATS, "qemu", Exporter("qemu", ".log", "", write))
        with pytest.raises(error, match="No space left" if error is TraceError else None):
            export(laight, "qemu", path)
        assert path.read_text() == "the old one"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("library", "format", "extra"), [("perfetto", "perfetto", "trace"), ("jinja2", "coverage", "report")]
)
def test_without_a_library_the_way_out_is_told(
    library: str, format: str, extra: str, laight: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *more: Any) -> None:
        if name.split(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=library)

    for name in [
        name for name in sys.modules if name.split(".")[0] == library or name.startswith("kstack.trace.export.p")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [type("Refuse", (), {"find_spec": staticmethod(refuse)}), *sys.meta_path])
    with pytest.raises(TraceError, match=rf"needs {library}: pip install 'kstack\[{extra}\]'"):
        export(laight, format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_to_know_the_formats_no_library_of_theirs_is_loaded() -> None:
    script = "import sys, kstack.trace.export; print(sorted({'perfetto', 'jinja2', 'capstone.x86'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "perfetto" not in done.stdout
    assert "jinja2" not in done.stdout
