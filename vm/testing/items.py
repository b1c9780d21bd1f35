"""Scenarios as tests: a file `test_*.toml` is run once, and what its guest says of its own tests are items.

    PASS name: what it is      an item that passes        FAIL  one that fails, with a name or without
    SKIP name: why             one that is skipped        XFAIL one that fails as was expected
                                                          XPASS one that was to fail, and fails since it did not
    guest                      did it come to an end, and to a good one unless a line says what was not?
    oracle                     was nothing found but what the scenario expects? Not asked of a guest that has died

The guest is run when the file is collected, since it alone knows its items: under the policy fixed-16k, by the
scenario's script where it has one, else round robin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kstack.base.errors import KstackError
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.report.panic import panic_report
from kstack.testing.bench import Bench
from kstack.testing.failures import DIED
from kstack.testing.guests import FAILED, GuestRun, Report, Schedule
from kstack.testing.watched import watch

KEYS: Final = 3
"""Of a scenario's, that a TOML file has: hardly any other one has so many."""
_KEY: Final = re.compile(r"^(\w+)\s*=", re.MULTILINE)


def is_scenario_file(path: Path) -> bool:
    """Whether a TOML file is meant to be a scenario, be it a wrong one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return len(set(_KEY.findall(text)) & usual_guests().scenario_keys) >= KEYS


class ReportedError(Exception):
    """What a guest says is wrong, or what is wrong with it."""


class ScenarioFile(pytest.File):
    """A scenario that is a test."""

    def collect(self) -> Iterator[ScenarioItem]:
        """Run it; an item a line, and those for guest and oracle.

        Raises:
            CollectError: it cannot be run.
        """
        bench = Bench(self.path.parent, None, Modes(), None, Schedule())
        try:
            run = bench.guest(self.path)
        except KstackError as error:
            raise self.CollectError(str(error)) from error
        seen: dict[str, int] = {}
        for report in run.reports:
            seen[report.name] = number = seen.get(report.name, 0) + 1
            name = report.name if number == 1 else f"{report.name} ({number})"
            yield _item(self, name, bench, report)
        yield _item(self, "guest", bench, _end(run))
        if run.result.code != DIED:
            yield _item(self, "oracle", bench, _findings(run))


def _item(file: ScenarioFile, name: str, bench: Bench, report: Report) -> ScenarioItem:
    item: ScenarioItem = ScenarioItem.from_parent(file, name=name, report=report)
    watch(item, bench)
    return item


def _end(run: GuestRun) -> Report:
    """How the guest has ended; the state of its CPUs, if it has died."""
    result, wrong = run.result, run.bad_end
    if result.code == DIED:
        report = panic_report(run.session.machine, run.session.symbols, exits=result.exits)
        found = [f"{finding.kind.value}: {finding.text}" for finding in run.findings]
        return Report("FAIL", "guest", "\n".join([*found, f"it printed\n{run.serial}", report]))
    explained = result.ended == "exit" and any(report.verdict in FAILED for report in run.reports)
    if wrong is not None and not explained:
        return Report("FAIL", "guest", f"{wrong.text}\n{run.serial}")
    return Report("PASS", "guest", "")


def _findings(run: GuestRun) -> Report:
    """What the oracle has found."""
    texts = [f"{found.kind.value}: {found.text}" for found in run.findings]
    return Report("FAIL" if texts else "PASS", "oracle", "\n".join(texts))


class ScenarioItem(pytest.Item):
    """A line of a guest's report, or what is said of it."""

    def __init__(self, *, report: Report, **more: Any) -> None:
        super().__init__(**more)
        self._report = report

    def runtest(self) -> None:
        """The guest has been run: pass, fail or skip.

        Raises:
            ReportedError: it was no pass.
        """
        verdict, _, line = self._report
        if verdict == "SKIP":
            pytest.skip(line)
        if verdict == "XFAIL":
            pytest.xfail(line)
        if verdict in FAILED:
            raise ReportedError(line)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What the guest said, without a traceback through Python."""
        if isinstance(excinfo.value, ReportedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Its file and its name."""
        return self.path, None, f"{self.path.name}: {self.name}"
