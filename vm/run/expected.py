"""What of a run's findings is unexpected: the one rule by which every command, campaign and test judges.

A scenario says what it `expects`, which is right there, and what it `concerns`. A finding that harms nobody counts only
where a scenario asks for it. All else is unexpected, and so are a guest's panic and a failed check of its own that the
oracle has not seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kstack.base.errors import ScenarioError
from kstack.kernels.scenario import Scenario
from kstack.run.result import RunResult
from kstack.sanitizer.findings import Finding, Kind

ONLY_WHERE_CONCERNED: Final = frozenset({Kind.IMBALANCE.value})  # no crash: a scenario must ask
KINDS: Final = tuple(kind.value for kind in Kind)
GAVE_UP: Final = "waited too long"  # what guests print when a bounded wait ends; no word about data


def ignored_kinds(scenario: Scenario | None) -> frozenset[str]:
    """Kinds of findings that count for nothing.

    Args:
        scenario: what runs; None for an image that is no scenario, and asks for nothing.

    Raises:
        ScenarioError: it names a kind that does not exist.
    """
    if scenario is None:
        return ONLY_WHERE_CONCERNED
    for key, named in (("concerns", scenario.concerns), ("expects", scenario.expects)):
        for kind in named:
            if kind not in KINDS:
                raise ScenarioError(
                    f"{scenario.id}: {key} has the finding {kind!r}, which is none of {', '.join(KINDS)}"
                )
    return ONLY_WHERE_CONCERNED.difference(scenario.concerns).union(scenario.expects)


def unexpected(scenario: Scenario | None, result: RunResult) -> tuple[Finding, ...]:
    """A run's findings, less those that count for nothing; a scenario's guest that panicked or failed is one too.

    Args:
        scenario: what ran; None for an image that is no scenario: what it writes to the debug-exit port is its own affair.
        result: what it came to.
    """
    found = result.without(ignored_kinds(scenario)).findings
    if scenario is None or found:
        return found
    if result.panicked:
        last = result.findings[-1].text if result.findings else "nothing was found before"
        return (Finding(Kind.UNHANDLED_FAULT, 0, "-", 0, result.time, f"the guest panicked; {last}"),)
    if result.ended == "exit" and result.failed and GAVE_UP not in result.serial:
        last = result.serial.strip().rsplit("\n", 1)[-1]
        text = f"the guest's own check failed, and the oracle saw nothing: {last!r}"
        return (Finding(Kind.WRONG_DATA, 0, "-", 0, result.time, text),)
    return found


def judged(scenario: Scenario | None, result: RunResult) -> RunResult:
    """A run's result with what is unexpected alone; `code` says what that comes to."""
    return replace(result, findings=unexpected(scenario, result))
