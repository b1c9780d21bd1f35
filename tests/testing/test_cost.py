"""The plugin is in every pytest run of the environment: where nobody uses it, it costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.inner_pytest import outcomes, pytest_in

HEAVY = (
    "unicorn",
    "capstone",
    "keystone",
    "msgspec",
    "hypothesis",
    "kstack.machine",
    "kstack.base.errors",
    "kstack.guest",
    "kstack.policies",
)


def imported_by(statement: str) -> list[str]:
    """Modules that a statement imports, besides pytest's own."""
    program = f"import pytest, sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_it_imports_nothing_else() -> None:
    own = ["kstack", "kstack.testing", "kstack.testing.plugin", "kstack.testing.watched"]
    assert imported_by("import kstack.testing.plugin") == own


def test_a_run_that_does_not_use_it_loads_nothing_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test_x.toml").write_text("a = 1\n")
    (tmp_path / "test_it.py").write_text(
        f"import sys\ndef test_it(tmp_path):\n    assert not [name for name in {HEAVY} if name in sys.modules]\n"
    )
    options = ("-p", "no:hypothesispytest", "--ignore=data")
    assert outcomes(pytest_in(tmp_path, *options)) == {"test_it.py::test_it": "PASSED"}


def test_it_is_installed_under_its_name() -> None:
    found = [entry.value for entry in entry_points(group="pytest11") if entry.name == "kstack"]
    assert found == ["kstack.testing.plugin"]


def test_its_markers_and_fixtures_are_listed(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    markers = "\n".join(pytestconfig.getini("markers"))
    for name in ("smp(n)", "policy(name)", 'mode("name=value", ...)', "schedules(n)"):
        assert name in markers
    shown = pytest_in(tmp_path, "--fixtures").stdout
    for name in ("machine", "machine_factory", "guest", "policy", "schedule", "inject", "explore"):
        assert f"\n{name} -- " in shown, name


def test_names_of_the_package_are_there_and_others_are_not() -> None:
    import kstack.testing

    assert all(getattr(kstack.testing, name) for name in kstack.testing.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = kstack.testing.nothing_such
