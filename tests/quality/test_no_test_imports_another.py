"""Tests stand alone: what two of them need is in tests/support, or a fixture of a conftest.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.command import ROOT

TESTS = ROOT / "tests"


def imported(source: str) -> Iterator[str]:
    """Modules of this repository's tests that a program imports, wherever; also one that it holds as a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import" in node.value:
            words = node.value.replace(";", " ").split()
            yield from (after for word, after in pairwise(words) if word in ("from", "import"))


def is_test_module(name: str) -> bool:
    """Whether pytest collects a module, or its folder's fixtures are in it."""
    path = ROOT / f"{name.replace('.', '/')}.py"
    return name.startswith("tests.") and path.stem.startswith(("test_", "conftest")) and path.is_file()


@pytest.mark.parametrize("folder", [TESTS, ROOT / "bench"], ids=lambda path: path.name)
def test_no_test_module_is_imported(folder: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted(folder.rglob("*.py"))
        if "installed" not in path.parts
        for name in imported(path.read_text())
        if is_test_module(name)
    ]
    assert found == []


def test_an_import_of_a_test_module_is_seen_wherever_it_stands() -> None:
    me = Path(__file__).relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    folder, _, name = me.rpartition(".")
    for source in (
        f"import {me}",
        f"from {folder} import {name}",
        f"def f():\n from {me} import imported",
        f"x = 'from {me} import a'",
    ):
        assert any(map(is_test_module, imported(source))), source
    assert not any(
        map(is_test_module, imported("from tests.support.command import ROOT\nimport tests.nightly.mutation"))
    )
