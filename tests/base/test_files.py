"""A file is written whole or not at all, and what the system refuses is one error that names the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kstack.base import files
from kstack.base.errors import ConfigError, RecordingError
from kstack.base.files import refused_as, replace_folder, whole, write_whole

OLD = "the old one"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is there."""
    place = tmp_path / "file"
    place.write_text(OLD)
    return place


def refuse(*_: object, **__: object) -> NoReturn:
    raise OSError(28, os.strerror(28))


def stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def alone(path: Path) -> bool:
    """Nothing but the file is in its folder."""
    return list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("data", "is_written"), [("\u00e9\n", b"\xc3\xa9\n"), (b"\0\xff\r\n", b"\0\xff\r\n"), ("", b"")]
)
def test_a_file_is_replaced_by_all_that_was_given(path: Path, data: str | bytes, is_written: bytes) -> None:
    write_whole(path, data)
    assert path.read_bytes() == is_written
    assert alone(path)


def test_a_file_that_is_not_there_is_made_as_others_are(tmp_path: Path) -> None:
    ours, usual = tmp_path / "ours", tmp_path / "usual"
    write_whole(ours, "x")
    usual.write_text("x")
    assert stat.filemode(ours.stat().st_mode) == stat.filemode(usual.stat().st_mode)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(("fail", "error"), [(refuse, ConfigError), (stop, KeyboardInterrupt)])
def test_a_failure_in_the_middle_leaves_the_old_file(
    path: Path,
    function: str,
    fail: Callable[..., NoReturn],
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files.os, function, fail)
    with pytest.raises(error):
        write_whole(path, "a new one")
    assert path.read_text() == OLD
    assert alone(path)


@pytest.mark.parametrize("fail", [refuse, stop, lambda: 1 // 0])
def test_what_goes_wrong_while_a_file_is_written_leaves_the_old_one(path: Path, fail: Callable[[], Any]) -> None:
    def write() -> None:
        with whole(path) as temporary:
            temporary.write_text("half of a new")
            fail()

    with pytest.raises((ConfigError, KeyboardInterrupt, ZeroDivisionError)):
        write()
    assert path.read_text() == OLD
    assert alone(path)


def test_a_reader_never_finds_half_a_file(path: Path) -> None:
    with whole(path) as temporary:
        temporary.write_text("a new one")
        assert path.read_text() == OLD
    assert path.read_text() == "a new one"


def test_what_was_written_is_on_the_disk_before_it_takes_the_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*words: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            order.append(name)
            return real(*words)

        monkeypatch.setattr(files.os, name, noted)
    write_whole(path, "a new one")
    assert order == ["fsync", "replace"]


def test_an_error_names_the_file_and_the_systems_reason(tmp_path: Path) -> None:
    path = tmp_path / "no" / "file"
    with pytest.raises(ConfigError) as told:
        write_whole(path, "x")
    assert str(told.value) == f"{path} cannot be written: No such file or directory"
    with pytest.raises(RecordingError) as other:
        write_whole(path, "x", "--record it", RecordingError)
    assert str(other.value) == "--record it: No such file or directory"


@pytest.mark.parametrize("name", [".", "..", "folder", "a" * 300])
def test_a_name_that_no_file_can_have_is_an_error_too(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder" / "in it").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_whole(Path(name), "x")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_what_cannot_be_removed_hides_nothing_of_what_went_wrong(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "replace", stop)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "a new one")


def test_an_error_without_a_reason_of_the_systems_is_told_all_the_same() -> None:
    with pytest.raises(ConfigError, match=r"^the file: a library's own words$"), refused_as("the file"):
        raise OSError("a library's own words")


# --- folders


def folder(path: Path, text: str) -> Path:
    """A folder with a file."""
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_a_folder_takes_the_place_of_another_or_of_none(tmp_path: Path) -> None:
    for text in ("first", "second"):
        replace_folder(folder(tmp_path / ".made.part", text), tmp_path / "folder")
        assert (tmp_path / "folder" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_take_the_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, made = folder(tmp_path / "folder", OLD), folder(tmp_path / ".made.part", "new")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        return refuse() if self == made else real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="No space left"):
        replace_folder(made, old)
    assert (old / "file").read_text() == OLD
    assert sorted(tmp_path.iterdir()) == [made, old]
