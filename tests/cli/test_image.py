"""kstack image: built-in images as files for other machines, whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kstack.guest.images import PROBES, images
from kstack.kernels.known import usual_guests
from kstack.recording import image_hash
from tests.support.command import document, kstack


@pytest.mark.parametrize("name", ["selftest", "probe-df-restart", "litmus-laight"])
def test_it_writes_what_run_runs(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.elf"
    done = kstack("image", name, "-o", path)
    content = path.read_bytes()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: {len(content)} bytes, {name}: {images()[name].title}\n"
    assert content == usual_guests().image(name)


def test_a_probe_that_was_written_says_the_same_as_the_built_in_one(tmp_path: Path) -> None:
    path = tmp_path / "image.elf"
    kstack("image", "probe-df-restart", "--output", path)
    assert kstack("run", path).stdout == kstack("run", "probe-df-restart").stdout


def test_json_says_what_and_where(tmp_path: Path) -> None:
    path = tmp_path / "image.elf"
    found = document("image", "probe-df-restart", "-o", path)
    content = path.read_bytes()
    title = images()["probe-df-restart"].title
    said = {"image": "probe-df-restart", "title": title, "file": str(path)}
    assert found == {"version": 1, **said, "bytes": len(content), "hash": image_hash(content)}


def test_a_scenario_of_ones_own_can_be_written(tmp_path: Path) -> None:
    scenario, path = PROBES / "litmus" / "grow.toml", tmp_path / "image.elf"
    done = kstack("image", scenario, "-o", path)
    assert (done.returncode, path.read_bytes()[:4]) == (0, b"\x7fELF")
    assert "a page becomes writable" in done.stdout


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    there = tmp_path / "there.elf"
    there.write_bytes(b"as it was")
    for name, output, says in (
        ("probe-speculatio", there, "is neither built in nor a file; did you mean probe-speculation"),
        (there, tmp_path / "new.elf", "is a file already; see: kstack images"),
        ("probe-df-restart", tmp_path / "nowhere" / "new.elf", "cannot be written: No such file or directory"),
        ("probe-df-restart", tmp_path, "cannot be written: Is a directory"),
        (tmp_path / "none.toml", there, "No such file or directory"),
    ):
        done = kstack("image", name, "-o", output)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.elf"]
    assert there.read_bytes() == b"as it was"


def test_what_is_no_file_stays_what_it_is_and_links_are_followed(tmp_path: Path) -> None:
    pipe, link, there = (tmp_path / name for name in ("pipe", "link", "there.elf"))
    os.mkfifo(pipe)
    done = kstack("image", "probe-df-restart", "-o", pipe)
    assert (done.returncode, done.stderr) == (2, f"kstack: {pipe} cannot be written: it is no file\n")
    assert pipe.is_fifo()
    link.symlink_to(there)
    assert not kstack("image", "probe-df-restart", "-o", link).returncode
    assert link.is_symlink() and there.read_bytes()[:4] == b"\x7fELF"


def test_where_the_disk_is_full_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    there = tmp_path / "there.elf"
    there.write_bytes(b"as it was")
    done = kstack("image", "probe-df-restart", "-o", there)
    assert (done.returncode, done.stderr) == (2, f"kstack: {there} cannot be written: No space left on device\n")
    assert there.read_bytes() == b"as it was" and len(list(tmp_path.iterdir())) == 1


def test_the_list_has_the_probes_and_without_a_file_nothing_is_written() -> None:
    listed = {image["name"] for image in document("images")["images"]}
    assert {"selftest", "probe-speculation", "probe-memory-order"} <= listed
    assert kstack("image", "selftest").returncode == 2
