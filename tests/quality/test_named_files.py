"""What a document or a comment names of this repository is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.command import ROOT

PATH: Final = re.compile(r"\b(?:tests|vm|guest|policies|bench|docs)/[\w./*-]+\.(?:py|md|s|toml)\b")
TEST: Final = re.compile(r"`(test_\w+\.py)`")


def documents() -> list[Path]:
    places = ("*.md", "Makefile", "docs/*.md", "vm/**/*.py", "guest/**/*.py", "policies/*.py", "tests/**/*.py")
    return [path for place in places for path in ROOT.glob(place) if path != Path(__file__)]


def missing(text: str) -> Iterator[str]:
    """Paths from the root, and names of test modules, that a text has and the repository has not."""
    yield from (name for name in PATH.findall(text) if not any(ROOT.glob(name)))
    yield from (name for name in TEST.findall(text) if not any((ROOT / "tests").rglob(name)))


def test_every_file_that_is_named_is_there() -> None:
    found = [f"{path.relative_to(ROOT)}: {name}" for path in documents() for name in missing(path.read_text())]
    assert found == []


@pytest.mark.parametrize("name", ["vm/hw/mmu/tbl.py", "`test_of_nothing.py`", "docs/ruels.md"])
def test_a_file_that_is_not_there_is_seen(name: str) -> None:
    text = f"See {name}, and {Path('vm') / 'machine.py'}."
    assert list(missing(text)) == [name.strip("`")]
