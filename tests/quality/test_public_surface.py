"""What users may import is said in one place, is there, and is all that documents and the template use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

import kstack
from tests.support.command import ROOT

MODULES: Final = ("kstack.testing.plugin", "kstack.testing.strategies")
PYTHON: Final = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def texts() -> Iterator[tuple[str, str]]:
    """Python that users read: its place, and its text."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for found in PYTHON.finditer(path.read_text()):
            yield f"{path.name}:{path.read_text()[: found.start()].count(chr(10)) + 1}", found[1]
    for path in sorted((ROOT / "docs" / "template").glob("*.py")):
        yield path.name, path.read_text()


def private(text: str) -> list[str]:
    """What a text imports of kstack that is not public."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kstack":
            room = str(node.module).removeprefix("kstack.")
            if node.module in MODULES:
                continue
            names = getattr(import_module(str(node.module)), "__all__", ()) if room in kstack.PUBLIC else ()
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("kstack.")]
    return found


@pytest.mark.parametrize("room", kstack.PUBLIC)
def test_each_public_room_says_its_names_and_has_them(room: str) -> None:
    module = import_module(f"kstack.{room}")
    assert module.__all__ == sorted(module.__all__, key=lambda name: (name.islower(), not name.isupper(), name))
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert f"kstack.{room}" in str(kstack.__doc__)


def test_documents_and_the_template_use_what_is_public() -> None:
    listed = dict(texts())
    assert len(listed) >= 7
    assert {place: found for place, text in listed.items() if (found := private(text))} == {}


def test_what_is_private_is_found() -> None:
    absent = "nothing"
    text = f"from kstack.hw.modes import Modes\nfrom kstack.run import Modes, {absent}\nimport kstack.machine"
    assert private(text) == ["kstack.hw.modes.Modes", f"kstack.run.{absent}", "kstack.machine"]


def test_policies_that_come_with_kstack_use_what_is_public() -> None:
    for path in sorted(Path(ROOT / "policies").glob("*.py")):
        found = [name for name in private(path.read_text()) if not name.startswith("kstack.policies.")]
        assert found == [], path.name
