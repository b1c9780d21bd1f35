"""Runs of guests in tests: what is run, and what came of it, so that it can be run again with other choices."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msgspec.structs import replace

from kstack.base.errors import PolicyError
from kstack.fault import Injector
from kstack.kernels.scenario import Scenario
from kstack.recording import Recording, pack
from kstack.run.expected import unexpected
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.run.spec import RunSpec, script_of
from kstack.sanitizer.findings import Finding
from kstack.schedule import Choice, Scheduler, ScriptedSchedule, parse

FAILED: Final = ("FAIL", "XPASS")
"""Verdicts that say that something is wrong; XPASS is a test that was to fail, and did not."""
VERDICTS: Final = ("PASS", "SKIP", "XFAIL", *FAILED)
"""What a guest's report lines begin with, as those of kvm-unit-tests do."""
NAMELESS: Final = "unnamed"
"""The name of a report of failure that has none."""
_REPORT: Final = re.compile(rf"({'|'.join(VERDICTS)})(?=[\s:]|$)[\s:]*([^:]*)")
QUANTA: Final = (10, 100, 1000)
"""Units of virtual time of the round-robin schedules that come first."""


@dataclass(frozen=True)
class Schedule:
    """How to make a schedule: as on the command line of `kstack run`.

    Attributes:
        text: `round-robin:QUANTUM`, `random[:LONGEST]`, `pct:DEPTH` or `scripted`; empty for the scenario's script
            where it has one, else round robin.
        seed: of `random` and `pct`, and of speculative fills and evictions in the mode tlb=adversarial.
    """

    text: str = ""
    seed: int = 0

    def __str__(self) -> str:
        seeded = self.text.startswith(("random", "pct"))
        return f"{self.text or 'default'}{f'-seed-{self.seed}' if seeded else ''}".replace(":", "-")

    def scheduler(self, scenario: Scenario | None = None) -> Scheduler:
        """A fresh schedule.

        Raises:
            ConfigError: there is no such schedule, or the scenario has no script.
        """
        script = script_of(scenario) if scenario is not None and scenario.script else None
        if not self.text and script is not None:
            return ScriptedSchedule(script)
        return parse(self.text or "round-robin", self.seed, script)


def portfolio(count: int) -> list[Schedule]:
    """So many schedules: round robin at a few quanta, then random ones by seed."""
    turns = [Schedule(f"round-robin:{quantum}") for quantum in QUANTA]
    return (turns + [Schedule("random", seed) for seed in range(max(0, count - len(turns)))])[:count]


class Failure(NamedTuple):
    """What is wrong with a run: `kind` says whether another run failed alike, `text` is for people."""

    kind: str
    text: str


class Report(NamedTuple):
    """A line by which a guest reports a test of its own: `PASS name: what it is`, or `PASS: name: what it is`."""

    verdict: str
    name: str
    line: str


def reports(serial: str) -> list[Report]:
    """The report lines of what a guest has printed, in order. One without a name counts where it says what is wrong."""
    found = []
    for line in map(str.strip, serial.splitlines()):
        said = _REPORT.match(line)
        if said is not None and (said[2].strip() or said[1] in FAILED):
            found.append(Report(said[1], said[2].strip() or NAMELESS, line))
    return found


@dataclass(frozen=True)
class Start(RunSpec):
    """All that a run is made of but its schedule, to be run in tests: a `RunSpec` whose runs are `GuestRun`s.

    Runs of the same scenario share one guest, which is booted once a process: a run ends the one before it.
    """

    def run(self, scheduler: Scheduler, name: str = "") -> GuestRun:
        """A run of it, to its end. A policy that does what none may is noted in the run, not raised.

        Args:
            scheduler: fresh.
            name: what to call it; empty for its own name.
        """
        session = self.session(scheduler, shared=True)
        before = len(session.machine.uart.sent)
        result, error = None, None
        try:
            result = session.run()
        except PolicyError as caught:
            error = caught
        serial = session.machine.uart.sent[before:].decode("utf-8", "replace").replace("\r", "")
        fired = tuple(session.injector.fired) if isinstance(session.injector, Injector) else ()
        return GuestRun(
            self,
            name or scheduler.name,
            session,
            result,
            serial,
            tuple(session.choices),
            fired,
            error,
            session.machine.time,
        )

    def recording_of(self, run: GuestRun) -> Recording:
        """What `kstack replay` repeats a run of this by.

        Raises:
            KstackError: the policy cannot be found again by a name.
        """
        choices = list(run.choices)
        if run.outcome is None:  # cut off where the policy failed
            return replace(self.head(), choices=pack(choices))
        return self.recording(choices, run.outcome)


@dataclass(frozen=True)
class GuestRun:
    """A run of a guest.

    Attributes:
        start: what was run.
        schedule: name of the schedule.
        session: it, at its end; the next run of the same scenario ends it.
        outcome: what it came to; None where the policy failed.
        serial: what the guest has printed since the run began.
        choices: of the schedule, as they were made.
        fired: for each fault, the virtual time (units) at which it happened; None where it has not.
        error: what the policy did that no policy may, or None.
        end: virtual time of its end (units).
    """

    start: Start
    schedule: str
    session: Session = field(repr=False)
    outcome: RunResult | None = field(repr=False)
    serial: str = field(repr=False)
    choices: tuple[Choice, ...] = field(repr=False)
    fired: tuple[int | None, ...] = ()
    error: PolicyError | None = None
    end: int = 0

    def __repr__(self) -> str:
        kind = self.start.kind
        under = "" if kind is None else f" under {kind.id}"
        failure = self.failure
        return f"<{self.start.image}{under}, {self.schedule}: {'passed' if failure is None else failure.kind}>"

    @property
    def result(self) -> RunResult:
        """What it came to.

        Raises:
            PolicyError: the policy failed before it came to anything.
        """
        if self.outcome is None:
            assert self.error is not None, "one of the two"
            raise self.error
        return self.outcome

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the oracle found, less what the scenario expects; a panic or a failed check it did not see is one too."""
        return unexpected(self.start.scenario, self.result)

    @property
    def reports(self) -> list[Report]:
        """The guest's own tests."""
        return reports(self.serial)

    @property
    def failure(self) -> Failure | None:
        """What is wrong with it; None if nothing is."""
        if self.error is not None:
            return Failure("policy failed", str(self.error))
        if self.findings:
            return Failure(self.findings[0].kind.value, self.findings[0].text)
        failed = [report.line for report in self.reports if report.verdict in FAILED]
        if failed and self.result.ended == "exit":
            return Failure(failed[0], failed[0])
        return self.bad_end

    @property
    def bad_end(self) -> Failure | None:
        """What is wrong with the guest's end, whatever it has reported; None if it has come to a good one."""
        result, scenario = self.result, self.start.scenario
        if result.ended != "exit":
            return Failure(result.ended, f"the guest did not end by itself, but by {result.ended}: {result.reason}")
        if not result.passed:
            return Failure(f"exit {result.exit_value}", f"the guest ended with exit value {result.exit_value}")
        if scenario is not None and scenario.success not in self.serial:
            return Failure("no success", f"it never printed {scenario.success!r}")
        return None

    @property
    def passed(self) -> bool:
        """Whether the guest ended well, and nothing unexpected was found."""
        return self.failure is None
