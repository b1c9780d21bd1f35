"""What a document, a comment or a text that is executed names of this repository is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.command import ROOT

PATH: Final = re.compile(r"\b(?:tests|vm|guest|policies|bench|docs)/[\w./*-]+\.(?:py|md|s|toml)\b")
IMPORT: Final = re.compile(r"from (kstack[\w.]*) import ([\w, ]+)")
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


def texts(path: Path) -> list[str]:
    """A page, or the strings of a program."""
    text = path.read_text()
    if path.suffix != ".py":
        return [text]
    found = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return [one for one in found if isinstance(one, str)]


def not_there(text: str) -> Iterator[str]:
    """What a text imports from kstack that is not there."""
    for name, wanted in IMPORT.findall(text):
        module = importlib.import_module(name)
        for one in (part.split(" as ")[0].strip() for part in wanted.split(",")):
            if one and not hasattr(module, one) and importlib.util.find_spec(f"{name}.{one}") is None:
                yield f"{name}.{one}"


def test_every_name_that_a_text_imports_is_there() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {one}" for path in documents() for text in texts(path) for one in not_there(text)
    ]
    assert found == []


def test_a_name_that_is_not_there_is_seen() -> None:
    assert list(not_there("from kstack.explore import world, stateful as one\n")) == ["kstack.explore.stateful"]
