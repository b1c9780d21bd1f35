"""The template project works where a user has it: kstack installed from its wheel, the files in a folder of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from tests.support.command import ROOT
from tests.support.inner_pytest import outcomes

TEMPLATE: Final = ROOT / "docs" / "template"
SECONDS: Final = 200
LINES: Final = 60
EXPECTED: Final = 21


def called(*command: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def pip(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return called(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words)


OWN_FOLDERS = """
import sys
from pathlib import Path

import guest.mine
import policies.mine
import policies.one
import vm.mine
from kstack.stacks import Policy


def test_names() -> None:
    assert (vm.mine.NAME, guest.mine.NAME, policies.mine.NAME) == ("vm", "guest", "policies")
    assert issubclass(policies.one.Mine, Policy)


def test_a_guest(machine_factory) -> None:
    assert machine_factory(cpus=1)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout; without the registry, with the hatchling that is installed, if there is one."""
    folder = tmp_path_factory.mktemp("wheel")
    done = pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    if done.returncode:
        again = pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
        if again.returncode:
            pytest.skip(f"no wheel can be built here: {done.stderr[-300:]}")
    return next(folder.glob("kstack-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with kstack and its test extras; without the registry, with what is installed here."""
    place = tmp_path_factory.mktemp("user") / "venv"
    called(sys.executable, "-m", "venv", "--without-pip", place)
    python = place / "bin" / "python"
    if pip("--python", python, "install", f"{wheel}[test]").returncode:
        assert pip("--python", python, "install", "--no-deps", wheel).returncode == 0
        site = called(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        (Path(site) / "installed.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.mark.slow
def test_the_template_passes_outside_the_repository(python: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(TEMPLATE, project, ignore=shutil.ignore_patterns("__pycache__"))
    where = called(python, "-c", "import kstack; print(kstack.__file__)", folder=project).stdout
    assert str(ROOT) not in where, "it is the wheel that is tested"
    done = called(python, "-m", "pytest", "-rA", folder=project)
    assert done.returncode == 0, done.stdout + done.stderr
    found = outcomes(done)
    assert {"test_guest.toml::stack", "test_guest.toml::oracle"} <= set(found)
    assert len(found) == EXPECTED, "kit, schedules, and the guest's own"


@pytest.mark.slow
def test_what_is_broken_in_it_fails(python: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(TEMPLATE, project, ignore=shutil.ignore_patterns("__pycache__"))
    policy = project / "mine.py"
    text = (
        policy.read_text()
        .replace("reclaim_with_shootdown(", "free((yield from unmap_pages(")
        .replace("rsp))", "rsp))))")
    )
    policy.write_text(text.replace("reclaim_with_shootdown", "free, unmap_pages"))
    guest = project / "guest.s"
    guest.write_text(guest.read_text().replace("[rsp], 42", "[rsp], 43"))
    done = called(python, "-m", "pytest", "-rA", "-p", "no:randomly", folder=project)
    failed = sorted(name for name, outcome in outcomes(done).items() if outcome == "FAILED")
    assert "test_guest.toml::stack" in failed
    assert any(name.startswith("test_mine.py::test_it_is_safe[") and "laight" in name for name in failed), done.stdout
    assert "kstack replay .pytest_cache/" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [("pytest",), ("python", "-m", "pytest")])
def test_a_project_with_folders_of_kstacks_names_is_not_disturbed(
    python: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    for name in ("vm", "guest", "policies", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "mine.py").write_text(f"NAME = {name!r}\n")
    (tmp_path / "policies" / "one.py").write_text((TEMPLATE / "mine.py").read_text())
    (tmp_path / "tests" / "test_it.py").write_text(OWN_FOLDERS)
    done = called(python.parent / command[0], *command[1:], "-rA", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(outcomes(done).values()) == {"PASSED"} and len(outcomes(done)) == 2


@pytest.mark.slow
def test_an_installed_kstack_has_one_name(python: Path, tmp_path: Path) -> None:
    program = "import importlib.metadata as m; print(*sorted({file.parts[0] for file in m.files('kstack')}))"
    names = called(python, "-c", program, folder=tmp_path).stdout.split()
    assert [name for name in names if not name.endswith(".dist-info") and name != ".."] == ["kstack"]


def test_the_template_is_short() -> None:
    files = [path for path in sorted(TEMPLATE.iterdir()) if path.is_file()]
    assert sum(len(path.read_text().splitlines()) for path in files) < LINES
