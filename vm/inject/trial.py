"""One trial: a scenario under a policy with a fault, against the same run without."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import Final, NamedTuple

import msgspec

from kstack.base.errors import ConfigError, PolicyError
from kstack.fault import Fault, Injector
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.kernels.scenario import Scenario
from kstack.machine import size
from kstack.recording import Recording, pack
from kstack.run.expected import unexpected
from kstack.run.options import RunOptions
from kstack.run.result import BOUND, WORK, RunResult
from kstack.run.session import Session
from kstack.run.spec import RunSpec, script_of
from kstack.sanitizer.findings import Finding, Kind
from kstack.schedule import RoundRobin, Scheduler, ScriptedSchedule

OUTCOMES: Final = ("masked", "detected", "wrong-data", "hang", "shutdown")
NOT_FIRED: Final = "not fired"
"""What a trial is counted as whose fault did not happen: no outcome, for nothing was tried."""
QUANTUM: Final = 200  # units a slice, where the scenario has no script
PATIENCE: Final = 4  # times as long as without the fault a run may take before it hangs
LEAST: Final = 100_000  # units, and at least so long
_WRONG: Final = frozenset({Kind.WRONG_DATA, Kind.DATA_LEAK})
_HANGS: Final = frozenset({Kind.DEADLOCK, Kind.LIVELOCK})


class Judged(NamedTuple):
    """What a run has come to: the outcome, who noticed, in words, and the kind of the finding that decides."""

    outcome: str
    by: str
    text: str
    kind: str | None


class TrialPair(NamedTuple):
    """What trials are made of: a policy and a scenario by name, and the machine's modes."""

    policy: str
    scenario: str
    modes: Modes = Modes()

    @property
    def setup(self) -> RunSpec:
        """A run of it without a fault."""
        scenario = usual_guests().scenario(self.scenario)
        options = RunOptions(scenario.max_instructions)
        return RunSpec(self.scenario, scenario.cpus, size(scenario.ram), self.modes, self.policy, options)

    def session(self, limit: int | None = None) -> Session:
        """A session of it, in the guest that this process has booted for it; it ends the session before it."""
        setup, scenario = self.setup, usual_guests().scenario(self.scenario)
        if limit is not None:
            setup = replace(setup, options=RunOptions(limit))
        return setup.session(schedule(scenario), shared=True)


def schedule(scenario: Scenario) -> Scheduler:
    """The scenario's script, else round robin."""
    return ScriptedSchedule(script_of(scenario)) if scenario.script else RoundRobin(QUANTUM)


class TrialOutcome(msgspec.Struct, frozen=True):
    """What came of a trial.

    Attributes:
        fault: what was to happen.
        site: where, in words.
        fired: virtual time at which it happened; None if it did not. Then the run is the one without it, `text` says why
            it did not, and `outcome` says nothing: it is no trial that was masked.
        outcome: one of OUTCOMES.
        by: who noticed: `guest`, `policy`, `oracle`, or nobody.
        text: what was noticed, in words.
        kind: of the finding, if there is one.
        time: virtual time of the run (units).
    """

    fault: Fault
    site: str
    fired: int | None
    outcome: str
    by: str
    text: str
    kind: str | None
    time: int

    @property
    def column(self) -> str:
        """What it is counted as: its outcome, or NOT_FIRED."""
        return NOT_FIRED if self.fired is None else self.outcome


class Usual(NamedTuple):
    """A run without a fault: virtual time that it takes (units), what it comes to, as in `TrialOutcome`, and what it says."""

    time: int
    outcome: str = "masked"
    by: str = "nobody"
    kind: str | None = None
    exit_value: int | None = None
    serial: str = ""


class Trial(NamedTuple):
    """A fault to be tried.

    Attributes:
        pair: policy and scenario.
        fault: what happens.
        site: where, in words.
        usual: the run without it.
    """

    pair: TrialPair
    fault: Fault
    site: str
    usual: Usual

    def run(self) -> TrialOutcome:
        """Try it.

        Raises:
            ConfigError: its place is inside an instruction.
        """
        return self._run()[0]

    @property
    def setup(self) -> RunSpec:
        """Of its run."""
        options = RunOptions(max(LEAST, PATIENCE * self.usual.time))
        return replace(self.pair.setup, options=options, faults=(self.fault,))

    def recorded(self) -> tuple[TrialOutcome, Recording]:
        """Try it; and what repeats it: without an end to compare with, where the policy failed."""
        outcome, session, result = self._run()
        if result is None:
            return outcome, msgspec.structs.replace(self.setup.head(), choices=pack(session.choices))
        return outcome, self.setup.recording(session.choices, result)

    def _run(self) -> tuple[TrialOutcome, Session, RunResult | None]:
        session = self.pair.session(self.setup.options.max_time)
        injector = Injector(session, [self.fault])
        try:
            result = session.run()
        except PolicyError as error:
            failed = Judged("detected", "policy", str(error), None)
            return self._outcome(injector, failed, session.machine.time), session, None
        found = judged(self.pair.scenario, result)
        compared = self._compared(result) if found.outcome == "masked" else found
        return self._outcome(injector, compared, result.time), session, result

    def _compared(self, result: RunResult) -> Judged:
        """Nobody has noticed anything: whether the guest says and prints what it does without the fault.

        Where it comes to no good end without the fault, it may say what it likes.
        """
        if self.usual.outcome != "masked":
            return Judged("masked", "nobody", "better than without the fault", None)
        if result.exit_value != self.usual.exit_value:
            text = f"the guest exits with {result.exit_value:#x}, and without the fault with {self.usual.exit_value or 0:#x}"
            return Judged("wrong-data", "nobody", text, None)
        if result.serial != self.usual.serial:
            lines = zip_longest(result.serial.split("\n"), self.usual.serial.split("\n"), fillvalue="")
            printed, wanted = next((here, there) for here, there in lines if here != there)
            return Judged(
                "wrong-data", "nobody", f"the guest prints {printed!r}, and without the fault {wanted!r}", None
            )
        return Judged("masked", "nobody", "", None)

    def _outcome(self, injector: Injector, found: Judged, time: int) -> TrialOutcome:
        outcome, by, text, kind = found
        misplaced = injector.misplaced(0)
        if misplaced is not None:
            raise ConfigError(f"fault {self.fault.what}: {misplaced}")
        if (outcome, by, kind) == (self.usual.outcome, self.usual.by, self.usual.kind) and outcome != "masked":
            outcome, by, text = "masked", "nobody", f"as without the fault: {text}"
        if outcome == "masked":
            text = injector.why(0) or text
        return TrialOutcome(self.fault, self.site, injector.fired[0], outcome, by, text, kind, time)


def judged(scenario: str, result: RunResult) -> Judged:
    """What a run has come to.

    The worst counts: shutdown, then wrong data, a hang, and what was only noticed. Data is wrong where the oracle sees it,
    also if the guest notices nothing, or hangs; where the guest's own check alone notices, the guest has detected it.
    """
    findings = tuple(
        found for found in unexpected(usual_guests().scenario(scenario), result) if found in result.findings
    )
    if result.ended == "shutdown":
        return Judged("shutdown", "oracle", _first(findings) or result.reason, _kind(findings))
    wrong = [found for found in findings if found.kind in _WRONG]
    if wrong:
        return Judged("wrong-data", "oracle", wrong[0].text, wrong[0].kind.value)
    if result.ended in (BOUND, WORK, "asleep", "deadlock") or any(found.kind in _HANGS for found in findings):
        return Judged("hang", "nobody", f"{result.ended} at {result.time}: {result.reason}", _kind(findings))
    panicked = any(
        line.startswith(result.exits.panic) for line in result.serial.split("\n")
    )  # another CPU may have ended the run
    if panicked or result.panicked or result.failed:
        return Judged("detected", "guest", result.last_words or result.reason, _kind(findings))
    if findings:
        return Judged("detected", "oracle", findings[0].text, findings[0].kind.value)
    return Judged("masked", "nobody", "", None)


def _first(findings: tuple[Finding, ...]) -> str:
    return findings[0].text if findings else ""


def _kind(findings: tuple[Finding, ...]) -> str | None:
    return findings[0].kind.value if findings else None
