"""Which kstack this is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kstack.base import release
from tests.support.command import ROOT


@pytest.fixture(autouse=True)
def _asked_again() -> None:
    release.release.cache_clear()


def test_a_checkout_says_its_commit() -> None:
    found = release.release()
    assert found["version"]
    if (ROOT / ".git").exists():
        done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert found["commit"] == done.stdout.strip()


def test_what_is_installed_has_no_commit_and_neither_has_a_checkout_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "ROOT", tmp_path)
    assert release.release()["commit"] is None
    release.release.cache_clear()
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert release.release()["commit"] is None
