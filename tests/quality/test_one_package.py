"""kstack is one import package: each module has one name, in the repository as installed."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Final

import pytest

from tests.support.command import ROOT, python

LINKS: Final = ROOT / "kstack"
BESIDE: Final = ("guest", "policies")
EVERYTHING: Final = """
import pkgutil, importlib, kstack
for info in pkgutil.walk_packages(kstack.__path__, "kstack."):
    importlib.import_module(info.name)
"""
BENCH: Final = """
import runpy, sys
sys.argv = ["bench", "--help"]
try:
    runpy.run_module("bench", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""
TWICE: Final = """
import os, sys
names = {}
for name, module in sorted(sys.modules.items()):
    file = getattr(module, "__file__", None)
    ours = file and os.path.realpath(file).startswith(os.getcwd()) and not file.startswith(sys.prefix)
    if ours and name != "__main__":
        names.setdefault(os.path.realpath(file), []).append(name)
print(*([*found] for found in names.values() if len(found) > 1), sep="\\n")
print(*(name for name in ("vm", "guest", "policies") if name in sys.modules), sep="\\n")
"""


@pytest.mark.parametrize(
    "program", [EVERYTHING, BENCH, EVERYTHING + "import tests.nightly.__main__, tests.fuzz.targets"]
)
def test_no_module_is_loaded_twice(program: str) -> None:
    done = python("-c", f"import sys\nsys.path.insert(0, '')\n{program}\nprint('---')\n{TWICE}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition("---")[2].split() == []


def test_a_module_that_is_loaded_twice_is_found() -> None:
    done = python("-c", f"import kstack.base.errors\nimport sys\nsys.path.insert(0, 'vm')\nimport base.errors\n{TWICE}")
    assert "['base.errors', 'kstack.base.errors']" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["vm", *BESIDE])
def test_a_folder_of_the_repository_is_no_package_of_its_own(name: str) -> None:
    done = python("-c", f"import {name}")
    assert f"{name} is a folder of kstack's source; import it as kstack" in done.stderr


def test_each_room_has_a_link() -> None:
    rooms = {path.name for path in (ROOT / "vm").iterdir() if path.name != "__pycache__"}
    assert {path.name for path in LINKS.iterdir() if path.name != "__pycache__"} == {*rooms, *BESIDE}
    for path in LINKS.iterdir():
        if path.name != "__pycache__":
            target = os.readlink(path)
            assert target == (f"../{path.name}" if path.name in BESIDE else f"../vm/{path.name}")


def test_the_test_extra_brings_nothing_that_changes_other_peoples_tests() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [re.split(r"[^\w-]", name)[0] for name in extras["test"]] == ["pytest"]
