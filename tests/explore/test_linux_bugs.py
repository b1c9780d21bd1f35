"""Bugs of this kind that Linux has had are found, and their fixes are clean (tests/support/linux_bugs*.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.explore.breadth_first import Outcome, Problem, search
from kstack.hw.modes import Modes
from tests.support.linux_bugs import BUGS, Kernel, write_guest
from tests.support.linux_bugs_in_code import BUGS as BUGS_IN_CODE
from tests.support.linux_bugs_in_code import OLD, SECRET, Race

KINDS = {"Mremap": "use-after-free", "BatchedReclaim": "stale-translation", "CollectForMigration": "use-after-free"}


def explored(folder: Path, bug: type[Kernel], fixed: bool) -> Outcome:
    """All interleavings of the two system calls."""
    policy = type(bug.__name__, (bug,), {"fixed": fixed})
    return search(Problem(str(write_guest(folder)), policy, Modes()))


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug: type[Kernel], tmp_path: Path) -> None:
    outcome = explored(tmp_path, bug, fixed=False)
    assert outcome.verdict == "unsafe"
    assert outcome.finding is not None
    assert outcome.finding.kind.value == KINDS[bug.__name__]
    assert outcome.finding.cpu == 1


@pytest.mark.parametrize("bug", BUGS)
def test_its_fix_is_clean(bug: type[Kernel], tmp_path: Path) -> None:
    outcome = explored(tmp_path, bug, fixed=True)
    assert (outcome.verdict, outcome.complete) == ("safe", True)
    assert outcome.exercised > 0


@pytest.mark.parametrize("bug", BUGS_IN_CODE)
def test_a_bug_in_code_reads_what_is_somebody_else_s(bug: type[Race]) -> None:
    assert SECRET in bug(fixed=False).outcomes()


@pytest.mark.parametrize("bug", BUGS_IN_CODE)
def test_its_fix_in_code_never_does(bug: type[Race]) -> None:
    assert bug(fixed=True).outcomes() == {None, OLD}, "before or after the unmap"
